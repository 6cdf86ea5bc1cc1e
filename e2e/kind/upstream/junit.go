package upstream

import (
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Outcome is what became of a spec.
type Outcome string

// The outcomes.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
	// Unavailable is a spec that was not run, because this machine's kernel lacks what it
	// needs. It says nothing about Weft.
	Unavailable Outcome = "unavailable"
	// Skipped is a spec that looked at the cluster and skipped itself.
	Skipped Outcome = "skipped"
)

// Spec is one of upstream's specs that the run chose.
type Spec struct {
	Name    string
	Outcome Outcome
	Reason  string // if it did not pass: what it said, in one line
	Took    time.Duration
}

// testCase is one in a JUnit report that Ginkgo wrote.
type testCase struct {
	Name    string   `xml:"name,attr"`
	Status  string   `xml:"status,attr"` // Ginkgo's own: passed, skipped, pending, failed, panicked, …
	Seconds float64  `xml:"time,attr"`
	Skipped *message `xml:"skipped"`
	Failure *message `xml:"failure"`
	Error   *message `xml:"error"`
}

type message struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// labels are what Ginkgo appends to a spec's name: its labels, of which Kubernetes' have
// at least the name of the group that keeps the spec, also in the name.
var labels = regexp.MustCompile(` \[sig-[a-z-]+(, [^\]]*)?\]$`)

// read reads a JUnit report. Specs that were not run are in it too, as skipped without a
// reason: of those that focus chooses, the ones that need what lacks are returned as
// unavailable, the others, if cut says that the run did not end well, as failed.
func read(r io.Reader, focus *regexp.Regexp, lacks lacks, cut bool) ([]Spec, error) {
	var report struct {
		Cases []testCase `xml:"testsuite>testcase"`
	}
	if err := xml.NewDecoder(r).Decode(&report); err != nil {
		return nil, fmt.Errorf("read JUnit report: %w", err)
	}
	var specs []Spec
	for _, c := range report.Cases {
		name, isSpec := strings.CutPrefix(c.Name, "[It] ")
		s := Spec{Name: labels.ReplaceAllString(name, ""), Took: time.Duration(c.Seconds * float64(time.Second))}
		switch c.Status {
		case "passed":
			if !isSpec { // setting up the suite, or a report
				continue
			}
			s.Outcome = Passed
		case "skipped":
			reason, ran := skipReason(c.Skipped)
			what, needed := lacks.needs(s.Name)
			switch {
			case ran:
				s.Outcome, s.Reason = Skipped, reason
			case needed && focus.MatchString(s.Name):
				s.Outcome, s.Reason = Unavailable, "needs "+what
			case cut && isSpec && focus.MatchString(s.Name):
				s.Outcome, s.Reason = Failed, "it was not run: the run ended before"
			default:
				continue
			}
		case "pending": // upstream's own mark for what is not to be run
			continue
		default:
			s.Outcome, s.Reason = Failed, failReason(c)
		}
		specs = append(specs, s)
	}
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs, nil
}

// skipReason is why a spec skipped itself; ok is false for one that was not run.
func skipReason(m *message) (reason string, ok bool) {
	if m == nil {
		return "", false
	}
	reason, ok = strings.CutPrefix(m.Message, "skipped - ")
	return oneLine(reason), ok && reason != ""
}

func failReason(c testCase) string {
	for _, m := range []*message{c.Failure, c.Error} {
		if m != nil && m.Message != "" {
			return oneLine(m.Message)
		}
	}
	return c.Status
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		return string(r[:300]) + "…"
	}
	return s
}
