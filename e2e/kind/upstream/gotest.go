package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
)

// event is one that test2json writes.
type event struct {
	Action  string
	Test    string // empty: it is about all
	Output  string
	Elapsed float64 // seconds
}

// goTest is what is known of a Go test.
type goTest struct {
	end            string // pass, fail or skip; empty: it did not end
	took           time.Duration
	said           strings.Builder
	parent         bool // it has tests within
	asked, unasked int  // questions, by what build.PolicyAPI lets them write
}

// readGoTest reads what test2json wrote about tests below root, and writes what these said
// to text. A test is a spec if it has none within; one that has is if it failed by itself.
// What a test does not ask because this kernel lacks SCTP is a spec of its own, as
// unavailable.
func readGoTest(r io.Reader, root string, text io.Writer) ([]Spec, error) {
	tests := map[string]*goTest{}
	var order []string
	for dec := json.NewDecoder(r); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what test2json wrote: %w", err)
		}
		if _, err := io.WriteString(text, e.Output); err != nil {
			return nil, fmt.Errorf("keep what the tests said: %w", err)
		}
		if e.Test == "" {
			continue
		}
		t, known := tests[e.Test]
		if !known {
			t = &goTest{}
			tests[e.Test] = t
			order = append(order, e.Test)
			if p, ok := tests[parentOf(e.Test)]; ok {
				p.parent = true
			}
		}
		t.hear(e)
	}
	var specs []Spec
	for _, name := range order {
		specs = append(specs, tests[name].specs(name, root, failedWithin(name, tests))...)
	}
	slices.SortStableFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs, nil
}

func (t *goTest) hear(e event) {
	switch e.Action {
	case "pass", "fail", "skip":
		t.end, t.took = e.Action, time.Duration(e.Elapsed*float64(time.Second))
	case "output":
		switch line := strings.TrimSpace(e.Output); {
		case strings.HasSuffix(line, build.Asked):
			t.asked++
		case strings.HasSuffix(line, build.Unasked):
			t.unasked++
		case !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- "):
			t.said.WriteString(e.Output)
		}
	}
}

// specs are what the test is in a report: none, one, or two.
func (t *goTest) specs(name, root string, failedWithin bool) []Spec {
	s := Spec{Name: strings.ReplaceAll(strings.TrimPrefix(name, root+"/"), "_", " "), Took: t.took}
	switch {
	case t.end == "fail" && !failedWithin:
		s.Outcome, s.Reason = Failed, oneLine(t.said.String())
	case t.end == "" && !failedWithin:
		s.Outcome, s.Reason = Failed, oneLine("it did not end "+t.said.String())
	case t.end == "skip":
		s.Outcome, s.Reason = Skipped, oneLine(t.said.String())
	case t.parent || name == root:
		return nil
	default:
		s.Outcome = Passed
	}
	if t.unasked == 0 {
		return []Spec{s}
	}
	missing := Spec{Name: s.Name + ", by SCTP", Outcome: Unavailable, Reason: "needs " + sctpSockets}
	if t.asked == 0 && s.Outcome == Passed {
		return []Spec{missing}
	}
	return []Spec{s, missing}
}

// parentOf is the test that a test is within; empty if it is in none.
func parentOf(name string) string {
	i := strings.LastIndex(name, "/")
	return name[:max(i, 0)]
}

func failedWithin(name string, tests map[string]*goTest) bool {
	for other, t := range tests {
		if strings.HasPrefix(other, name+"/") && (t.end == "fail" || t.end == "") {
			return true
		}
	}
	return false
}
