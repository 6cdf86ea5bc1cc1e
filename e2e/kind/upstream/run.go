// Package upstream runs Kubernetes' own end-to-end tests against a cluster and tells of
// each spec what became of it. It has no list of specs to skip.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/e2e/kind/progress"
)

// Tools are upstream's programs.
type Tools struct {
	Tests   string // e2e.test
	Ginkgo  string
	Kubectl string
}

// Run says which specs to run.
type Run struct {
	Focus string // a regular expression for the specs' full names
	Procs int    // specs that run at a time; 0: 4
	// Timeout is for the whole run; 0: two hours, four times what all need on a busy machine.
	// Specs still running or waiting then count as failed.
	Timeout time.Duration
}

// Do runs the specs and keeps what they say in dir. It returns an error if that could not
// be done, not if specs failed.
func (r Run) Do(ctx context.Context, c *cluster.Cluster, tools Tools, dir string, log *progress.Log) ([]Spec, error) {
	if r.Procs == 0 {
		r.Procs = 4
	}
	if r.Timeout == 0 {
		r.Timeout = 2 * time.Hour
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("run upstream's tests: %w", err)
	}
	out, err := os.Create(filepath.Join(dir, "ginkgo.log"))
	if err != nil {
		return nil, fmt.Errorf("run upstream's tests: %w", err)
	}
	junit := filepath.Join(dir, "junit.xml")
	if err := os.Remove(junit); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("run upstream's tests: %w", err)
	}
	focus, err := regexp.Compile(r.Focus)
	if err != nil {
		return nil, fmt.Errorf("run upstream's tests: %w", err)
	}
	missing := lacking()
	cmd := c.Command(ctx, tools.Ginkgo, r.args(c, tools, dir, missing)...)
	var ended error
	log.Say("upstream's specs that match %s", r.Focus)
	_ = log.Step("upstream's specs", func() error {
		ended = errors.Join(proc.Logged(cmd, out), out.Close())
		return nil // that specs failed is no failure of the step
	})
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run upstream's tests: %w", err)
	}
	f, err := os.Open(junit)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run upstream's tests: %w", err), ended)
	}
	defer f.Close()
	specs, err := read(f, focus, missing, ended != nil)
	if err != nil {
		return nil, errors.Join(err, ended)
	}
	if len(specs) == 0 {
		return nil, errors.Join(fmt.Errorf("no spec matches %s", r.Focus), ended)
	}
	if ended != nil && len(Failures(specs)) == 0 {
		return specs, fmt.Errorf("run upstream's tests: %w", ended)
	}
	return specs, nil
}

// args are Ginkgo's, and after its dashes those of Kubernetes' tests.
func (r Run) args(c *cluster.Cluster, tools Tools, dir string, missing lacks) []string {
	args := []string{"--procs=" + strconv.Itoa(r.Procs), "--no-color", "--timeout=" + r.Timeout.String(), "--focus=" + r.Focus,
		"--junit-report=junit.xml", "--output-dir=" + dir, "--silence-skips"}
	if skip := missing.skip(); skip != "" {
		args = append(args, "--skip="+skip)
	}
	return append(args, tools.Tests, "--",
		"--kubeconfig="+c.Kubeconfig(), "--provider=skeleton", "--kubectl-path="+tools.Kubectl,
		"--num-nodes="+strconv.Itoa(c.Spec.Takers()), "--disable-log-dump", "--report-dir="+dir)
}

// Print writes a line for each spec and the sums.
func Print(w io.Writer, specs []Spec) {
	sums := map[Outcome]int{}
	for _, s := range specs {
		sums[s.Outcome]++
		fmt.Fprintf(w, "%-11s %5.1fs  %s\n", s.Outcome, s.Took.Seconds(), s.Name)
		if s.Reason != "" {
			fmt.Fprintf(w, "%21s%s\n", "", s.Reason)
		}
	}
	fmt.Fprintf(w, "%d specs: %d passed, %d failed, %d unavailable here, %d skipped by upstream itself\n",
		len(specs), sums[Passed], sums[Failed], sums[Unavailable], sums[Skipped])
}

// Broken is a spec that failed by an error.
func Broken(name string, err error) Spec {
	return Spec{Name: name, Outcome: Failed, Reason: oneLine(err.Error())}
}

// Failures are the specs that failed.
func Failures(specs []Spec) []Spec {
	var failed []Spec
	for _, s := range specs {
		if s.Outcome == Failed {
			failed = append(failed, s)
		}
	}
	return failed
}
