package bpf

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var testRow = Endpoint{IfIndex: 7, MAC: mac{2, 0, 0, 0, 0, 7}, HostMAC: mac{2, 0, 0, 0, 1, 7}, Flags: EndpointStack, Ingress: 1 << 63, Egress: RuleSetClosed}

// addrs lets go-cmp look into addresses.
var addrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestRowsReadAsWritten(t *testing.T) {
	t.Parallel()
	d := open(t, Options{})
	endpoints := map[netip.Addr]Endpoint{
		addr("10.244.1.5"):     testRow,
		addr("fd00:244:1::5"):  testRow,
		addr("10.244.1.1"):     {Flags: EndpointHost},
		addr("2001:db8::ffff"): {Flags: EndpointHost},
	}
	for a, e := range endpoints {
		must(t, d.Endpoints().Set(a, e))
		must(t, d.Endpoints().Set(a, e))
	}
	got, err := d.Endpoints().Dump()
	must(t, err)
	if diff := cmp.Diff(got, endpoints, addrs); diff != "" {
		t.Errorf("endpoints (-got +want):\n%s", diff)
	}
	v4 := Peer{Remote: addr("192.0.2.2"), Local: addr("192.0.2.1"), NextHop: addr("192.0.2.254"), MAC: mac{0x0e, 0x57, 1}, LinkIndex: 3, MTU: 1450}
	v6 := Peer{Remote: addr("2001:db8::2"), Local: addr("2001:db8::1"), NextHop: addr("fe80::1"), LinkIndex: 4, MTU: 1430, Flags: PeerDirect}
	away := Peer{Remote: addr("192.0.2.3"), Local: addr("192.0.2.1")} // no way there now
	peers := map[netip.Prefix]Peer{
		netip.MustParsePrefix("10.244.2.0/24"):   v4,
		netip.MustParsePrefix("10.244.3.0/25"):   away,
		netip.MustParsePrefix("0.0.0.0/0"):       v4,
		netip.MustParsePrefix("fd00:244:2::/64"): v6,
		netip.MustParsePrefix("::/0"):            v6,
	}
	for p, v := range peers {
		must(t, d.Peers().Set(p, v))
	}
	gotPeers, err := d.Peers().Dump()
	must(t, err)
	if diff := cmp.Diff(gotPeers, peers, addrs); diff != "" {
		t.Errorf("peers (-got +want):\n%s", diff)
	}
	for a := range endpoints {
		must(t, d.Endpoints().Delete(a))
		must(t, d.Endpoints().Delete(a))
	}
	for p := range peers {
		must(t, d.Peers().Delete(p))
		must(t, d.Peers().Delete(p))
	}
	got, _ = d.Endpoints().Dump()
	gotPeers, _ = d.Peers().Dump()
	if len(got)+len(gotPeers) > 0 {
		t.Errorf("after deletion there are %v and %v", got, gotPeers)
	}
	for name, p := range map[string]Peer{
		"ends of two families": {Remote: addr("192.0.2.2"), Local: addr("2001:db8::1")},
		"no ends":              {},
		"link without a hop":   {Remote: addr("192.0.2.2"), Local: addr("192.0.2.1"), LinkIndex: 3},
		"IPv6 by IPv4":         {Remote: addr("2001:db8::2"), Local: addr("2001:db8::1"), LinkIndex: 3, NextHop: addr("192.0.2.254")},
	} {
		if err := d.Peers().Set(netip.MustParsePrefix("10.0.0.0/8"), p); err == nil {
			t.Errorf("a peer was accepted: %s", name)
		}
	}
}

func TestFullMapRefusesWhatIsNew(t *testing.T) {
	t.Parallel()
	d := open(t, Options{MaxEndpoints: 2, MaxPeers: 2})
	p := Peer{Remote: addr("192.0.2.2"), Local: addr("192.0.2.1")}
	var errE, errP error
	for i := range 3 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i), 1})
		errE = d.Endpoints().Set(a, testRow)
		errP = d.Peers().Set(netip.PrefixFrom(a, 24), p)
	}
	if !errors.Is(errE, ErrFull) || !errors.Is(errP, ErrFull) {
		t.Errorf("third row: %v and %v, want ErrFull", errE, errP)
	}
	if err := d.Endpoints().Set(addr("10.0.0.1"), Endpoint{IfIndex: 9}); err != nil {
		t.Errorf("change of a row in a full map: %v", err)
	}
	got, err := d.Endpoints().Dump()
	must(t, err)
	want := map[netip.Addr]Endpoint{addr("10.0.0.1"): {IfIndex: 9}, addr("10.0.1.1"): testRow}
	if diff := cmp.Diff(got, want, addrs); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
}

