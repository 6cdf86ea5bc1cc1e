package plugin_test

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/internal/api"
)

func TestVersion(t *testing.T) {
	a := cni(t, "VERSION", `{"cniVersion":"1.1.0"}`)
	a.wantOK(t)
	var v struct{ SupportedVersions []string }
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v.SupportedVersions, []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}); diff != "" {
		t.Errorf("supported versions, got (-), want (+):\n%s", diff)
	}
}

func TestAddGivesTheResultInTheVersionAskedFor(t *testing.T) {
	for version, want := range map[string]string{
		"0.3.1": `"version":"4"`, "0.4.0": `"version":"6"`, "1.0.0": `"sandbox":"/x"`, "1.1.0": `"mtu":1450`,
	} {
		t.Run(version, func(t *testing.T) {
			d := startDaemon(t)
			a := cni(t, "ADD", d.conf(version))
			a.wantOK(t)
			var v any
			if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
				t.Fatal(err)
			}
			b, _ := json.Marshal(v)
			if a.version != version || !strings.Contains(string(b), want) {
				t.Errorf("result of version %q, without %s: %s", a.version, want, b)
			}
			if has := strings.Contains(string(b), "mtu"); has != (version == "1.1.0") {
				t.Errorf("result has mtu: %v: %s", has, b)
			}
		})
	}
}

func TestAddPassesOnWhatTheRuntimeAsks(t *testing.T) {
	d := startDaemon(t)
	a := cni(t, "ADD", d.conf("1.1.0",
		`"capabilities":{"ips":true}`, `"cni.dev/x":1`, `"ipam":{}`, `"dns":{"domain":"x.test","nameservers":["9.9.9.9"]}`,
		`"args":{"cni":{"labels":[{"key":"app","value":"web"}],"ips":["10.0.0.9"]}}`,
		`"runtimeConfig":{"ips":["10.244.1.9/24","fd00:244:1::9"],"mac":"02:11:22:33:44:55","cgroupPath":"/x","aliases":["a"],
		 "portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":"192.0.2.1"}],
		 "bandwidth":{"ingressRate":1000000,"ingressBurst":4294967295,"egressRate":2000000,"egressBurst":1},
		 "dns":{"servers":["10.96.0.10"],"searches":["a.test"],"options":["ndots:5"]}}`,
		`"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"lo","sandbox":"/x"}],"ips":[{"address":"127.0.0.1/8","interface":0}]}`),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u;OTHER=1")
	a.wantOK(t)
	want := api.Attach{
		ContainerID: "c1", IfName: "eth0", Netns: "/no/such/netns", Network: "weft",
		PodNamespace: "ns", PodName: "p", PodUID: "u", Labels: map[string]string{"app": "web"},
		IPs:          []netip.Addr{netip.MustParseAddr("10.244.1.9"), netip.MustParseAddr("fd00:244:1::9")},
		MAC:          "02:11:22:33:44:55",
		PortMappings: []api.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "192.0.2.1"}},
		Bandwidth:    &api.Bandwidth{IngressRate: 1e6, IngressBurst: 1<<32 - 1, EgressRate: 2e6, EgressBurst: 1},
	}
	got := d.attach(t)
	if diff := cmp.Diff(got, want, cmpopts.IgnoreFields(api.Attach{}, "DNS", "PrevResult"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("daemon got (-), want (+):\n%s", diff)
	}
	if want := `{"nameservers":["10.96.0.10"],"domain":"x.test","search":["a.test"],"options":["ndots:5"]}`; string(got.DNS) != want {
		t.Errorf("dns is %s, want %s", got.DNS, want)
	}
	if !strings.Contains(string(got.PrevResult), `"127.0.0.1/8"`) {
		t.Errorf("prevResult is %s", got.PrevResult)
	}
}

// A chain of an older version hands over a prevResult of that version.
func TestOldPrevResultReachesTheDaemonAsOneOf110(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} {
		d := startDaemon(t)
		prev := cni(t, "ADD", d.conf(version)).stdout
		cni(t, "ADD", d.conf(version, `"prevResult":`+prev)).wantOK(t)
		var r struct {
			CNIVersion string
			IPs        []struct{ Address string }
		}
		if err := json.Unmarshal(d.attach(t).PrevResult, &r); err != nil {
			t.Fatal(err)
		}
		if r.CNIVersion != "1.1.0" || len(r.IPs) != 2 || r.IPs[0].Address != "10.244.1.2/32" {
			t.Errorf("%s: daemon got prevResult %+v", version, r)
		}
	}
}

