package daemon

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

func TestHostPortsComeAndGoWithTheirPods(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	a.start()
	a.ready()
	p := &pod{NS: testnet.New(t, "pod")}
	p.id = p.Name
	r := p.request()
	r.PodNamespace, r.PodName, r.PodUID = "default", "web-1", "11111111-2222"
	r.PortMappings = []api.PortMapping{{HostPort: 8088, ContainerPort: 80}, {HostPort: 8089, ContainerPort: 80, Protocol: "udp", HostIP: "192.0.2.1"}}
	_, err := a.client().Add(context.Background(), r)
	l.must(err)
	check := func(want int) {
		t.Helper()
		for name, rows := range map[string]int{"frontends": 5, "sets": 4, "backends": 4, "alive": 4} {
			if want == 0 {
				rows = 0
			}
			// 8088: two families, each on the node's address and on loopback; 8089: one.
			if name != "frontends" && want != 0 {
				rows = 3
			}
			if got, err := a.kernelRows(name); err != nil || len(got) != rows {
				t.Errorf("map %s has %d rows, want %d; %v", name, len(got), rows, err)
			}
		}
	}
	check(1) // at once, when ADD has answered
	list, err := a.client().Services(context.Background(), "web-1")
	if err != nil || len(list) != 1 || len(list[0].Fronts) != 2 || list[0].Fronts[0].Kind != "HostPort" {
		t.Errorf("shown: %+v, %v", list, err)
	}
	before, err := a.kernelRows("alive")
	l.must(err)

	a.stop(syscall.SIGKILL)
	a.start()
	a.ready()
	check(1)
	if after, err := a.kernelRows("alive"); err != nil || !maps.Equal(before, after) {
		t.Errorf("alive after a restart: %x, before %x; %v", after, before, err)
	}

	// A Service of the same pod must say the same of it.
	list2, err := a.client().Endpoints(context.Background())
	l.must(err)
	l.file("web.yaml", serviceText("web", "10.96.0.10")+"---\n"+strings.ReplaceAll(strings.ReplaceAll(
		sliceText("web", list2[0].IPs[0].String()), "]}\n", "], targetRef: {kind: Pod, name: web-1, namespace: default, uid: 11111111-2222}}\n"), "8080", "80"))
	l.file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: default, uid: 11111111-2222}\nspec: {nodeName: node-1}\n")
	a.served(soon, "frontends", true, "10.96.0.10")
	a.until("no dispute", func(s api.Status) bool { return len(s.Problems) == 0 })

	second := &pod{NS: testnet.New(t, "pod")}
	second.id = second.Name
	rival := second.request()
	rival.PodNamespace, rival.PodName, rival.PortMappings = "default", "web-2", r.PortMappings[:1]
	_, err = a.client().Add(context.Background(), rival)
	l.must(err)
	a.until("a dispute", func(s api.Status) bool { return problem(s, problemTableClash) })
	l.must(a.client().Del(context.Background(), rival))
	a.until("no dispute any more", func(s api.Status) bool { return len(s.Problems) == 0 })

	l.file("web.yaml", "")
	a.served(soon, "frontends", false, "10.96.0.10")
	l.must(a.client().Del(context.Background(), r))
	check(0)
}

// A host port with a hostIP is served while that is an address of the node, and never
// where it is not: it would take what goes to a Service, or out of the cluster.
func TestHostPortIsServedWhereTheNodeHasTheAddress(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	l.file("web.yaml", serviceText("web", "10.96.0.10"))
	l.file("web-ends.yaml", sliceText("web", "10.87.1.201"))
	a.start()
	a.ready()
	a.served(soon, "frontends", true, "10.96.0.10")
	before, err := a.kernelRows("frontends")
	l.must(err)
	p := &pod{NS: testnet.New(t, "pod")}
	p.id = p.Name
	r := p.request()
	r.PortMappings = []api.PortMapping{{HostPort: 80, ContainerPort: 80, HostIP: "10.96.0.10"}, {HostPort: 80, ContainerPort: 80, HostIP: "198.51.100.7"}}
	_, err = a.client().Add(context.Background(), r)
	l.must(err)
	if after, err := a.kernelRows("frontends"); err != nil || !maps.Equal(after, before) {
		t.Errorf("rows changed with addresses that are not the node's: %q, want %q; %v", after, before, err)
	}
	a.until("a problem", func(s api.Status) bool { return problem(s, problemService) })
	l.must(a.IP("addr", "add", "198.51.100.7/32", "dev", "up0"))
	a.served(converge, "frontends", true, "198.51.100.7")
	l.must(a.IP("addr", "del", "198.51.100.7/32", "dev", "up0"))
	a.served(converge, "frontends", false, "198.51.100.7")
	if after, err := a.kernelRows("frontends"); err != nil || !maps.Equal(after, before) {
		t.Errorf("rows when the address is gone: %q, want %q; %v", after, before, err)
	}
}

// Of two pods with one host port the second has it as soon as the first is gone, not with
// the next pass over all rows.
func TestHostPortGoesToTheNextPodAtOnce(t *testing.T) {
	frontends, backends := newRoomy[bpf.Place, bpf.Frontend](), newRoomy[bpf.Slot, bpf.Backend]()
	tables := &tables{}
	tables.serve(bpf.Services{
		Alive: newRoomy[bpf.Place, uint32](), Backends: backends, Sets: newRoomy[bpf.SetID, bpf.Set](),
		Frontends: frontends, Maglev: newRoomy[bpf.Block, bpf.MaglevRow](), Ranges: newRoomy[bpf.Range, struct{}](),
	})
	s := newServices(Config{NodeName: "a"}, tables, newProblems(slog.New(slog.DiscardHandler)))
	s.remembered(overlay.Node{Name: "a", Addrs: []netip.Addr{addr("192.0.2.1")}})
	s.begin()
	ports := func(container, ip string) endpoint.Ports {
		return endpoint.Ports{
			Ref: api.Ref{ContainerID: container, IfName: "eth0"}, Addrs: []netip.Addr{addr(ip)},
			Mappings: []api.PortMapping{{HostPort: 8088, ContainerPort: 80}},
		}
	}
	serves := func(want string) {
		t.Helper()
		for _, at := range []string{"192.0.2.1", "127.0.0.1"} {
			f := frontends.rows[bpf.Place{Addr: addr(at), Port: 8088, Protocol: bpf.TCP}]
			if got := backends.rows[bpf.Slot{Set: f.Inside}].Addr; got != addr(want) {
				t.Errorf("%s: got %s, want %s", at, got, want)
			}
		}
	}
	first, second := ports("c1", "10.244.0.2"), ports("c2", "10.244.0.3")
	for _, p := range []endpoint.Ports{second, first} { // the first by name has it, whoever came first
		if err := s.setPorts(p); err != nil {
			t.Fatal(err)
		}
	}
	serves("10.244.0.2")
	if err := s.setPorts(endpoint.Ports{Ref: first.Ref}); err != nil {
		t.Fatal(err)
	}
	serves("10.244.0.3")
}
