package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/pace"
)

const (
	// roomEvery is how often the counters of what found no room are looked at.
	roomEvery = pace.Usual
	// roomHeld is how long a refusal stays a problem after the last one, so that a person
	// sees one that comes and goes.
	roomHeld = 5 * time.Minute
	// roomNear is the part of the room for flows from which on it is a problem, in percent.
	roomNear = 90
)

// refusals is what the datapath counts when it refuses what is new for want of room, and
// what a person should know of it.
var refusals = map[string]string{
	"flows-full":      "the map of translated flows is full: new flows through Services are refused, those that live go on (`weft services NAME` shows whose they are)",
	reasonAllowedFull: "the map of flows that policies let pass is full: flows that find no room there may be pushed out by new ones, and are then judged as new",
	"ports-full":      "no source port is free towards a backend on another node: new flows from outside are refused, those that live go on (add backends, spread clients over more nodes' addresses, or use externalTrafficPolicy: Local)",
}

// reasonAllowedFull is what AllowedFull counts, beside the counters of packets.
const reasonAllowedFull = "allowed-full"

// refused is what was refused for want of room: when it was last seen, and how much.
type refused struct {
	last  map[string]uint64    // the counters at the last look
	since map[string]uint64    // refused since the problem began
	until map[string]time.Time // the problem's end, if nothing more is refused
}

// newRefused begins with the counters of now: what a former daemon saw is not news.
func newRefused(counters []bpf.Counter) *refused {
	r := &refused{last: map[string]uint64{}, since: map[string]uint64{}, until: map[string]time.Time{}}
	for _, c := range counters {
		r.last[c.Reason] = c.Count
	}
	return r
}

// look takes up the counters and returns what a person should know of now.
func (r *refused) look(counters []bpf.Counter, now time.Time) []string {
	var out []string
	for _, c := range counters {
		text, ok := refusals[c.Reason]
		if !ok {
			continue
		}
		if more := c.Count - r.last[c.Reason]; more > 0 {
			if !now.Before(r.until[c.Reason]) {
				r.since[c.Reason] = 0
			}
			r.since[c.Reason] += more
			r.until[c.Reason] = now.Add(roomHeld)
		}
		r.last[c.Reason] = c.Count
		if now.Before(r.until[c.Reason]) {
			out = append(out, fmt.Sprintf("%s: %s; packets so far: %d", c.Reason, text, r.since[c.Reason]))
		}
	}
	return out
}

// tableText says why a table cannot be written, and which setting makes room in it.
func tableText(name string, err error) string {
	text := err.Error()
	setting, ok := map[string]string{"peers": "max-nodes", "nodes": "max-nodes", "endpoints": "max-pods"}[name]
	if ok && errors.Is(err, bpf.ErrFull) {
		text += "\nraise the setting " + setting
	}
	return text
}

// nearlyFull says that there is little room left for flows that are translated, or that
// policies let pass.
func nearlyFull(flows, room, allowed, allowedRoom int64) []string {
	var out []string
	if room != 0 && flows*100 >= room*roomNear {
		out = append(out, fmt.Sprintf("%d flows are translated and there is room for %d: soon new ones will be refused (`weft services NAME` shows whose they are)", flows, room))
	}
	if allowedRoom != 0 && allowed*100 >= allowedRoom*roomNear {
		out = append(out, fmt.Sprintf("policies let %d flows of isolated pods pass, and there is room for %d: soon new ones may be pushed out by their like", allowed, allowedRoom))
	}
	return out
}

// watchRoom tells of what finds no room, until ctx is done. had are the counters at the
// daemon's start.
func (n *node) watchRoom(ctx context.Context, dp *bpf.Datapath, had []bpf.Counter) error {
	r := newRefused(had)
	counted := slices.DeleteFunc(slices.Sorted(maps.Keys(refusals)), func(reason string) bool { return reason == reasonAllowedFull })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace.Next(roomEvery)):
		}
		counters, err := dp.CountersOf(counted...)
		if err != nil {
			n.problems.err(problemFull, err)
			continue
		}
		full, err := dp.AllowedFull()
		if err != nil {
			n.problems.err(problemFull, err)
			continue
		}
		counters = append(counters, bpf.Counter{Reason: reasonAllowedFull, Count: full})
		texts := append(r.look(counters, time.Now()),
			nearlyFull(n.liveFlows.Load(), int64(dp.FlowRoom()), n.allowedFlows.Load(), int64(dp.AllowedRoom()))...)
		n.problems.sum(problemFull, strings.Join(texts, "\n"))
	}
}
