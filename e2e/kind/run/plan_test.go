package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestOnlyChoosesClusters(t *testing.T) {
	for _, c := range []struct {
		only string
		want []string // nil: an error that says which there are
	}{
		{"", []string{"dual", "ipv4", "zones"}},
		{"ipv4|zones", []string{"ipv4", "zones"}},
		{"^ipv$", nil},
		{"(", nil},
	} {
		plans, err := options{only: c.only}.chosenOf([]plan{{name: "dual"}, {name: "ipv4"}, {name: "zones"}})
		var got []string
		for _, p := range plans {
			got = append(got, p.name)
		}
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("-only %q: got %v, %v, want %v", c.only, got, err, c.want)
		}
		if c.only == "^ipv$" && !strings.Contains(err.Error(), "dual, ipv4, zones") {
			t.Errorf("got %q, want it to name the clusters", err)
		}
	}
}

func TestClustersAreTestedAfterOneThatFailed(t *testing.T) {
	plans := []plan{{name: "dual"}, {name: "ipv4"}, {name: "zones"}}
	var rep report
	var got []string
	broken := errors.New("it did not come up")
	err := each(t.Context(), plans, &rep, func(p plan) error {
		got = append(got, p.name)
		if p.name == "zones" {
			return nil
		}
		return broken
	})
	if !slices.Equal(got, []string{"dual", "ipv4", "zones"}) || !errors.Is(err, broken) {
		t.Errorf("tested %v, got %v, want all, and the failures", got, err)
	}
	var failed []string
	for _, p := range rep.parts {
		failed = append(failed, p.cluster+": "+p.specs[0].Reason)
	}
	if !slices.Equal(failed, []string{"dual: it did not come up", "ipv4: it did not come up"}) {
		t.Errorf("the report tells of %q, want both clusters that failed", failed)
	}
}

func TestNoClusterIsTestedAfterCtrlC(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	tested := 0
	if err := each(ctx, []plan{{name: "dual"}, {name: "ipv4"}}, &report{}, func(plan) error {
		tested++
		interrupt()
		return ctx.Err()
	}); tested != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("tested %d clusters, got %v, want one, and that it was interrupted", tested, err)
	}
}
