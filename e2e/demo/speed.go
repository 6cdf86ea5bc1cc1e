package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/e2e/rival"
)

// speed measures Weft beside what this machine can do without it.
func (s *story) speed(ctx context.Context) (err error) {
	title("Speed, beside the limits: a bare veth pair; routing without an overlay")
	limits, err := rival.Limits()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limits.Close()) }()
	a, same, cross := s.all[0], s.all[1], s.all[2]
	path := func(i int, sameNode bool) load.Path {
		to := cross
		if sameNode {
			to = same
		}
		return load.Path{From: a.NS, To: to.NS, Addr: to.Addrs()[i]}
	}
	rows := []struct {
		name        string
		weft, limit load.Path
	}{
		{"same node, IPv4", path(0, true), limits.Same4}, {"same node, IPv6", path(1, true), limits.Same6},
		{"other node, IPv4", path(0, false), limits.Cross4}, {"other node, IPv6", path(1, false), limits.Cross6},
	}
	table(func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "  \trequests/s\tlimit\tratio\tGb/s\tlimit\tratio")
		for _, r := range rows {
			fmt.Fprintf(w, "  %s", r.name)
			for _, k := range []struct {
				kind  load.Kind
				scale float64
			}{{load.RR, 1}, {load.Stream, 8e-9}} {
				var weft, limit []float64
				for i := range 4 { // A B B A
					p, into := r.weft, &weft
					if i == 1 || i == 2 {
						p, into = r.limit, &limit
					}
					if err = ctx.Err(); err != nil {
						return
					}
					var v float64
					if v, err = load.Measure(p, k.kind, 1, 400*time.Millisecond); err != nil {
						return
					}
					*into = append(*into, v*k.scale)
				}
				got, want := slices.Max(weft), slices.Max(limit)
				fmt.Fprintf(w, "\t%.*f\t%.*f\t%.2f", decimals(got), got, decimals(want), want, got/want)
			}
			fmt.Fprintln(w)
		}
	})
	if err == nil {
		fmt.Println("  Short turns on a shared machine: trust the ratios roughly; `make bench` measures properly.")
	}
	return err
}

func decimals(v float64) int {
	if v < 1000 {
		return 1
	}
	return 0
}
