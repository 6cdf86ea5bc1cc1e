package build

import (
	"context"
	"path/filepath"
)

// Prepared is all that making and testing a cluster needs, as files.
type Prepared struct {
	NodeArchive string // image of kind's nodes
	NodeImage   string // its name
	NodeKey     string // another name, which no other content has
	Kind        string // programs
	Kubectl     string
	Tests       string // upstream's
	Ginkgo      string
	Plugins     string // folder of the CNI project's plugins
}

// Prepare makes what is not in the store yet, and removes from it what is of no use any
// more.
func Prepare(ctx context.Context, s *Store) (Prepared, error) {
	node := Node()
	all := []Recipe{node, Kind(), UpstreamTests(), Helpers()}
	fresh := false
	for _, r := range all {
		if !s.Has(r) {
			fresh = true
		}
		if _, err := s.Get(ctx, r); err != nil {
			return Prepared{}, err
		}
	}
	if fresh {
		if err := s.Tidy(all...); err != nil {
			return Prepared{}, err
		}
	}
	return Prepared{
		NodeArchive: node.Archive(s),
		NodeImage:   node.Image,
		NodeKey:     "weft.local/" + filepath.Base(s.Path(node)) + ":made",
		Kind:        filepath.Join(s.Path(Kind()), "kind"),
		Kubectl:     filepath.Join(s.Path(Kubernetes()), "kubectl"),
		Tests:       filepath.Join(s.Path(UpstreamTests()), "e2e.test"),
		Ginkgo:      filepath.Join(s.Path(Helpers()), "ginkgo"),
		Plugins:     s.Path(Plugins()),
	}, nil
}
