package main

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/kind/scenario"
	"github.com/weftnet/weft/e2e/kind/upstream"
)

func TestReportTellsOfEverythingThatDidNotPass(t *testing.T) {
	var r report
	r.scenarios("dual", []scenario.Played{
		{Name: "pods talk", Took: time.Second},
		{Name: "a node starts again", Err: errors.New("got 1 lease,\nwant 0")},
	}, errors.New("scenarios failed"))
	r.add("dual", "upstream's specs", []upstream.Spec{
		{Name: "Services serve", Outcome: upstream.Passed},
		{Name: "Services by SCTP", Outcome: upstream.Unavailable, Reason: "needs SCTP"},
		{Name: "Zones", Outcome: upstream.Skipped, Reason: "needs zones"},
	}, nil)
	r.ended("dual", errors.New("scenarios failed")) // told of above
	r.add("ipv4", "upstream's specs", nil, errors.New("no report was written"))
	r.ended("ipv4", errors.New("no report was written"))
	r.ended("ipv6", errors.New("kind create: exit status 1"))
	r.scenarios("zones", nil, nil)
	r.ended("zones", nil)
	var got bytes.Buffer
	r.print(&got)
	want := `
== In all
cluster  what                passed  failed  unavailable  skipped
dual     scenarios           1       1       0            0
dual     upstream's specs    1       0       1            1
ipv4     upstream's specs    0       1       0            0
ipv6     the cluster itself  0       1       0            0
skipped on dual: Zones: needs zones
unavailable on dual: Services by SCTP: needs SCTP
failed on dual: a node starts again: got 1 lease, want 0
failed on ipv4: upstream's specs: no report was written
failed on ipv6: the cluster itself: kind create: exit status 1
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestReportOfNothingIsNothing(t *testing.T) {
	var got bytes.Buffer
	(&report{}).print(&got)
	if got.Len() > 0 {
		t.Errorf("got %q, want nothing", got.String())
	}
}
