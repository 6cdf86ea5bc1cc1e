package main

import (
	"context"
	"fmt"
	"regexp"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/e2e/kind/scenario"
)

// chosenScenarios are those that the options choose for a network.
func (o options) chosenScenarios(given network, long bool) ([]scenario.Scenario, error) {
	all := scenario.Short()
	if long || o.scenarios != "" {
		all = append(all, scenario.Long()...)
	}
	matches, err := regexp.Compile(o.scenarios)
	if err != nil {
		return nil, fmt.Errorf("-scenarios: %w", err)
	}
	var chosen []scenario.Scenario
	for _, s := range all {
		if matches.MatchString(s.Name) && (given.weft || s.AnyNetwork) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 && o.scenarios != "" {
		return nil, fmt.Errorf("-scenarios: none of %s is called %q", given.name, o.scenarios)
	}
	return chosen, nil
}

// playHeld plays scenarios on a cluster that another run holds.
func (o options) playHeld(ctx context.Context, log *progress.Log) error {
	c, err := cluster.Held(o.held, log)
	if err != nil {
		return err
	}
	scenarios, err := o.chosenScenarios(network{name: "a held cluster", weft: true}, o.full)
	if err != nil {
		return err
	}
	return scenario.Play(ctx, c, log, scenarios)
}
