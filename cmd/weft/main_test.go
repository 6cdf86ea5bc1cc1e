package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/api/server"
)

type node struct{ ready bool }

func (n node) Status() api.Status {
	s := api.Status{
		Node: "n1", Version: "v0.1", Ready: n.ready, Problems: []api.Problem{}, Source: "dir:/cluster", Synced: n.ready,
		Overlay: "vxlan", Layout: "abc123", MTU: 1450,
		Pools:    []api.Pool{{Prefix: netip.MustParsePrefix("10.244.1.0/24"), Used: 2, Cooling: 1, Size: "253"}},
		Peers:    2,
		Pods:     2,
		Counters: []api.Counter{{Kind: "drop", Reason: "spoofed", Count: 7}},
		Tables:   []api.Table{{Name: "routes", Rows: 5, Repairs: 1}, {Name: "peers", Rows: 4, Error: "no space\nleft"}},
	}
	if !n.ready {
		s.Announce = api.Announcements{Addresses: 3, Own: 2, Dead: []string{"n7"}}
		s.Problems = append(s.Problems, api.Problem{What: "no-pod-cidr", Text: "Node n1 has no spec.podCIDRs"})
	}
	return s
}

func (node) Endpoints() []api.Endpoint {
	return []api.Endpoint{
		{
			Ref: api.Ref{ContainerID: "0123456789abcdef", IfName: "eth0"}, PodNamespace: "default", PodName: "web",
			IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244:1::2")},
			MAC: "02:00:00:00:00:01", HostIf: "weft0123456789a", MTU: 1450, State: "ok",
		},
		{Ref: api.Ref{ContainerID: "c2", IfName: "net1"}, HostIf: "weftaaaaaaaaaaa", MTU: 1450, State: "ok"},
	}
}

func (node) Nodes() []api.Node {
	return []api.Node{
		{Name: "n2", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}, Addr: netip.MustParseAddr("192.0.2.2"),
			Via: "vxlan", Link: "eth0", MTU: 1450, Reach: "ok", RTT: "0.2ms"},
		{Name: "n1", Self: true},
	}
}

func (node) Services(name string) ([]api.Service, error) {
	web := api.Service{
		Namespace: "default", Name: "web", Type: "NodePort", Served: true,
		Fronts: []api.ServiceFront{
			{Addr: "10.96.0.10", Port: 80, Protocol: "TCP", Kind: "ClusterIP", Policy: "Cluster", Ready: 2, Total: 3},
			{Addr: "*", Port: 30080, Protocol: "TCP", Kind: "NodePort", Policy: "Local", Ready: 0, Total: 1},
			{Addr: "fd00:96::10", Port: 80, Protocol: "TCP", Kind: "ClusterIP", Policy: "Cluster", Ready: 1, Total: 1},
		},
		Problems: []string{"port http: the node has no IPv6 address for its nodePort 30080"},
	}
	switch name {
	case "":
		return []api.Service{web, {Namespace: "default", Name: "dns", Type: "ExternalName"}}, nil
	case "lb":
		return []api.Service{{
			Namespace: "default", Name: "lb", Type: "LoadBalancer", Served: true,
			Fronts: []api.ServiceFront{
				{Addr: "10.96.0.11", Port: 80, Protocol: "TCP", Kind: "ClusterIP", Policy: "Cluster", Ready: 1, Total: 1},
				{Addr: "192.0.2.1", Port: 80, Protocol: "TCP", Kind: "LB", Policy: "Cluster", Ready: 1, Total: 1, Announcer: "n2"},
			},
		}}, nil
	case "web", "default/web":
		web.Backends = []api.ServiceBackend{
			{Port: "http", Addr: "10.244.1.2:8080", Protocol: "TCP", State: "ready", Flows: 7, Node: "n1", Pod: "default/web-1"},
			{Port: "http", Addr: "10.244.2.2:8080", Protocol: "TCP", State: "terminating", Node: "n2", Zone: "z"},
		}
		return []api.Service{web}, nil
	}
	return nil, &api.Error{Code: api.CodeUnknown, Msg: "there is no Service " + name}
}

func (n node) FindServices(api.ServiceQuery) (api.ServicePage, error) {
	list, err := n.Services("")
	return api.ServicePage{Found: len(list), Services: list}, err
}

func (n node) WatchedService(name string) ([]api.Service, error) { return n.Services(name) }

// serve answers on a socket until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return socket
}

