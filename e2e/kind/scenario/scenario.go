// Package scenario holds stories that are played on a running kind cluster, with the real
// kubelet and runtime. They are no Go tests, because they need a cluster: command run
// plays them.
package scenario

import (
	"context"
	"errors"
	"fmt"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/progress"
)

// Scenario is one story. Play returns nil if all went as it should, and removes what it
// made.
type Scenario struct {
	Name string // what is shown, as a sentence without its dot
	Play func(context.Context, *cluster.Cluster) error
}

// Short are the scenarios of every run.
func Short() []Scenario {
	return []Scenario{
		{"pods of all nodes reach each other, a Service and its name, in each family", talk},
	}
}

// Play plays all scenarios, also after one that failed, and tells of each.
func Play(ctx context.Context, c *cluster.Cluster, log *progress.Log, scenarios []Scenario) error {
	var errs []error
	for _, s := range scenarios {
		if ctx.Err() != nil {
			break
		}
		errs = append(errs, log.Step(s.Name, func() error { return s.Play(ctx, c) }))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("scenarios: %w", err)
	}
	return nil
}
