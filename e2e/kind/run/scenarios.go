package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/e2e/kind/scenario"
)

// choose takes those of the scenarios that the options name and the network can play.
func (o options) choose(given network, all ...[]scenario.Scenario) ([]scenario.Scenario, error) {
	matches, err := regexp.Compile(o.scenarios)
	if err != nil {
		return nil, fmt.Errorf("-scenarios: %w", err)
	}
	return slices.DeleteFunc(slices.Concat(all...), func(s scenario.Scenario) bool {
		return !matches.MatchString(s.Name) || !given.weft && !s.AnyNetwork
	}), nil
}

// playHeld plays scenarios on a cluster that another run holds.
func (o options) playHeld(ctx context.Context, log *progress.Log, rep *report) error {
	c, err := cluster.Held(o.held, log)
	if err != nil {
		return err
	}
	given, all := network{weft: true}, [][]scenario.Scenario{scenario.Short()}
	if o.full || o.scenarios != "" {
		all = append(all, scenario.Long(), scenario.Outside(), scenario.Last())
	}
	scenarios, err := o.choose(given, all...)
	if err != nil {
		return err
	}
	played, err := scenario.Play(ctx, c, log, scenarios)
	rep.scenarios(filepath.Base(o.held), played, err)
	return err
}
