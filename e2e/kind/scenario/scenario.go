// Package scenario holds stories that are played on a running kind cluster, with the real
// kubelet and runtime. They are no Go tests, because they need a cluster: command run
// plays them.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/echo"
	"github.com/weftnet/weft/e2e/kind/progress"
)

// Scenario is one story. Play returns nil if all went as it should, and removes what it
// made.
type Scenario struct {
	Name string // what is shown, as a sentence without its dot
	Play func(context.Context, *cluster.Cluster) error
	// AnyNetwork is whether it needs nothing of Weft.
	AnyNetwork bool
}

// Short are the scenarios of every run.
func Short() []Scenario {
	return []Scenario{
		{"pods of all nodes reach each other, a Service and its name, in each family", talk, true},
		{"weft status tells of all nodes, and a copy of a pod has addresses of its own", shown, false},
		{"CNI files that vanish or are cut are back in ten seconds, whole at any time", installer, false},
		{"a NetworkPolicy cuts off the pods of all nodes, is named for it, and lets through by a label", policed, false},
		{"weft web in a daemon's pod, by exec and port-forward, shows nodes, a Service and its backends", browsed, false},
	}
}

// Long are those that take minutes.
func Long() []Scenario {
	return []Scenario{
		{"110 pods on one node start in a burst, are deleted, and leave nothing", burst, false},
		{"110 pods are deleted while their node's daemon is dead", orphaned, false},
		{"110 pods are removed by the runtime while the API server is stopped", cutOff, false},
		{"daemons are updated to another layout of their maps, and back, under load", relayout, false},
		{"without an API server for a minute, daemons restart, pods go and come, under load", outage, false},
		{"CNI files that vanish or are cut, many times", longInstaller, false},
		{"a node is shut down, or loses its power, and starts: no address leaks, all reconnect", reboot, false},
		{"a node leaves and rejoins with other pod prefixes, and the others follow", rejoin, false},
		{"all API servers get other addresses, one by one, while daemons are down", moved, false},
		{"portmap, bandwidth and tuning behind Weft do their work and leave nothing", chained, false},
		{"the example under load is spread evenly, and loses nothing when it is scaled or killed", example, false},
	}
}

// Outside are those of a cluster whose Services get addresses of load balancers.
func Outside() []Scenario {
	return []Scenario{
		{"pools of addresses are set", pooled, false},
		{"the example is reached from outside, at addresses as asked for, also when who announces one is cut off", reached, false},
		{"weft web shows who announces the addresses of a load balancer", announced, false},
	}
}

// Last are those that take Weft away, and bring it back. They are played at the end of every
// run.
func Last() []Scenario {
	return []Scenario{
		{"weft uninstall leaves all nodes as they were, and another network works", uninstall, false},
		{"weft install, from outside, brings Weft to a cluster that had another network", fromOutside, false},
	}
}

// Played is what became of a scenario.
type Played struct {
	Name string
	Took time.Duration
	Err  error
}

// patience is how long a scenario may take. The longest need a quarter of it on a busy
// machine; one that hangs must not keep the others from being played.
const patience = 30 * time.Minute

// Play plays all scenarios, also after one that failed, and tells of each. The error is all
// of theirs, or why none could be played.
func Play(ctx context.Context, c *cluster.Cluster, log *progress.Log, scenarios []Scenario) ([]Played, error) {
	if len(scenarios) == 0 {
		return nil, nil
	}
	if err := prepare(ctx, c); err != nil {
		return nil, fmt.Errorf("scenarios: %w", err)
	}
	var all []Played
	var errs []error
	for _, s := range scenarios {
		if ctx.Err() != nil {
			break
		}
		p, began := Played{Name: s.Name}, time.Now()
		errs = append(errs, log.Step(s.Name, func() error {
			p.Err = s.within(ctx, c, patience)
			return p.Err
		}))
		p.Took = time.Since(began)
		all = append(all, p)
	}
	if err := errors.Join(errs...); err != nil {
		return all, fmt.Errorf("scenarios: %w", err)
	}
	return all, nil
}

// within plays the scenario for so long at most.
func (s Scenario) within(ctx context.Context, c *cluster.Cluster, d time.Duration) error {
	playing, stop := context.WithTimeout(ctx, d)
	defer stop()
	err := s.Play(playing, c)
	if playing.Err() != nil && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("it was ended after %s", d), err)
	}
	return err
}

// prepare gives the nodes the image of the test program.
func prepare(ctx context.Context, c *cluster.Cluster) error {
	dir, err := os.MkdirTemp("", "weft-kind-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	archive := filepath.Join(dir, "echo-image.tar")
	if err = echo.WriteImage(archive); err == nil {
		err = c.LoadImage(ctx, archive)
	}
	return errors.Join(err, os.RemoveAll(dir))
}