// The table of what is refused before the daemon hears of it.
func TestRefusals(t *testing.T) {
	d := startDaemon(t)
	ok, long := d.conf("1.1.0"), strings.Repeat("x", 250)
	for _, tc := range []struct {
		name, verb, conf string
		env              []string
		code             uint
		text             string
	}{
		{"not JSON", "ADD", `{"cniVersion":`, nil, 6, ""},
		{"empty stdin", "ADD", ``, nil, 6, ""},
		{"not an object", "ADD", `[]`, nil, 6, ""},
		{"DEL, not JSON", "DEL", `nonsense`, nil, 6, ""},
		{"STATUS, not JSON", "STATUS", `nonsense`, nil, 6, ""},
		{"no name", "ADD", `{"cniVersion":"1.1.0","type":"weft-cni"}`, nil, 7, "name"},
		{"old version", "ADD", d.conf("0.2.0"), nil, 1, "incompatible"},
		{"new version", "ADD", d.conf("9.9.9"), nil, 1, "incompatible"},
		{"no version", "DEL", `{"name":"weft"}`, nil, 1, "incompatible"},
		{"CHECK below 0.4.0", "CHECK", d.conf("0.3.1"), nil, 1, "CHECK"},
		{"GC below 1.1.0", "GC", d.conf("1.0.0"), nil, 1, "GC"},
		{"STATUS below 1.1.0", "STATUS", d.conf("1.0.0"), nil, 1, "STATUS"},
		{"unknown key", "ADD", d.conf("1.1.0", `"scoket":"/x"`), nil, 7, `"scoket"`},
		{"unknown key, CHECK", "CHECK", d.conf("1.1.0", `"bridge":"x"`), nil, 7, `"bridge"`},
		{"unknown key, STATUS", "STATUS", d.conf("1.1.0", `"bridge":"x"`), nil, 7, `"bridge"`},
		{"socket of a wrong type", "ADD", `{"cniVersion":"1.1.0","name":"weft","socket":5}`, nil, 7, `"socket"`},
		{"relative path", "ADD", `{"cniVersion":"1.1.0","name":"weft","stateDir":"x"}`, nil, 7, `"stateDir"`},
		{"IPAM plugin", "ADD", d.conf("1.1.0", `"ipam":{"type":"host-local"}`), nil, 7, `"ipam"`},
		{"CHECK without prevResult", "CHECK", ok, nil, 7, "prevResult"},
		{"half a prevResult", "ADD", d.conf("1.1.0", `"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"x"}]}`), nil, 7, `"prevResult"`},
		{"GC without a list", "GC", ok, nil, 7, "cni.dev/valid-attachments"},
		{"GC with a wrong list", "GC", d.conf("1.1.0", `"cni.dev/valid-attachments":5`), nil, 7, "cni.dev/valid-attachments"},
		{"bad address", "ADD", d.conf("1.1.0", `"runtimeConfig":{"ips":["10.0.0.256"]}`), nil, 7, "10.0.0.256"},
		{"bad prefix", "ADD", d.conf("1.1.0", `"runtimeConfig":{"ips":["10.0.0.2/33"]}`), nil, 7, "10.0.0.2/33"},
		{"bad MAC", "ADD", d.conf("1.1.0", `"runtimeConfig":{"mac":"zz"}`), nil, 7, "mac"},
		{"multicast MAC", "ADD", d.conf("1.1.0", `"runtimeConfig":{"mac":"01:00:00:00:00:01"}`), nil, 7, "mac"},
		{"bad port", "ADD", d.conf("1.1.0", `"runtimeConfig":{"portMappings":[{"hostPort":70000,"containerPort":1}]}`), nil, 7, "70000"},
		{"bad protocol", "ADD", d.conf("1.1.0", `"runtimeConfig":{"portMappings":[{"hostPort":7,"containerPort":1,"protocol":"icmp"}]}`), nil, 7, "icmp"},
		{"negative bandwidth", "ADD", d.conf("1.1.0", `"runtimeConfig":{"bandwidth":{"ingressRate":-1}}`), nil, 7, "bandwidth"},
		{"no command", "", ok, []string{"CNI_COMMAND=FROB"}, 4, "FROB"},
		{"no container", "ADD", ok, []string{"CNI_CONTAINERID="}, 4, "CNI_CONTAINERID"},
		{"bad container", "ADD", ok, []string{"CNI_CONTAINERID=a/../b"}, 4, ""},
		{"long container", "ADD", ok, []string{"CNI_CONTAINERID=" + long}, 4, "container ID"},
		{"no netns", "ADD", ok, []string{"CNI_NETNS="}, 4, "CNI_NETNS"},
		{"no ifname", "DEL", ok, []string{"CNI_IFNAME="}, 4, "CNI_IFNAME"},
		{"long ifname", "ADD", ok, []string{"CNI_IFNAME=abcdefghijklmnop"}, 4, ""},
		{"ifname with a slash", "ADD", ok, []string{"CNI_IFNAME=a/b"}, 4, ""},
		{"no path", "STATUS", ok, []string{"CNI_PATH="}, 4, "CNI_PATH"},
		{"bad args", "ADD", ok, []string{"CNI_ARGS=novalue"}, 4, "CNI_ARGS"},
		{"unknown args", "ADD", ok, []string{"CNI_ARGS=FOO=1"}, 4, "CNI_ARGS"},
		{"host's netns", "ADD", ok, []string{"CNI_NETNS=/proc/self/ns/net"}, 8, "host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := cni(t, tc.verb, tc.conf, tc.env...)
			a.wantCode(t, tc.code, tc.text)
			if strings.Contains(a.stderr, "cniVersion") {
				t.Errorf("stderr shows the configuration: %s", a.stderr)
			}
		})
	}
	if len(d.calls) != 0 {
		t.Errorf("daemon was called: %v", d.calls)
	}
}

