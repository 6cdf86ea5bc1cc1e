package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/weftnet/weft/e2e/kind/scenario"
	"github.com/weftnet/weft/e2e/kind/upstream"
)

// report is what became of all that a run tried. Its zero value is of one that has just
// begun.
type report struct{ parts []part }

// part is one thing that a cluster was tried with.
type part struct {
	cluster, what string
	specs         []upstream.Spec
}

// add tells of specs. An error that none of them tells of is one more that failed.
func (r *report) add(cluster, what string, specs []upstream.Spec, err error) {
	if err != nil && len(upstream.Failures(specs)) == 0 {
		specs = append(specs, upstream.Broken(what, err))
	}
	if len(specs) > 0 {
		r.parts = append(r.parts, part{cluster, what, specs})
	}
}

// scenarios tells of scenarios.
func (r *report) scenarios(cluster string, played []scenario.Played, err error) {
	var specs []upstream.Spec
	for _, p := range played {
		if p.Err != nil {
			specs = append(specs, upstream.Broken(p.Name, p.Err))
		} else {
			specs = append(specs, upstream.Spec{Name: p.Name, Outcome: upstream.Passed, Took: p.Took})
		}
	}
	r.add(cluster, "scenarios", specs, err)
}

// ended tells that there is nothing more of a cluster. An error that none of its parts tells
// of (it did not come up, or could not be removed) is one more part.
func (r *report) ended(cluster string, err error) {
	for _, p := range r.parts {
		if p.cluster == cluster && len(upstream.Failures(p.specs)) > 0 {
			return
		}
	}
	r.add(cluster, "the cluster itself", nil, err)
}

// print writes the sums of each part, then the names of all that did not pass.
func (r *report) print(w io.Writer) {
	if len(r.parts) == 0 {
		return
	}
	fmt.Fprintf(w, "\n== In all\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	outcomes := []upstream.Outcome{upstream.Passed, upstream.Failed, upstream.Unavailable, upstream.Skipped}
	fmt.Fprint(table, "cluster\twhat")
	for _, o := range outcomes {
		fmt.Fprintf(table, "\t%s", o)
	}
	for _, p := range r.parts {
		fmt.Fprintf(table, "\n%s\t%s", p.cluster, p.what)
		for _, o := range outcomes {
			fmt.Fprintf(table, "\t%d", len(p.of(o)))
		}
	}
	fmt.Fprintln(table)
	_ = table.Flush() // it is for people: who cannot read it has nothing to do about it
	for _, o := range []upstream.Outcome{upstream.Skipped, upstream.Unavailable, upstream.Failed} {
		for _, p := range r.parts {
			for _, s := range p.of(o) {
				fmt.Fprintf(w, "%s on %s: %s: %s\n", o, p.cluster, s.Name, cmp.Or(s.Reason, "no reason was given"))
			}
		}
	}
}

// of are the specs that came out so.
func (p part) of(o upstream.Outcome) []upstream.Spec {
	var out []upstream.Spec
	for _, s := range p.specs {
		if s.Outcome == o {
			out = append(out, s)
		}
	}
	return out
}
