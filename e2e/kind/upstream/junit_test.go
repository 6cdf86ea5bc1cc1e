package upstream

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// As Ginkgo 2 writes it.
const report = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="8" failures="2">
 <testsuite name="Kubernetes e2e suite" tests="8">
  <testcase name="[SynchronizedBeforeSuite]" status="passed" time="0.5"></testcase>
  <testcase name="[It] [sig-network] Services should serve [Conformance] [sig-network, Conformance]" status="passed" time="2.5"></testcase>
  <testcase name="[It] [sig-network] Services should reject" status="failed" time="61">
   <failure message="timed out&#xA;  waiting" type="failed">stack</failure><system-err>much</system-err></testcase>
  <testcase name="[It] [sig-network] Services should speak SCTP" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-storage] volumes over SCTP" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-network] LoadBalancers should exist [sig-network]" status="skipped" time="0.1">
   <skipped message="skipped - Only supported for providers [gce]"></skipped></testcase>
  <testcase name="[It] [sig-storage] not chosen" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-network] not finished by upstream" status="pending" time="0"><skipped message="pending"></skipped></testcase>
  <testcase name="[It] [sig-network] Services should be killed" status="interrupted" time="9">
   <error message="suite timed out" type="interrupted"></error></testcase>
 </testsuite>
</testsuites>`

var network = regexp.MustCompile(`\[sig-network\]`)

func TestReportTellsWhatBecameOfEachChosenSpec(t *testing.T) {
	noSCTP := lacks{{"SCTP", regexp.MustCompile(`SCTP`)}}
	got, err := read(strings.NewReader(report), network, noSCTP, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []Spec{
		{"[sig-network] LoadBalancers should exist", Skipped, "Only supported for providers [gce]", 100 * time.Millisecond},
		{"[sig-network] Services should be killed", Failed, "suite timed out", 9 * time.Second},
		{"[sig-network] Services should reject", Failed, "timed out waiting", 61 * time.Second},
		{"[sig-network] Services should serve [Conformance]", Passed, "", 2500 * time.Millisecond},
		{"[sig-network] Services should speak SCTP", Unavailable, "needs SCTP", 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	if failed := Failures(got); len(failed) != 2 {
		t.Errorf("failures are %v, want the two that failed", failed)
	}
	var out bytes.Buffer
	Print(&out, got)
	if sums := "5 specs: 1 passed, 2 failed, 1 unavailable here, 1 skipped by upstream itself\n"; !strings.HasSuffix(out.String(), sums) {
		t.Errorf("printed %q, want it to end with %q", out.String(), sums)
	}
}

func TestAFailureBeforeTheSpecsIsAFailure(t *testing.T) {
	got, err := read(strings.NewReader(strings.Replace(report, `name="[SynchronizedBeforeSuite]" status="passed"`,
		`name="[SynchronizedBeforeSuite]" status="failed"`, 1)), network, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Name != "[SynchronizedBeforeSuite]" || got[0].Outcome != Failed {
		t.Errorf("first is %v, want the suite's failure", got[0])
	}
}

func TestSpecsThatARunDidNotComeToFailed(t *testing.T) {
	noSCTP := lacks{{"SCTP", regexp.MustCompile(`SCTP`)}}
	const cut = `<testsuites><testsuite>
  <testcase name="[SynchronizedAfterSuite]" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-network] DNS should wait" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-network] Services should be slow" status="timedout" time="3600"></testcase>
  <testcase name="[It] [sig-network] Services should speak SCTP" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-storage] not chosen" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
</testsuite></testsuites>`
	got, err := read(strings.NewReader(cut), network, noSCTP, true)
	if err != nil {
		t.Fatal(err)
	}
	want := []Spec{
		{"[sig-network] DNS should wait", Failed, "it was not run: the run ended before", 0},
		{"[sig-network] Services should be slow", Failed, "timedout", time.Hour},
		{"[sig-network] Services should speak SCTP", Unavailable, "needs SCTP", 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
}
