package build

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScratchModuleBuildsAsUpstreamDoes(t *testing.T) {
	got, err := scratchModule("k8s.io/kubernetes", "v1.37.2", []byte(`module k8s.io/kubernetes

go 1.26.0

godebug default=go1.26

require (
	example.com/other v1.2.3
	k8s.io/api v0.0.0
	k8s.io/apiserver v0.0.0
)

replace (
	example.com/other => example.com/fork v1.2.4
	k8s.io/api => ./staging/src/k8s.io/api
)
`))
	if err != nil {
		t.Fatal(err)
	}
	want := `module scratch

go 1.26.0

godebug default=go1.26

require k8s.io/kubernetes v1.37.2

replace k8s.io/api => k8s.io/api v0.37.2

replace k8s.io/apiserver => k8s.io/apiserver v0.37.2

replace example.com/other => example.com/fork v1.2.4
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("go.mod (-want +got):\n%s", diff)
	}
}
