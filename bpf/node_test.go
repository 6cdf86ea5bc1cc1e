package bpf

import (
	"cmp"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TCX verdicts (include/uapi/linux/bpf.h).
const (
	tcxNext     = 0xffffffff
	tcxDrop     = 2
	tcxRedirect = 7
)

// loopback is the device that PROG_TEST_RUN gives to packets: lo, without a MAC.
const loopback = 1

var noMAC mac

// bpffs mounts a BPF file system for the test.
func bpffs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs (tests of this package run as root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount bpffs: %v", err)
		}
	})
	return filepath.Join(dir, "weft")
}

// small gives the options that are not set: small maps.
func (o Options) small() Options {
	if o.Config == (Config{}) {
		o.Config = Config{VNI: 87, Port: 8872}
	}
	o.MaxEndpoints, o.MaxPeers = cmp.Or(o.MaxEndpoints, 16), cmp.Or(o.MaxPeers, 16)
	return o
}

// open opens a datapath with small maps, in a folder of its own unless o names one.
func open(t testing.TB, o Options) *Datapath {
	t.Helper()
	if o.Dir == "" {
		o.Dir = bpffs(t)
	}
	d := openOrFail(t, o.small())
	t.Cleanup(func() { d.Close() })
	return d
}

func openOrFail(t testing.TB, o Options) *Datapath {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			t.Fatalf("%+v", v)
		}
		t.Fatal(err)
	}
	return d
}

// node is a datapath with the rows of one node of a two-node cluster.
type node struct {
	*Datapath
	outer4, outer6 netip.Addr
	pod4, pod6     netip.Addr // a local pod behind loopback
	sib4, sib6     netip.Addr // another one
	podMAC, sibMAC mac
	sibHost        mac
	gw4, gw6       netip.Addr
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// newNode makes node n (1 or 2).
func newNode(t testing.TB, n byte) *node { return newNodeWith(t, n, Options{}) }

func newNodeWith(t testing.TB, n byte, o Options) *node {
	t.Helper()
	d := newUncheckedNode(t, n, o)
	recordsDrops(t, d.Datapath)
	return d
}

// newUncheckedNode is for tests that read the records themselves.
func newUncheckedNode(t testing.TB, n byte, o Options) *node {
	t.Helper()
	v4 := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, n, last}) }
	v6 := func(last byte) netip.Addr {
		return netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 0, n, 15: last})
	}
	out6 := addr("2001:db8::").As16()
	out6[15] = n
	d := &node{
		Datapath: openShared(t, o),
		outer4:   netip.AddrFrom4([4]byte{192, 0, 2, n}), outer6: netip.AddrFrom16(out6),
		gw4: v4(1), gw6: v6(1), pod4: v4(5), pod6: v6(5), sib4: v4(6), sib6: v6(6),
		podMAC: mac{2, 0, 0, n, 0, 5}, sibMAC: mac{2, 0, 0, n, 0, 6}, sibHost: mac{2, 0, 0, n, 1, 6},
	}
	pod := Endpoint{IfIndex: loopback, MAC: d.podMAC}
	sib := Endpoint{IfIndex: 77, MAC: d.sibMAC, HostMAC: d.sibHost}
	host := Endpoint{Flags: EndpointHost}
	for a, e := range map[netip.Addr]Endpoint{
		d.pod4: pod, d.pod6: pod, d.sib4: sib, d.sib6: sib,
		d.gw4: host, d.gw6: host, d.outer4: host, d.outer6: host,
	} {
		must(t, d.Endpoints().Set(a, e))
	}
	return d
}

// knows makes other a peer of n, over outer IPv4 or IPv6.
func (n *node) knows(t testing.TB, other *node, outer6 bool) {
	t.Helper()
	p := Peer{
		Remote: other.outer4, Local: n.outer4, NextHop: other.outer4,
		MAC: mac{0x0e, 0x57, 9, 9, 9, 9}, LinkIndex: loopback, MTU: 1450,
	}
	if outer6 {
		p.Remote, p.Local, p.NextHop, p.MTU = other.outer6, n.outer6, other.outer6, 1430
	}
	for _, a := range []netip.Addr{other.pod4, other.pod6} {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		must(t, n.Peers().Set(netip.PrefixFrom(a, bits).Masked(), p))
	}
}

// flagPod sets the flags of the pod behind an address.
func (n *node) flag(t testing.TB, a netip.Addr, flags uint32) {
	t.Helper()
	rows, err := n.Endpoints().Dump()
	must(t, err)
	e := rows[a]
	e.Flags = flags
	must(t, n.Endpoints().Set(a, e))
}

// skbContext is the part of struct __sk_buff that PROG_TEST_RUN lets us set.
type skbContext struct {
	_              [36]byte
	IngressIfindex uint32 // offset 36
	_              [124]byte
	GSOSegs        uint32 // offset 164
	_              [8]byte
	GSOSize        uint32 // offset 176
	_              [12]byte
}

// run runs one program on one packet.
func (d *Datapath) run(t testing.TB, p Program, in []byte, gso uint32) (verdict uint32, out []byte) {
	t.Helper()
	o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
	if gso > 0 {
		o.Context = skbContext{GSOSegs: 2, GSOSize: gso}
	}
	verdict, err := d.programs[p].Run(&o)
	if err != nil {
		t.Fatalf("run %s on %d bytes: %v", p, len(in), err)
	}
	return verdict, o.DataOut
}

// counts are the counters that are not zero.
func (d *Datapath) counts(t testing.TB) map[string]uint64 {
	t.Helper()
	cs, err := d.Counters()
	must(t, err)
	out := map[string]uint64{}
	for _, c := range cs {
		if c.Count > 0 {
			out[c.Kind+" "+c.Reason] = c.Count
		}
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
