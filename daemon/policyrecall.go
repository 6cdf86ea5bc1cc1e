package daemon

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/weftnet/weft/daemon/source"
)

// policySummary is what is remembered of the cluster's policies, for the time in which the
// source does not tell: who is certainly not isolated.
type policySummary struct {
	Namespaces []string `json:"namespaces"` // that have a NetworkPolicy, sorted
	Cluster    bool     `json:"cluster"`    // there are ClusterNetworkPolicies
}

func summarise(state source.State) *policySummary {
	s := &policySummary{Namespaces: []string{}, Cluster: len(state.ClusterPolicies) > 0}
	for _, p := range state.Policies { // by namespace
		if n := len(s.Namespaces); n == 0 || s.Namespaces[n-1] != p.Namespace {
			s.Namespaces = append(s.Namespaces, p.Namespace)
		}
	}
	return s
}

// spares says that no policy is about pods of that namespace.
func (s *policySummary) spares(namespace string) bool {
	_, has := slices.BinarySearch(s.Namespaces, namespace)
	return !has && !s.Cluster
}

func (s *policySummary) equal(o *policySummary) bool {
	return s.Cluster == o.Cluster && slices.Equal(s.Namespaces, o.Namespaces)
}

// spares says that a state, which may not be all, has no policy about pods of that
// namespace.
func spares(state source.State, namespace string) bool { return summarise(state).spares(namespace) }

// rememberedPolicies reads what policies there were when the daemon last ran; nil if that
// is not known.
func rememberedPolicies(stateDir string) *policySummary {
	var s policySummary
	if !readJSON(filepath.Join(stateDir, policiesFile), &s) || s.Namespaces == nil {
		return nil
	}
	slices.Sort(s.Namespaces)
	return &s
}

// remember writes it, if it is other than was written last.
func (p *policies) remember() error {
	if p.kept != nil && p.kept.equal(p.last) {
		return nil
	}
	if err := writeJSON(filepath.Join(p.stateDir, policiesFile), p.last); err != nil {
		return fmt.Errorf("remember policies: %w", err)
	}
	p.kept = p.last
	return nil
}
