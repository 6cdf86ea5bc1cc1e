package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/e2e/rival"
)

// outsideGroup chooses all metrics of this file.
const outsideGroup = "outside"

// outsideShape is a metric of what goes from a client beside the nodes to a load balancer's
// address that the first node announces: lb_ and its name for snat, lb_dsr_ for dsr.
type outsideShape struct {
	name  string
	kind  load.Kind
	unit  string
	scale float64 // from load's unit per second
	as    outsideAs
}

// outsideAs is what the nodes are like.
type outsideAs int

const (
	// asUsual: the backend is on the second node, and the machine passes up to 64 KiB as one
	// packet, as a NIC with all offloads does.
	asUsual outsideAs = iota
	// asFrames: no packet is bigger than a frame, as without offloads.
	asFrames
	// asLinks: each node has a link of [linkRate], and a stream to a backend on each.
	asLinks
)

// linkRate is so low that the CPUs are not what is short.
const linkRate = "500mbit"

var outsideShapes = []outsideShape{
	{"pps", load.UDP, "1/s", 1, asUsual},
	{"crr", load.CRR, "1/s", 1, asUsual},
	{"rr", load.RR, "1/s", 1, asUsual},
	{"stream", load.Answer, "Gb/s", 8e-9, asUsual},
	{"stream_frames", load.Answer, "Gb/s", 8e-9, asFrames},
	{"stream_links", load.Answer, "Gb/s", 8e-9, asLinks},
}

// outsideTraffic measures lb_* and lb_dsr_*: Weft with both ways of forwarding, the limit
// (plain routing straight to the second node), and kube-proxy with a static address. All in
// the same rounds.
func outsideTraffic(ctx context.Context, o options, r *report) (err error) {
	wanted := func(name string) bool { return o.run.MatchString(name) || o.run.MatchString(outsideGroup) }
	var l *outsideLabs
	for _, s := range outsideShapes {
		snat, dsr := "lb_"+s.name, "lb_dsr_"+s.name
		if !wanted(snat) && !wanted(dsr) {
			continue
		}
		if l == nil {
			l, err = newOutsideLabs(ctx, o)
			defer func() { err = errors.Join(err, l.close()) }()
			if err != nil {
				return err
			}
		}
		values, err := l.measure(ctx, o, s)
		if err != nil {
			return fmt.Errorf("%s: %w", dsr, err)
		}
		for _, line := range []struct {
			name       string
			weft, peer int
		}{{snat, bySNAT, byPeer}, {dsr, byDSR, byPeer}, {dsr, byDSR, bySNAT}} {
			if !wanted(line.name) {
				continue
			}
			if err := r.add(line.name, s.unit, outsideNames[line.peer], [parties][]float64{
				weft: values[line.weft], limit: values[byLimit], peer: values[line.peer],
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// The parties of a round.
const (
	bySNAT = iota
	byDSR
	byLimit
	byPeer
	outsideParties
)

var outsideNames = [outsideParties]string{"weft, snat", "weft, dsr", "limit", string(rival.NFTables)}

// measure lets the parties take turns, forward and backward.
func (l *outsideLabs) measure(ctx context.Context, o options, s outsideShape) (values [outsideParties][]float64, err error) {
	if err := l.be(s.as); err != nil {
		return values, err
	}
	for i := range o.rounds {
		for j := range outsideParties {
			if i%2 == 1 {
				j = outsideParties - 1 - j
			}
			if ctx.Err() != nil {
				return values, ctx.Err()
			}
			paths := l.ways[j][:1]
			if s.as == asLinks {
				paths = l.ways[j][:]
			}
			v, err := atOnce(paths, s.kind, o)
			if err != nil {
				return values, fmt.Errorf("%s: %w", outsideNames[j], err)
			}
			values[j] = append(values[j], v*s.scale)
		}
	}
	return values, l.be(asUsual)
}

// atOnce measures all paths at the same time, and returns their sum.
func atOnce(paths []load.Path, kind load.Kind, o options) (sum float64, err error) {
	type result struct {
		v   float64
		err error
	}
	results := make(chan result)
	for _, p := range paths {
		go func() {
			v, err := load.Measure(p, kind, 1, o.time)
			results <- result{v, err}
		}()
	}
	for range paths {
		one := <-results
		sum, err = sum+one.v, errors.Join(err, one.err)
	}
	return sum, err
}
