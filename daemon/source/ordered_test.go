package source

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// However files change, come and go, what is made of the build before is what a build from nothing
// makes, what has not changed is the same object, and what was given out stays as it was.
func TestBuildAfterChangesIsAsFromNothing(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	compared := cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), equalSelectors}
	text := func() string {
		var docs []string
		for range random.IntN(6) {
			n, port := random.IntN(12), 80+random.IntN(2)
			docs = append(docs, []string{
				fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: s%d}, spec: {clusterIP: 10.96.0.%d, selector: {app: a}, ports: [{port: %d}]}}", n, n+1, port),
				fmt.Sprintf("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e%d, labels: {kubernetes.io/service-name: s%d}}, addressType: IPv4, ports: [{port: %d}], endpoints: [{addresses: [10.0.0.%d]}]}", n, random.IntN(12), port, n+1),
				fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p%d}, spec: {podSelector: {matchLabels: {a: b%d}}}}", n, port),
				fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: q%d, uid: u%d, labels: {app: a}}, spec: {nodeName: node-a}, status: {podIPs: [{ip: 10.0.1.%d}]}}", n, n, n+1),
			}[random.IntN(4)])
		}
		return strings.Join(docs, "\n---\n")
	}
	var v view
	k := newKinds()
	var before State
	var given []Service
	for step := range 400 {
		switch i := random.IntN(len(v.root) + 1); {
		case i == len(v.root) || random.IntN(3) == 0: // comes
			v.root = append(slices.Clone(v.root), named{file: fmt.Sprintf("%03d.yaml", random.IntN(1000))})
			i = len(v.root) - 1
			fallthrough
		case random.IntN(3) > 0: // changes
			o, err := decode([]byte(text()))
			if err != nil {
				t.Fatal(err)
			}
			v.root = slices.Clone(v.root)
			v.root[i].objects = o
		default:
			v.root = slices.Delete(slices.Clone(v.root), i, i+1)
		}
		slices.SortStableFunc(v.root, byName)
		v.root = slices.CompactFunc(v.root, func(a, b named) bool { return a.file == b.file })
		now, want := build(v, nil, nil, k), build(v, nil, nil, newKinds())
		for what, pair := range map[string][2]any{
			"Services": {now.Services, want.Services}, "slices": {now.flat, want.flat},
			"policies": {now.Policies, want.Policies}, "problems": {now.Problems, want.Problems},
		} {
			if diff := cmp.Diff(pair[0], pair[1], compared); diff != "" {
				t.Fatalf("seed %d, step %d: %s (-got +want):\n%s", seed, step, what, diff)
			}
		}
		for i, s := range before.Services {
			if !cmp.Equal(*s, given[i], compared) {
				t.Fatalf("seed %d, step %d: Service %s was given out and has changed", seed, step, given[i].Name)
			}
		}
		before, given = now, nil
		for _, s := range now.Services {
			given = append(given, *s)
		}
	}
}

// A file that is read anew, and has one other object, leaves the others the same.
func TestObjectsThatDoNotChangeStayTheSame(t *testing.T) {
	read := func(port int) (v view) {
		o, err := decode([]byte(serviceYAML(1) + "---\n" + strings.ReplaceAll(serviceYAML(2), "port: 80,", fmt.Sprintf("port: %d,", port))))
		if err != nil {
			t.Fatal(err)
		}
		v.root = []named{{file: "all.yaml", objects: o}}
		return v
	}
	k := newKinds()
	before, now := build(read(80), nil, nil, k), build(read(81), nil, nil, k)
	if before.Services[0] != now.Services[0] || before.Services[1] == now.Services[1] {
		t.Error("the Service that changed is the same, or the other is not")
	}
}
