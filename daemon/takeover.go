package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/overlay"
)

// lenient lets netfilter translate what does not fit to the segments that it has seen:
// when a connection becomes ours, it misses some.
const lenient = "net/netfilter/nf_conntrack_tcp_be_liberal"

const ownerTakeover = "takeover"

// takeFlowsOver makes flows ours that netfilter has translated so far, by rules of
// kube-proxy: those to places that are served here, whose backend is alive. They go on as
// they are, and netfilter sees no more of them. What the node itself has begun stays
// netfilter's, as its packets pass there anyway.
//
// It is for a node where no daemon of ours served Services before. Elsewhere netfilter may
// remember connections that have ended long ago.
func takeFlowsOver(t *tables, dp *bpf.Datapath, log *slog.Logger) {
	if _, err := os.Stat("/proc/sys/" + lenient); err == nil {
		t.sysctl.Put(ownerTakeover, map[string]string{lenient: "1"})
		if err := t.sysctl.WriteOwner(ownerTakeover); err != nil {
			log.Warn("connections through another program's Services may end", "err", err)
		}
	}
	taken, err := takeFlows(t, dp)
	if err != nil {
		log.Warn("connections through another program's Services may end", "taken", taken, "err", err)
	} else if taken > 0 {
		log.Info("took over flows of another program's Services", "flows", taken)
	}
	t.sysctl.Put(ownerTakeover, nil)
	if err := t.sysctl.PruneOwner(ownerTakeover); err != nil {
		log.Warn("put back what was set while flows were taken over, will retry", "err", err)
	}
}

// takeFlows returns how many flows are to be ours.
func takeFlows(t *tables, dp *bpf.Datapath) (taken int, err error) {
	own, err := ownAddrs()
	if err != nil {
		return 0, err
	}
	var errs []error
	err = overlay.Translations(func(f overlay.Translation) {
		place := func(a netip.AddrPort) bpf.Place {
			return bpf.Place{Addr: a.Addr(), Port: a.Port(), Protocol: bpf.Protocol(f.Protocol)}
		}
		generation, alive := t.alive.Wanted(place(f.Backend))
		if _, served := t.frontends.Wanted(place(f.To)); !served || !alive {
			return
		}
		var err error
		if own[f.Client.Addr()] {
			err = dp.Reserve(bpf.Protocol(f.Protocol), f.Backend, f.Source)
		} else {
			taken++
			err = dp.Adopt(bpf.AdoptedFlow{
				Flow: bpf.Flow{
					Protocol: bpf.Protocol(f.Protocol), Client: f.Client, Service: f.To, Source: f.Source, Backend: f.Backend,
				},
				Generation: generation, Answered: f.Answered, ClientDone: f.ClientDone, BackendDone: f.BackendDone,
			})
		}
		if err != nil && len(errs) < 8 {
			errs = append(errs, err)
		}
	})
	return taken, errors.Join(append(errs, err)...)
}

// leavePods leaves connections that pods begin to the packets' programs as long as
// connections go on that began before Weft served them.
func leavePods(dp *bpf.Datapath) error {
	adopted := false
	_, err := dp.Collect(bpf.DefaultTimeouts, func(f bpf.Flow) {
		adopted = adopted || f.Adopted && f.Protocol == bpf.TCP
	})
	return errors.Join(err, dp.LeavePodsToPackets(adopted))
}

// ownAddrs is the addresses of this network namespace.
func ownAddrs() (map[netip.Addr]bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().WithZone("")] = true
		}
	}
	return own, nil
}
