package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/e2e/rival"
)

// shape is what one traffic metric measures.
type shape struct {
	suffix  string
	kind    load.Kind
	streams int
	unit    string
	scale   float64 // from load's unit per second
}

var shapes = []shape{
	{"rr", load.RR, 1, "1/s", 1},
	{"crr", load.CRR, 1, "1/s", 1},
	{"stream", load.Stream, 4, "Gb/s", 8e-9},
	{"stream1", load.Stream, 1, "Gb/s", 8e-9},
	{"udp_pps", load.UDP, 1, "1/s", 1},
}

// ways picks a path of a lab.
var ways = []struct {
	name string
	of   func(*rival.Lab) load.Path
}{
	{"same_node_%s", func(l *rival.Lab) load.Path { return l.Same4 }},
	{"cross_node_%s", func(l *rival.Lab) load.Path { return l.Cross4 }},
	{"same_node_%s_v6", func(l *rival.Lab) load.Path { return l.Same6 }},
	{"cross_node_%s_v6", func(l *rival.Lab) load.Path { return l.Cross6 }},
}

// trafficMetrics measures same_node_* and cross_node_*.
func trafficMetrics(ctx context.Context, o options, r *report) (err error) {
	wanted := false
	for _, w := range ways {
		for _, s := range shapes {
			wanted = wanted || o.run.MatchString(fmt.Sprintf(w.name, s.suffix))
		}
	}
	if !wanted {
		return nil
	}
	var labs [parties]*rival.Lab
	makers := [parties]func() (*rival.Lab, error){
		func() (*rival.Lab, error) { return weftLab(ctx, o.bin) }, rival.Limits, rival.Flannel,
	}
	for p, make := range makers {
		if labs[p], err = make(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, labs[p].Close()) }()
	}
	for _, w := range ways {
		for _, s := range shapes {
			metric := fmt.Sprintf(w.name, s.suffix)
			if !o.run.MatchString(metric) {
				continue
			}
			values, err := rounds(ctx, o.rounds, func(p party) (float64, error) {
				v, err := load.Measure(w.of(labs[p]), s.kind, s.streams, o.time)
				return v * s.scale, err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", metric, err)
			}
			if err := r.add(metric, s.unit, rival.FlannelName, values); err != nil {
				return err
			}
		}
	}
	return nil
}

// rounds lets the parties take turns, forward and backward (A B C, C B A), so that a
// drift of the machine meets all alike.
func rounds(ctx context.Context, n int, measure func(party) (float64, error)) (values [parties][]float64, err error) {
	for i := range n {
		for j := range parties {
			p := j
			if i%2 == 1 {
				p = parties - 1 - j
			}
			if ctx.Err() != nil {
				return values, ctx.Err()
			}
			v, err := measure(p)
			if err != nil {
				return values, fmt.Errorf("%s: %w", [...]string{"weft", "limit", "peer"}[p], err)
			}
			values[p] = append(values[p], v)
		}
	}
	return values, nil
}

// weftLab is a cluster of two nodes, as a lab.
func weftLab(ctx context.Context, bin string) (*rival.Lab, error) {
	c, err := cluster.New(cluster.Spec{Nodes: 2, Bin: bin})
	if err != nil {
		return nil, err
	}
	l := rival.Of(c.Close)
	fail := func(err error) (*rival.Lab, error) { return nil, errors.Join(err, l.Close()) }
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.Start(ready); err != nil {
		return fail(err)
	}
	var pods [3]*cluster.Pod
	for i, n := range []*cluster.Node{c.Nodes[0], c.Nodes[0], c.Nodes[1]} {
		if pods[i], err = n.AddPod(ready, fmt.Sprint("bench-", i)); err != nil {
			return fail(err)
		}
	}
	from := pods[0].NS
	l.Same4 = load.Path{From: from, To: pods[1].NS, Addr: pods[1].IP4}
	l.Same6 = load.Path{From: from, To: pods[1].NS, Addr: pods[1].IP6}
	l.Cross4 = load.Path{From: from, To: pods[2].NS, Addr: pods[2].IP4}
	l.Cross6 = load.Path{From: from, To: pods[2].NS, Addr: pods[2].IP6}
	return l, nil
}
