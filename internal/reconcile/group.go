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
	return errors.Join(append(errs, g.Write(), g.Prune())...)
}

// Write writes all tables in order.
func (g Group) Write() error {
	var errs []error
	for _, s := range g {
		errs = append(errs, s.Write())
	}
	return errors.Join(errs...)
}

// Prune prunes all tables in reverse order.
func (g Group) Prune() error {
	var errs []error
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
