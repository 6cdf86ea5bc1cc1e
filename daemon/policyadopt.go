package daemon

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
)

// adoptConnections makes the open connections of a pod known to the programs that judge, each
// as opened by the end that did; for a pod that becomes isolated. It may be repeated: what
// the programs know already stays.
func adoptConnections(t *tables, dp *bpf.Datapath, pod endpoint.Pod) error {
	if pod.Netns == "" {
		return nil
	}
	list, err := bpf.Connections(pod.Netns)
	if err != nil {
		return fmt.Errorf("look for open connections of pod %s: %w", podText(pod), err)
	}
	var backends map[bpf.Connection]netip.AddrPort
	flows := map[netip.Addr][]bpf.AllowedFlow{}
	for _, c := range list {
		if !owns(pod, c.Local.Addr()) {
			continue // of its loopback
		}
		f := bpf.AllowedFlow{Protocol: c.Protocol, Local: c.Local, Remote: c.Remote, PodOpened: c.Opened}
		if _, service := t.frontends.Wanted(bpf.Place{Addr: c.Remote.Addr(), Port: c.Remote.Port(), Protocol: c.Protocol}); service {
			if backends == nil {
				if backends, err = backendsOfFlows(dp); err != nil {
					return err
				}
			}
			if b, ok := backends[bpf.Connection{Protocol: c.Protocol, Local: c.Local, Remote: c.Remote}]; ok {
				f.Remote = b
			}
		}
		flows[c.Local.Addr()] = append(flows[c.Local.Addr()], f)
	}
	for addr, list := range flows {
		if err := dp.AdoptAllowed(addr, list); err != nil {
			return fmt.Errorf("take up open connections of pod %s: %w", podText(pod), err)
		}
	}
	return nil
}

func owns(pod endpoint.Pod, a netip.Addr) bool {
	for _, own := range pod.Addrs {
		if own == a {
			return true
		}
	}
	return false
}

// backendsOfFlows is the backends of the flows that are translated per packet, by what
// their clients' sockets know: protocol, own end, and the Service's place.
func backendsOfFlows(dp *bpf.Datapath) (map[bpf.Connection]netip.AddrPort, error) {
	out := map[bpf.Connection]netip.AddrPort{}
	_, err := dp.Collect(bpf.DefaultTimeouts, func(f bpf.Flow) {
		out[bpf.Connection{Protocol: f.Protocol, Local: f.Client, Remote: f.Service}] = f.Backend
	})
	return out, err
}
