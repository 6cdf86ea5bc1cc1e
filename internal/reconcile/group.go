package reconcile

import (
	"errors"
	"slices"
)

// Group is tables in the order of reference: what is referred to comes first.
type Group []Syncer

// Sync writes all tables in order and prunes them in reverse order. If full,
// each is refreshed before. A table or row that fails holds nothing else up;
// all errors are returned together.
func (g Group) Sync(full bool) error {
	var errs []error
	if full {
		for _, s := range g {
			errs = append(errs, s.Refresh())
		}
	}
	for _, s := range g {
		errs = append(errs, s.Write())
	}
	for _, s := range slices.Backward(g) {
		errs = append(errs, s.Prune())
	}
	return errors.Join(errs...)
}

// AllowPrune allows it to all tables.
func (g Group) AllowPrune() {
	for _, s := range g {
		s.AllowPrune()
	}
}
