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
		record, err := n.records.Read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read records of drops: %w", err)
		}
		n.drops.add(r.drop(record, n.records.Lost()))
	}
}

// drop is a record for people; lost is how many were left out so far.
func (r *recordReader) drop(record bpf.Record, lost uint64) api.Drop {
	out := api.Drop{
		Time: record.Time, Reason: record.Reason, Device: r.device(record.IfIndex), Length: record.Length,
		LeftOut: lost - r.lost,
	}
	r.lost = lost
	p := record.Packet
	out.Protocol, out.Detail = protocolText(p)
	out.Src, out.Dst = r.end(p.Src), r.end(p.Dst)
	if record.Set == 0 {
		return out
	}
	out.Direction = "egress"
	judged := record.Remote
	if record.Ingress {
		out.Direction = "ingress"
		judged = record.Local
	}
	if judged.Addr().IsValid() && judged != p.Dst {
		backend := r.end(judged)
		out.Backend = &backend
	}
	r.policies.attribute(&out, record.Set, record.Rule)
	return out
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
