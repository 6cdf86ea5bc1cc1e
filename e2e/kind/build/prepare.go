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
	TestArchive string // images that upstream's tests run; empty: the nodes have them
	Kind        string // programs
	Kubectl     string
	Tests       string // upstream's
	Ginkgo      string
	Plugins     string // folder of the CNI project's plugins
	PolicyAPI   string // folder of the conformance suite of network-policy-api, if it was wanted
}

// Wanted is what not every run needs.
type Wanted struct {
	PolicyAPI bool // the conformance suite of network-policy-api
	SCTP      bool // with its questions by SCTP
}

// Prepare makes what is not in the store yet, and removes from it what is of no use any
// more. Images are pulled; where that cannot be done, they are built.
func Prepare(ctx context.Context, s *Store, w Wanted) (Prepared, error) {
	p, recipes := built(s)
	if !s.Has(Node()) {
		pulled, fromPublic := public(s)
		err := s.getAll(ctx, publicNode(), publicTests())
		if err == nil {
			p, recipes = pulled, fromPublic
		} else if ctx.Err() != nil {
			return Prepared{}, err
		} else {
			s.log.Say("images cannot be pulled, so what is missing is built, the first time in 20 to 30 minutes")
		}
	}
	suite := PolicyAPI(w.SCTP)
	keep := append(recipes, suite) // also for the next run, which may want it
	if w.PolicyAPI {
		p.PolicyAPI, recipes = s.Path(suite), keep
	}
	fresh := false
	for _, r := range recipes {
		fresh = fresh || !s.Has(r)
	}
	if err := s.getAll(ctx, recipes...); err != nil {
		return Prepared{}, err
	}
	if fresh {
		if err := s.Tidy(keep...); err != nil {
			return Prepared{}, err
		}
	}
	return p, nil
}

func (s *Store) getAll(ctx context.Context, recipes ...Recipe) error {
	for _, r := range recipes {
		if _, err := s.Get(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// built is what there is where nothing can be pulled.
func built(s *Store) (Prepared, []Recipe) {
	p, recipes := tools(s)
	node := Node()
	p.NodeArchive, p.NodeImage, p.NodeKey = node.Archive(s), node.Image, nodeKey(s, node)
	p.Kubectl = filepath.Join(s.Path(Kubernetes()), "kubectl")
	return p, append([]Recipe{node}, recipes...)
}

// public is what there is where images can be pulled.
func public(s *Store) (Prepared, []Recipe) {
	p, recipes := tools(s)
	node, tests := publicNode(), publicTests()
	p.NodeArchive, p.NodeImage, p.NodeKey = node.Archive(s), parseReference(publicNodeImage).name, nodeKey(s, node)
	p.TestArchive = tests.Archive(s)
	p.Kubectl = filepath.Join(s.Path(Kubectl()), "kubectl")
	return p, append([]Recipe{node, tests, Kubectl()}, recipes...)
}

func nodeKey(s *Store, node Recipe) string {
	return "weft.local/" + filepath.Base(s.Path(node)) + ":made"
}

// tools are the programs that both ways build.
func tools(s *Store) (Prepared, []Recipe) {
	return Prepared{
		Kind:   filepath.Join(s.Path(Kind()), "kind"),
		Tests:  filepath.Join(s.Path(UpstreamTests()), "e2e.test"),
		Ginkgo: filepath.Join(s.Path(Helpers()), "ginkgo"), Plugins: s.Path(Plugins()),
	}, []Recipe{Kind(), UpstreamTests(), Helpers(), Plugins()}
}
