package upstream

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/kind/build"
)

// told is what test2json writes of these events.
func told(t *testing.T, events ...event) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	for _, e := range events {
		if err := json.NewEncoder(&b).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	return &b
}

func said(test, text string) event {
	return event{Action: "output", Test: test, Output: "    helper.go:68: " + text + "\n"}
}

func TestEventsTellWhatBecameOfEachTest(t *testing.T) {
	const in = "TestAll/Egress"
	var text bytes.Buffer
	got, err := readGoTest(told(t,
		event{Action: "start"},
		event{Action: "run", Test: "TestAll"},
		event{Action: "output", Test: "TestAll", Output: "=== RUN   TestAll\n"},
		event{Action: "run", Test: in},
		event{Action: "run", Test: in + "/all_protocols"},
		said(in+"/all_protocols", build.Asked), said(in+"/all_protocols", build.Asked), said(in+"/all_protocols", build.Unasked),
		event{Action: "pass", Test: in + "/all_protocols", Elapsed: 1.5},
		event{Action: "run", Test: in + "/only_SCTP"},
		said(in+"/only_SCTP", build.Unasked),
		event{Action: "pass", Test: in + "/only_SCTP", Elapsed: 0.1},
		event{Action: "run", Test: in + "/SCTP_policy_is_refused"},
		said(in+"/SCTP_policy_is_refused", build.Unasked), said(in+"/SCTP_policy_is_refused", "error updating"),
		event{Action: "fail", Test: in + "/SCTP_policy_is_refused"},
		event{Action: "run", Test: in + "/TCP"},
		said(in+"/TCP", build.Asked), said(in+"/TCP", "expected connection"), said(in+"/TCP", "to fail"),
		event{Action: "fail", Test: in + "/TCP", Elapsed: 11},
		event{Action: "fail", Test: in},
		event{Action: "run", Test: "TestAll/Cleanup"},
		event{Action: "run", Test: "TestAll/Cleanup/works"},
		event{Action: "pass", Test: "TestAll/Cleanup/works"},
		said("TestAll/Cleanup", "error deleting"),
		event{Action: "fail", Test: "TestAll/Cleanup"},
		event{Action: "run", Test: "TestAll/Named"},
		said("TestAll/Named", "not supported"),
		event{Action: "skip", Test: "TestAll/Named"},
		event{Action: "fail", Test: "TestAll"},
		event{Action: "fail"},
	), "TestAll", &text)
	if err != nil {
		t.Fatal(err)
	}
	const needs = "needs SCTP sockets, which this kernel does not have"
	want := []Spec{
		{"Cleanup", Failed, "helper.go:68: error deleting", 0},
		{"Cleanup/works", Passed, "", 0},
		{"Egress/SCTP policy is refused", Failed, "helper.go:68: error updating", 0},
		{"Egress/SCTP policy is refused, by SCTP", Unavailable, needs, 0},
		{"Egress/TCP", Failed, "helper.go:68: expected connection helper.go:68: to fail", 11 * time.Second},
		{"Egress/all protocols", Passed, "", 1500 * time.Millisecond},
		{"Egress/all protocols, by SCTP", Unavailable, needs, 0},
		{"Egress/only SCTP, by SCTP", Unavailable, needs, 0},
		{"Named", Skipped, "helper.go:68: not supported", 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	if !strings.Contains(text.String(), "=== RUN   TestAll\n    helper.go:68: "+build.Asked) {
		t.Errorf("kept %q, want all that the tests said", text.String())
	}
}

func TestGoTestsThatEndEarlyFailed(t *testing.T) {
	for name, c := range map[string]struct {
		events []event
		want   []Spec
	}{
		"setting up": {
			[]event{{Action: "run", Test: "TestAll"}, said("TestAll", "no namespaces"), {Action: "fail", Test: "TestAll"}, {Action: "fail"}},
			[]Spec{{"TestAll", Failed, "helper.go:68: no namespaces", 0}},
		},
		"killed": {
			[]event{{Action: "run", Test: "TestAll"}, {Action: "run", Test: "TestAll/One"}, {Action: "run", Test: "TestAll/One/a"}},
			[]Spec{{"One/a", Failed, "it did not end", 0}},
		},
		"none was there": {[]event{{Action: "run", Test: "TestAll"}, {Action: "pass", Test: "TestAll"}, {Action: "pass"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readGoTest(told(t, c.events...), "TestAll", &bytes.Buffer{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("specs (-want +got):\n%s", diff)
			}
		})
	}
}