func TestRestartAdoptsPinnedMaps(t *testing.T) {
	t.Parallel()
	o := Options{Dir: bpffs(t)}
	d := open(t, o)
	must(t, d.Endpoints().Set(addr("10.244.1.5"), testRow))
	must(t, d.Close())
	again := open(t, o)
	if d.Layout() != again.Layout() {
		t.Errorf("layout %s after restart, was %s", again.Layout(), d.Layout())
	}
	got, err := again.Endpoints().Dump()
	must(t, err)
	if diff := cmp.Diff(got, map[netip.Addr]Endpoint{addr("10.244.1.5"): testRow}, addrs); diff != "" {
		t.Errorf("rows after restart (-got +want):\n%s", diff)
	}
	// Another port is another configuration, not another layout.
	o.Config = Config{VNI: 99, Port: 9999}
	if other := open(t, o); other.Layout() != d.Layout() {
		t.Errorf("layout changes with the configuration")
	}
	o.MaxPeers = 33
	if other := open(t, o); other.Layout() == d.Layout() {
		t.Errorf("layout does not change with the size of a map")
	}
}

func TestDamagedPinsArePutRight(t *testing.T) {
	t.Parallel()
	o := Options{Dir: bpffs(t)}
	d := open(t, o)
	must(t, d.Endpoints().Set(addr("10.244.1.5"), testRow))
	// A pin that is removed while the daemon runs comes back with the same map.
	must(t, os.Remove(d.pin(weftMapEndpoints)))
	_, err := d.Endpoints().Dump()
	must(t, err)
	got, err := open(t, o).Endpoints().Dump()
	must(t, err)
	if len(got) != 1 {
		t.Errorf("after the pin was removed: rows %v", got)
	}
	// A pin that holds something else is replaced.
	must(t, os.Remove(d.pin(weftMapPeers)))
	wrong, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer wrong.Close()
	must(t, wrong.Pin(d.pin(weftMapPeers)))
	again := open(t, o)
	if _, err := again.Peers().Dump(); err != nil {
		t.Errorf("after a foreign map was pinned in our place: %v", err)
	}
}

func TestSelfTestPassesAndChangesNothing(t *testing.T) {
	t.Parallel()
	d := open(t, Options{})
	must(t, d.SelfTest())
	if diff := cmp.Diff(d.counts(t), map[string]uint64{}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
	rows, err := d.Endpoints().Dump()
	if err != nil || len(rows) > 0 {
		t.Errorf("rows %v, error %v", rows, err)
	}
}

// A daemon that comes after does not load programs again to test what has passed; another one's do.
func TestSelfTestIsDoneOnce(t *testing.T) {
	next := func() ebpf.ProgramID { // ids are given one after the other
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		must(t, err)
		defer p.Close()
		info, err := p.Info()
		must(t, err)
		id, _ := info.ID()
		return id
	}
	loads := func(d *Datapath) bool {
		for range 50 { // others may load programs just then
			before := next()
			must(t, d.SelfTest())
			if next() == before+1 {
				return false
			}
		}
		return true
	}
	o := Options{Dir: bpffs(t)}
	d := open(t, o)
	must(t, os.Mkdir(d.pin("tested-0123456789ab"), 0o700)) // of another version
	before := next()
	must(t, d.SelfTest())
	if next() < before+3 {
		t.Error("no copy of the programs was tested")
	}
	if left, _ := filepath.Glob(d.pin("tested-*")); !slices.Equal(left, []string{d.tested()}) {
		t.Errorf("marks %v", left)
	}
	if loads(open(t, o)) {
		t.Error("a daemon that comes after tests them again")
	}
}

func TestEveryCounterHasAName(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r, name := range reasons {
		if (name == "") != (r == 0) {
			t.Errorf("reason %d has the name %q", r, name)
		}
		if seen[name] {
			t.Errorf("two reasons are called %q", name)
		}
		seen[name] = true
	}
}

func TestPreflightSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	if err := Preflight(bpffs(t)); err != nil {
		t.Errorf("on a bpffs: %v", err)
	}
	for dir, want := range map[string]string{
		filepath.Join(t.TempDir(), "not/there"): "mount -t bpf",
		"relative":                              "not an absolute path",
	} {
		if err := Preflight(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Preflight(%q) = %v, want one that says %q", dir, err, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{},
		{Dir: "/x", Config: Config{Port: 1}},
		{Dir: "/x", Config: Config{VNI: 1<<24 - 1, Port: 1}},
		{Dir: "/x", Config: Config{VNI: 1}},
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("Open(%+v) succeeded", o)
		}
	}
}

// Every program in every configuration stays far from the kernel's limit of a
// million instructions, so that no kernel's verifier refuses it.
func TestVerifierGate(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	for _, c := range []Config{{VNI: 87, Port: 8872}, {VNI: 87, Port: 8872, Netfilter: true}, {VNI: 1, Port: 1}, {VNI: 1<<24 - 2, Port: 65535}} {
		for _, size := range []uint32{1, 100_000} {
			d := open(t, Options{Config: c, MaxEndpoints: size, MaxPeers: size})
			for name, p := range d.programs {
				info, err := p.Info()
				must(t, err)
				n, ok := info.VerifiedInstructions()
				if !ok || n == 0 || n >= limit {
					t.Errorf("%s with %+v: %d instructions processed (known: %v), want below %d", name, c, n, ok, limit)
				}
				if c.VNI == 87 && size == 1 {
					t.Logf("%s, netfilter %v: %d instructions processed", name, c.Netfilter, n)
				}
			}
		}
	}
}
