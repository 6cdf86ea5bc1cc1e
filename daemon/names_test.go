package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

func TestEndsOfDropsAreNamed(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, addr(a))
		}
		return out
	}
	state := source.State{
		Nodes: []*source.Node{{Name: "n1", InternalIPs: addrs("192.0.2.1"), PodCIDRs: []netip.Prefix{prefix("10.244.1.0/24")}}},
		Pods: []*source.Pod{
			{Namespace: "a", Name: "done", Node: "n1", Finished: true, IPs: addrs("10.244.1.5")},
			{Namespace: "a", Name: "host", Node: "n1", HostNetwork: true, IPs: addrs("192.0.2.1")},
			{Namespace: "a", Name: "new", Node: "n2", Announced: addrs("10.244.2.9")},
			{Namespace: "a", Name: "web", Node: "n1", IPs: addrs("10.244.1.5", "fd00::5")},
		},
	}
	end := func(a string) api.DropEnd { return api.DropEnd{Addr: addr(a)} }
	backend := end("fd00::5")
	said := end("10.244.1.5")
	said.Pod = "a/former" // said when it was dropped
	in := []api.Drop{
		{Src: end("10.244.1.5"), Dst: end("10.96.0.1"), Backend: &backend},
		{Src: end("192.0.2.1"), Dst: end("10.244.2.9")},
		{Src: end("10.244.1.1"), Dst: said},
		{},
	}
	out := nameDrops(state, in)
	var got []string
	for _, d := range out {
		got = append(got, d.Src.Pod+"@"+d.Src.Node, d.Dst.Pod+"@"+d.Dst.Node)
	}
	want := []string{"a/web@n1", "@", "@n1", "a/new@n2", "@n1", "a/former@", "@", "@"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if b := out[0].Backend; b.Pod != "a/web" || backend.Pod != "" {
		t.Errorf("backend is named %+v, the former one has become %+v", b, backend)
	}
}