func TestDaemonsErrorsKeepTheirCode(t *testing.T) {
	d := startDaemon(t)
	d.err = &api.Error{Code: api.CodeMissing, Msg: "route is missing", Details: "10.244.1.2"}
	prev := `"prevResult":` + daemonsResult
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC"} {
		a := cni(t, verb, d.conf("1.1.0", prev, `"cni.dev/valid-attachments":[]`))
		a.wantCode(t, api.CodeMissing, "route is missing: 10.244.1.2")
	}
	d.err = &api.Error{Code: api.CodeUnknown, Msg: "no such container"}
	cni(t, "DEL", d.conf("1.1.0")).wantOK(t)
}

// tombstone is the file that a DEL without daemon leaves.
func (d *daemon) tombstone(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.state, api.TombstoneDir, fmt.Sprintf("%x.json", sha1.Sum([]byte("c1/eth0")))))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestDelLeavesATombstoneWithoutDaemon(t *testing.T) {
	for name, start := range map[string]func(*testing.T, string){
		"dead": func(*testing.T, string) {}, "hung": hang,
		"dies while asked": func(t *testing.T, socket string) { dropAll(t, socket) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := noDaemon(t)
			start(t, d.socket)
			// Neither netns nor prevResult, keys that are unknown by now, and twice.
			quickest(t, 2, 5*time.Second, func() answer {
				a := cni(t, "DEL", d.conf("1.0.0", `"gone":1`, `"prevResult":7`), "CNI_NETNS=", "CNI_ARGS=FOO")
				a.wantOK(t)
				if a.stdout != "" {
					t.Errorf("DEL wrote %q", a.stdout)
				}
				return a
			})
			if got, want := d.tombstone(t), `{"containerID":"c1","ifname":"eth0","network":"weft"}`; got != want {
				t.Errorf("tombstone is %s, want %s", got, want)
			}
		})
	}
}

func TestDelIsRetriedWhereNothingCanBeNoted(t *testing.T) {
	d := noDaemon(t)
	if err := os.WriteFile(d.state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cni(t, "DEL", d.conf("1.1.0")).wantCode(t, api.CodeIO, "DEL")
}

func TestDelTakesAnyNetns(t *testing.T) {
	d := startDaemon(t)
	for _, netns := range []string{"", "/no/such/netns", "/dev/null"} {
		cni(t, "DEL", d.conf("1.1.0"), "CNI_NETNS="+netns).wantOK(t)
	}
	if len(d.calls) != 3 {
		t.Errorf("daemon heard of %v, want three DELs", d.calls)
	}
}

func TestWithoutDaemonTheRuntimeIsToldToTryAgain(t *testing.T) {
	d := noDaemon(t)
	for _, verb := range []string{"ADD", "CHECK", "GC"} {
		a := cni(t, verb, d.conf("1.1.0", `"prevResult":`+daemonsResult, `"cni.dev/valid-attachments":[]`))
		a.wantCode(t, api.CodeTryAgain, d.socket)
	}
}

func TestStatus(t *testing.T) {
	// STATUS waits for some milliseconds only, and the daemon is a goroutine: on a busy machine
	// its answer may be late, and is asked for again.
	answered := func(d *daemon) (a answer) {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			a = cni(t, "STATUS", d.conf("1.1.0"))
			if late := a.exit == 0 && d.err != nil || strings.Contains(a.stdout, "does not answer"); !late {
				break
			}
		}
		return a
	}
	answered(startDaemon(t)).wantOK(t)
	for code, want := range map[uint]uint{50: 50, 51: 51, 100: 50, 11: 50} {
		d := startDaemon(t)
		d.err = &api.Error{Code: code, Msg: "pool is empty"}
		answered(d).wantCode(t, want, "pool is empty")
	}
}

