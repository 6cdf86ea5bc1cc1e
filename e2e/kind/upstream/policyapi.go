package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/e2e/kind/progress"
)

// policyAPITest is the suite's one test; all others are within it.
const policyAPITest = "TestConformance"

// PolicyAPI runs the conformance suite of network-policy-api, with all its features: files is
// the folder of [build.PolicyAPI]'s artefact. It installs the CRD before, and removes it
// afterwards. What the tests say is kept in dir. As of [Run.Do], the error is not about tests
// that failed.
func PolicyAPI(ctx context.Context, c *cluster.Cluster, files, dir string, log *progress.Log) (specs []Spec, err error) {
	const timeout = 40 * time.Minute
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("run network-policy-api's tests: %w", err)
	}
	events := filepath.Join(dir, "policy-api.json")
	out, err := os.Create(events)
	if err != nil {
		return nil, fmt.Errorf("run network-policy-api's tests: %w", err)
	}
	crd := filepath.Join(files, build.PolicyAPICRD)
	defer func() {
		if cleaned := removePolicyAPI(context.WithoutCancel(ctx), c, crd); cleaned != nil {
			err = errors.Join(err, fmt.Errorf("clean up after network-policy-api's tests: %w", cleaned))
		}
	}()
	var ended error
	_ = log.Step("the conformance suite of network-policy-api", func() error {
		for _, args := range [][]string{
			{"apply", "--server-side", "--filename=" + crd},
			{"wait", "--for=condition=Established", "--timeout=1m", "--filename=" + crd},
		} {
			ended = errors.Join(ended, proc.Run(c.Kubectl(ctx, args...)))
		}
		if ended == nil {
			cmd := c.Command(ctx, filepath.Join(files, build.Test2JSON), "-t", filepath.Join(files, build.PolicyAPITests),
				"-test.v=test2json", "-test.run=^"+policyAPITest+"$", "-test.timeout="+timeout.String(), "-all-features")
			cmd.Stdout = out
			ended = proc.Run(cmd)
		}
		return nil // that tests failed is no failure of the step
	})
	ended = errors.Join(ended, out.Close())
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run network-policy-api's tests: %w", err)
	}
	if specs, err = readPolicyAPI(events, filepath.Join(dir, "policy-api.log")); err == nil && len(specs) == 0 {
		err = errors.New("network-policy-api's suite has told of no test")
	}
	if err != nil {
		return nil, errors.Join(err, ended)
	}
	if ended != nil && len(Failures(specs)) == 0 {
		return specs, fmt.Errorf("run network-policy-api's tests: %w", ended)
	}
	return specs, nil
}

// readPolicyAPI reads what test2json wrote to a file, and keeps the text of it in another.
func readPolicyAPI(events, text string) (specs []Spec, err error) {
	in, err := os.Open(events)
	if err != nil {
		return nil, fmt.Errorf("read network-policy-api's results: %w", err)
	}
	defer in.Close()
	out, err := os.Create(text)
	if err != nil {
		return nil, fmt.Errorf("read network-policy-api's results: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return readGoTest(in, policyAPITest, out)
}

// removePolicyAPI removes what the suite leaves, and waits until it is gone: the namespaces
// have this label, which nothing else has.
func removePolicyAPI(ctx context.Context, c *cluster.Cluster, crd string) error {
	return errors.Join(
		proc.Run(c.Kubectl(ctx, "delete", "namespaces", "--selector=conformance-house", "--ignore-not-found", "--timeout=5m")),
		proc.Run(c.Kubectl(ctx, "delete", "--filename="+crd, "--ignore-not-found", "--timeout=2m")))
}