func weft(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestTables(t *testing.T) {
	ready, waiting := serve(t, server.Handler(noCNI{}, node{true}, nil)), serve(t, server.Handler(noCNI{}, node{}, nil))
	for _, tc := range []struct {
		name, verb, socket, want string
		code                     int
	}{
		{"status", "status", ready, `
Node      n1 (ready)
Daemon    v0.1, up ?
Source    dir:/cluster (synced)
Overlay   vxlan, pod MTU 1450, map layout abc123
Peers     2
Pods      2

POOL            USED   COOLING   SIZE
10.244.1.0/24   2      1         253

PACKETS   REASON    COUNT
drop      spoofed   7

TABLE    ROWS   REPAIRS   ERROR
routes   5      1         -
peers    4      0         no space left
`, 0},
		{"status of a node that waits", "status", waiting, `
Node        n1 (NOT READY)
Daemon      v0.1, up ?
Source      dir:/cluster (not read yet)
Overlay     vxlan, pod MTU 1450, map layout abc123
Peers       2
Pods        2
Addresses   2 of 3 of load balancers are announced by this node; no answer from n7

PROBLEM       SINCE   WHAT TO KNOW
no-pod-cidr   -       Node n1 has no spec.podCIDRs

POOL            USED   COOLING   SIZE
10.244.1.0/24   2      1         253

PACKETS   REASON    COUNT
drop      spoofed   7

TABLE    ROWS   REPAIRS   ERROR
routes   5      1         -
peers    4      0         no space left
`, 1},
		{"endpoints", "endpoints", ready, `
POD           CONTAINER       INTERFACE   ADDRESSES                  HOST SIDE         MTU    AGE   STATE
-             c2              net1        -                          weftaaaaaaaaaaa   1450   -     ok
default/web   0123456789abc   eth0        10.244.1.2,fd00:244:1::2   weft0123456789a   1450   -     ok
`, 0},
		{"nodes", "nodes", ready, `
NODE        ADDRESS     POD CIDRS       VIA     LINK   MTU    REACH   RTT
n1 (this)   -           -               -       -      -      -       -
n2          192.0.2.2   10.244.2.0/24   vxlan   eth0   1450   ok      0.2ms
`, 0},
		{"services", "services", ready, `
NAMESPACE   NAME   TYPE           SERVED AT              KIND        READY   POLICY    PROBLEM
default     dns    ExternalName   -                      -           -       -         -
default     web    NodePort       10.96.0.10:80/TCP      ClusterIP   2/3     Cluster   port http: the node has no IPv6 address for its nodePort 30080
default     web    NodePort       *:30080/TCP            NodePort    0/1     Local     -
default     web    NodePort       [fd00:96::10]:80/TCP   ClusterIP   1/1     Cluster   -
`, 0},
		{"one service", "services default/web", ready, `
NAMESPACE   NAME   TYPE       SERVED AT              KIND        READY   POLICY    PROBLEM
default     web    NodePort   10.96.0.10:80/TCP      ClusterIP   2/3     Cluster   port http: the node has no IPv6 address for its nodePort 30080
default     web    NodePort   *:30080/TCP            NodePort    0/1     Local     -
default     web    NodePort   [fd00:96::10]:80/TCP   ClusterIP   1/1     Cluster   -

BACKEND           PROTOCOL   PORT   STATE         FLOWS   NODE   ZONE   POD
10.244.1.2:8080   TCP        http   ready         7       n1     -      default/web-1
10.244.2.2:8080   TCP        http   terminating   0       n2     z      -
`, 0},
		{"a service with an announced address", "services lb", ready, `
NAMESPACE   NAME   TYPE           SERVED AT           KIND        READY   POLICY    ANNOUNCED BY   PROBLEM
default     lb     LoadBalancer   10.96.0.11:80/TCP   ClusterIP   1/1     Cluster   -              -
default     lb     LoadBalancer   192.0.2.1:80/TCP    LB          1/1     Cluster   n2             -
`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := weft(append(strings.Fields(tc.verb), "--socket", tc.socket)...)
			if code != tc.code || errs != "" {
				t.Errorf("exit code %d, stderr %q; want %d and nothing", code, errs, tc.code)
			}
			if diff := cmp.Diff(out, tc.want[1:]); diff != "" {
				t.Errorf("got (-), want (+):\n%s", diff)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	for verb, want := range map[string]string{
		"status": `"layout": "abc123"`, "endpoints": `"10.244.1.2"`, "nodes": `"10.244.2.0/24"`,
		"services": `"kind": "NodePort"`,
	} {
		for _, args := range [][]string{{verb, "-o", "json", "--socket", socket}, {"--output=json", "--socket", socket, verb}, {"-o", "json", verb, "--socket", socket}} {
			code, out, errs := weft(args...)
			if code != 0 || errs != "" || !strings.Contains(out, want) {
				t.Errorf("%v: exit code %d, stderr %q, output without %s:\n%s", args, code, errs, want, out)
			}
		}
	}
}

func TestVersionIsPrinted(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		if code, out, errs := weft(arg); code != 0 || !strings.HasPrefix(out, "weft") || !strings.Contains(out, api.Version) || errs != "" {
			t.Errorf("weft %s: exit code %d, stdout %q, stderr %q, want the version", arg, code, out, errs)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	hung := filepath.Join(t.TempDir(), "s")
	silent, err := net.Listen("unix", hung)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ready := serve(t, server.Handler(noCNI{}, node{true}, nil))
	broken := serve(t, http.NotFoundHandler())
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no socket", []string{"status", "--socket", filepath.Join(t.TempDir(), "none")}, 3, "there is no socket"},
		{"nobody listens", []string{"nodes", "--socket", dead}, 3, "nobody listens on"},
		{"daemon hangs", []string{"nodes", "--socket", hung, "--timeout", "50ms"}, 3, "does not answer in time"},
		{"another server", []string{"status", "--socket", broken}, 1, "HTTP status 404"},
		{"unknown service", []string{"services", "nothing", "--socket", ready}, 1, "there is no Service nothing"},
		{"no name of a service", []string{"services", "a/b/c", "--socket", ready}, 1, "not the name of a Service: a/b/c"},
		{"two services", []string{"services", "a", "b"}, 2, "accepts at most 1 arg"},
		{"unknown command", []string{"frobnicate"}, 2, `unknown command "frobnicate"`},
		{"unknown flag", []string{"status", "--frob"}, 2, "unknown flag: --frob (weft COMMAND --help"},
		{"surplus argument", []string{"status", "x"}, 2, `unknown command "x"`},
		{"no time to answer", []string{"status", "--timeout", "0s"}, 2, "--timeout 0s"},
		{"no time to install", []string{"install", "--dry-run", "--timeout", "0"}, 2, "--timeout 0s: nothing is ready"},
		{"less than no time", []string{"uninstall", "--timeout", "-5s"}, 2, "--timeout -5s"},
		{"no namespace", []string{"install", "--dry-run", "--namespace", ""}, 2, `--namespace "" is not the name`},
		{"no namespace's name", []string{"uninstall", "--namespace", "kube system"}, 2, `--namespace "kube system"`},
		{"cluster in no namespace", []string{"status", "--cluster", "--namespace", "a/b"}, 2, `--namespace "a/b"`},
		{"unknown format", []string{"status", "-o", "xml"}, 2, "neither table nor json"},
		{"JSON of an install", []string{"install", "--dry-run", "-o", "json"}, 2, "unknown shorthand flag: 'o'"},
		{"JSON of an uninstall", []string{"uninstall", "-o", "json"}, 2, "unknown shorthand flag: 'o'"},
		{"JSON of the version", []string{"version", "--output=json"}, 2, "unknown flag: --output"},
		{"JSON of the page", []string{"--output", "json", "web"}, 2, "unknown flag: --output"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := weft(tc.args...)
			if code != tc.code || out != "" || !strings.Contains(errs, tc.want) || strings.Count(errs, "\n") != 1 {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and one line with %q", code, out, errs, tc.code, tc.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	if code := run(ctx, []string{"status", "--socket", hung}, &out, &errs); code != exitNoDaemon || errs.String() != "weft: interrupted before the daemon answered\n" {
		t.Errorf("Ctrl-C: exit code %d, stderr %q", code, errs.String())
	}
	if got := noDaemon(os.ErrPermission, "/s"); !strings.Contains(got, "try sudo") {
		t.Errorf("no permission: %q, want a hint at sudo", got)
	}
}

// A disk that is full must not look like a node without anything.
func TestOutputThatIsLostIsAnError(t *testing.T) {
	ready := serve(t, server.Handler(noCNI{}, node{true}, nil))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	lines := []string{"version", "install --dry-run"}
	for _, args := range []string{
		"status", "endpoints", "nodes", "services", "services web", "drops", "policy", "policy shop/web", "explain shop/cart shop/web:80",
	} {
		lines = append(lines, args+" -o table", args+" -o json")
	}
	for _, args := range lines {
		var errs bytes.Buffer
		if code := run(t.Context(), append(strings.Fields(args), "--socket", ready), full, &errs); code == 0 || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("weft %s: exit code %d, stderr %q", args, code, errs.String())
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := cli{now: func() time.Time { return now }}
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 90 * time.Second: "90s", 3 * time.Minute: "3m", 5 * time.Hour: "5h", 100 * time.Hour: "4d",
	} {
		if got := c.age(now.Add(-d)); got != want {
			t.Errorf("age of %s is %s, want %s", d, got, want)
		}
	}
}

// noCNI is a CNI that is not called.
type noCNI struct{ server.CNI }