// The runtime would make a busy node one that is not ready.
func TestStatusOfABusyDaemon(t *testing.T) {
	d := startDaemon(t)
	d.hold = make(chan struct{})
	defer close(d.hold)
	var done atomic.Bool
	defer done.Store(true)
	go func() { // the daemon's process is this one
		for !done.Load() {
		}
	}()
	for range 5 {
		cni(t, "STATUS", d.conf("1.1.0")).wantOK(t)
	}
}

// quickest makes a call some times, and wants the quickest to take no longer than most. The
// machine may be busy, and then it is made more often: a plugin that waits for the daemon is
// slow each time.
func quickest(t *testing.T, times int, most time.Duration, call func() answer) {
	t.Helper()
	least := time.Duration(math.MaxInt64)
	for end := time.Now().Add(20 * time.Second); times > 0 || least > most && time.Now().Before(end); times-- {
		least = min(least, call().took)
	}
	if least > most {
		t.Errorf("the quickest call took %s, want %s at most", least, most)
	}
}

func TestStatusIsQuickWithoutDaemon(t *testing.T) {
	for name, start := range map[string]func(*testing.T, string){
		"dead": func(*testing.T, string) {}, "hung": hang,
		"blocked": func(t *testing.T, socket string) { blocked(t, socket) },
	} {
		t.Run(name, func(t *testing.T) {
			d := noDaemon(t)
			start(t, d.socket)
			want := uint(api.CodeNotAvailable)
			for range 2 {
				quickest(t, 5, 50*time.Millisecond, func() answer {
					a := cni(t, "STATUS", d.conf("1.1.0"), "CNI_CONTAINERID=", "CNI_IFNAME=", "CNI_NETNS=")
					a.wantCode(t, want, "")
					return a
				})
				dir := filepath.Join(d.state, api.AttachmentDir)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "x.json"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				want = api.CodeLimited
			}
		})
	}
}

func TestGCReadsBothKeys(t *testing.T) {
	d := startDaemon(t)
	list := func(ids ...string) string {
		var s []string
		for _, id := range ids {
			s = append(s, fmt.Sprintf(`{"containerID":%q,"ifname":"eth0"}`, id))
		}
		return "[" + strings.Join(s, ",") + "]"
	}
	for name, tc := range map[string]struct {
		keys []string
		want []api.Ref
	}{
		"specification": {[]string{`"cni.dev/valid-attachments":` + list("a", "b")}, []api.Ref{ref("a"), ref("b")}},
		"legacy":        {[]string{`"cni.dev/attachments":` + list("a")}, []api.Ref{ref("a")}},
		"both":          {[]string{`"cni.dev/attachments":` + list("a", "c"), `"cni.dev/valid-attachments":` + list("a", "b")}, []api.Ref{ref("a"), ref("b"), ref("c")}},
		"empty":         {[]string{`"cni.dev/valid-attachments":[]`}, []api.Ref{}},
		"null":          {[]string{`"cni.dev/valid-attachments":null`}, []api.Ref{}},
	} {
		t.Run(name, func(t *testing.T) {
			cni(t, "GC", d.conf("1.1.0", tc.keys...), "CNI_CONTAINERID=", "CNI_IFNAME=", "CNI_NETNS=").wantOK(t)
			if diff := cmp.Diff(d.last, api.GC{Network: "weft", Valid: tc.want}); diff != "" {
				t.Errorf("daemon got (-), want (+):\n%s", diff)
			}
		})
	}
}

func ref(id string) api.Ref { return api.Ref{ContainerID: id, IfName: "eth0"} }
