package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/overlay"
)

// While connections become ours, netfilter is to translate also what does not fit to the
// segments that it has seen, as it misses some; and it is to take up none from the middle: one
// to the node itself, which becomes ours, has the tuple of the one that it was, until that is
// forgotten, and would get another port.
var whileTaking = map[string]string{
	"net/netfilter/nf_conntrack_tcp_be_liberal": "1",
	"net/netfilter/nf_conntrack_tcp_loose":      "0",
}

const ownerTakeover = "takeover"

// takeFlowsOver makes flows ours that netfilter has translated so far, by rules of
// kube-proxy: those to places that are served here, whose backend is alive. They go on as
// they are, and netfilter sees no more of them, or, of those to the node itself, what they
// have become. What the node itself has begun stays netfilter's, as its packets pass there
// anyway; and so do connections from elsewhere to addresses of the node that the programs do not
// know, or that it gets as its own, as its stack takes no such packet from outside; those of
// pods with a bandwidth limit, as all that these send and get passes the stack; and those to the
// node itself whose client has another to the same backend, from the same port.
//
// It is for a node where no daemon of ours served Services before. Elsewhere netfilter may
// remember connections that have ended long ago.
func takeFlowsOver(t *tables, dp *bpf.Datapath, log *slog.Logger) {
	settings := maps.Clone(whileTaking)
	maps.DeleteFunc(settings, func(key, _ string) bool {
		_, err := os.Stat("/proc/sys/" + key)
		return err != nil
	})
	t.sysctl.Put(ownerTakeover, settings)
	if err := t.sysctl.WriteOwner(ownerTakeover); err != nil {
		log.Warn("connections through another program's Services may end", "err", err)
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
		generation, alive := t.alive.Wanted(placeOf(f, f.Backend))
		if _, served := t.frontends.Wanted(placeOf(f, f.To)); !served || !alive {
			return
		}
		if !own[f.Client.Addr()] {
			taken++
		}
		_, known := t.rows.Wanted(f.Backend.Addr())
		stays := own[f.Backend.Addr()] && (own[f.Source.Addr()] || !known)
		limited, judged := podsOf(t, f)
		forget, err := takeFlow(dp, f, own, stays || limited, judged, generation)
		if forget { // at once: datagrams that come before that get another port
			err = overlay.ForgetTranslations(f)
		}
		if err != nil && len(errs) < 8 {
			errs = append(errs, err)
		}
	})
	errs = append(errs, err)
	return taken, errors.Join(errs...)
}

// takeFlow says whether netfilter is to forget what was a flow to the node itself: its packets
// still pass there, and would get another port if their tuple were that of another. stays: the
// flow is to stay netfilter's. It cannot if it is judged: policies would see the Service, not the
// backend.
func takeFlow(dp *bpf.Datapath, f overlay.Translation, own map[netip.Addr]bool, stays, judged bool, generation uint32) (forget bool, err error) {
	flow := bpf.Flow{Protocol: bpf.Protocol(f.Protocol), Client: f.Client, Service: f.To, Source: f.Source, Backend: f.Backend}
	here := own[f.Backend.Addr()]
	if here && !stays && !own[f.Client.Addr()] {
		// Netfilter has given another source to one that has the tuple which this one becomes.
		if stays, err = overlay.ForgetEnded(f.Protocol, f.Source, f.Backend); err != nil {
			return false, err
		}
	}
	switch {
	case own[f.Client.Addr()]:
		return false, dp.Reserve(flow.Protocol, f.Backend, f.Source)
	case stays && (flow.Protocol != bpf.TCP || judged):
		return false, nil // what comes next begins another
	case stays:
		flow.Source, flow.Backend = f.Client, f.To
	}
	err = dp.Adopt(bpf.AdoptedFlow{
		Flow: flow, Generation: generation, Answered: f.Answered, ClientDone: f.ClientDone, BackendDone: f.BackendDone,
	})
	return here && !stays && err == nil, err
}

// podsOf says whether a pod of this node at one end has a bandwidth limit, or is isolated.
func podsOf(t *tables, f overlay.Translation) (limited, judged bool) {
	for _, a := range []netip.Addr{f.Client.Addr(), f.Backend.Addr()} {
		row, _ := t.rows.Wanted(a)
		limited = limited || row.Flags&bpf.EndpointStack != 0
		judged = judged || row.Ingress != 0 || row.Egress != 0
	}
	return limited, judged
}

// forgetDatagrams has netfilter forget the datagrams that limited pods send to Services, or are
// sent, once those are served here: it sees them still, and gives them another port as long as it
// knows of those from before, and as long as it knows of what got one. What the node itself sends
// stays netfilter's. A daemon that follows does so, too, as this one may have died before.
func forgetDatagrams(t *tables, dp *bpf.Datapath) error {
	pods, err := dp.Endpoints().Dump()
	isLimited := func(row bpf.Endpoint) bool { return row.Flags&bpf.EndpointStack != 0 }
	if err != nil || !slices.ContainsFunc(slices.Collect(maps.Values(pods)), isLimited) {
		return err
	}
	own, err := ownAddrs()
	if err != nil {
		return err
	}
	var errs []error
	for range 2 {
		var over []overlay.Translation
		err := overlay.Translations(func(f overlay.Translation) {
			_, asked := t.frontends.Wanted(placeOf(f, f.To))
			_, translated := t.alive.Wanted(placeOf(f, f.Backend))
			_, answers := t.frontends.Wanted(placeOf(f, f.Client))
			limited, _ := podsOf(t, f)
			ask := (asked || translated) && limited && !own[f.Client.Addr()]
			if bpf.Protocol(f.Protocol) == bpf.UDP && (ask || answers) {
				over = append(over, f)
			}
		})
		errs = append(errs, err, overlay.ForgetTranslations(over...))
	}
	return errors.Join(errs...)
}

func placeOf(f overlay.Translation, a netip.AddrPort) bpf.Place {
	return bpf.Place{Addr: a.Addr(), Port: a.Port(), Protocol: bpf.Protocol(f.Protocol)}
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
