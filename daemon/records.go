package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

// devicesKept is for how long the names of devices are believed.
const devicesKept = 30 * time.Second

// recordReader makes drops of what the programs record.
type recordReader struct {
	policies *policies
	lost     uint64            // as it was at the last record
	devices  map[uint32]string // by index
	asked    time.Time         // since when devices holds
}

// readDrops keeps what is dropped, until ctx is done.
func (n *node) readDrops(ctx context.Context) error {
	defer n.drops.end()
	r := &recordReader{policies: n.policies, lost: n.records.Lost()}
	for {
		records, err := n.records.Read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read records of drops: %w", err)
		}
		n.drops.add(r.batch(records, n.records.Lost())...)
	}
}

// batch is records for people; lost is how many were left out so far, which the first of
// them tells: to ask for each would cost more than all the rest.
func (r *recordReader) batch(records []bpf.Record, lost uint64) []api.Drop {
	out := make([]api.Drop, len(records))
	for i, record := range records {
		out[i] = r.drop(record)
	}
	out[0].LeftOut = lost - r.lost
	r.lost = lost
	return out
}

// drop is a record for people.
func (r *recordReader) drop(record bpf.Record) api.Drop {
	out := api.Drop{Time: record.Time, Reason: record.Reason, Device: r.device(record.IfIndex), Length: record.Length}
	p := record.Packet
	out.Protocol, out.Detail = protocolText(p)
	from, to := record.Local, record.Remote // as the policy saw them
	if record.Ingress {
		from, to = to, from
	}
	if record.Set != 0 && p.Src.Port() == 0 && p.Dst.Port() == 0 { // a later fragment
		p.Src, p.Dst = portOf(p.Src, from), portOf(p.Dst, to)
	}
	out.Src, out.Dst = r.end(p.Src), r.end(p.Dst)
	if record.Set == 0 {
		return out
	}
	out.Direction = "egress"
	if record.Ingress {
		out.Direction = "ingress"
	}
	if to.Addr().IsValid() && to != p.Dst {
		backend := r.end(to)
		out.Backend = &backend
	}
	r.policies.attribute(&out, record.Set, record.Rule)
	return out
}

// portOf is an address of a packet with the port that is known of it, if it is the same.
func portOf(of, known netip.AddrPort) netip.AddrPort {
	if of.Addr() == known.Addr() {
		return known
	}
	return of
}

func (r *recordReader) end(at netip.AddrPort) api.DropEnd {
	return api.DropEnd{Addr: at.Addr(), Port: at.Port(), Pod: r.policies.pods.at(at.Addr())}
}

// device is the name of a device. What has no name any more is its number.
func (r *recordReader) device(index uint32) string {
	if time.Since(r.asked) > devicesKept {
		r.devices, r.asked = map[uint32]string{}, time.Now()
	}
	name, known := r.devices[index]
	if !known {
		// Package net would ask for all devices: most records are of new pods, whose devices
		// nobody has asked for yet.
		if name = overlay.LinkName(int(index)); name == "" {
			name = fmt.Sprintf("device %d", index)
		}
		r.devices[index] = name
	}
	return name
}
