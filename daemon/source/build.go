package source

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/weftnet/weft/internal/api"
)

// view is what a look at the folder found; it is not changed afterwards.
type view struct {
	root     []named // the folder's files, by name
	status   []named // the files of other nodes' folders below status/, by name
	problems []api.Problem
	complete bool
	sure     bool // State.PoliciesComplete
}

// named is the content of one file.
type named struct {
	file string // relative to the folder
	node string // whose status folder it is in
	objects
}

// byName is the order of files.
func byName(a, b named) int { return cmp.Compare(a.file, b.file) }

func key(p *Pod) string { return p.Namespace + "/" + p.Name }

// build makes the state of what the folder holds and what we attached ourselves. Of an
// object that is in two files, that of the first file (by name) counts. Services that were
// granted a status have that instead of their own. k is of the build before.
func build(v view, own []*Pod, granted map[nameIn]serviceStatus, k *kinds) State {
	s := State{Problems: slices.Clone(v.problems), Complete: v.complete, PoliciesComplete: v.sure}
	nodes, pods, spaces := first[Node]{}, first[Pod]{}, first[Namespace]{}
	cluster := first[ClusterPolicy]{}
	for _, f := range v.root {
		s.Ignored += f.ignored
		for _, n := range f.nodes {
			nodes.add(&s, "Node", n.Name, f.file, n)
		}
		for _, p := range f.pods {
			pods.add(&s, "Pod", key(p), f.file, p)
		}
		for _, n := range f.namespaces {
			spaces.add(&s, "Namespace", n.Name, f.file, n)
		}
		for _, p := range f.cluster {
			cluster.add(&s, "ClusterNetworkPolicy", p.Name, f.file, p)
		}
	}
	s.Nodes, s.Namespaces = nodes.sorted(), spaces.sorted()
	for _, n := range s.Nodes {
		if n.Problem != "" {
			s.Problems = append(s.Problems, api.Problem{What: ProblemNode, Text: "node " + n.Name + ": " + n.Problem})
		}
	}
	s.Pods = mergeStatus(&s, pods, v.status, own)
	k.services.update(v.root)
	k.slices.update(v.root)
	k.policies.update(v.root)
	k.served.update(k.slices.out)
	s.Problems = slices.Concat(s.Problems, k.services.problems, k.slices.problems, k.policies.problems)
	s.Services, s.flat, s.Policies = k.services.out, k.slices.out, k.policies.out
	if len(granted) > 0 {
		s.Services = slices.Clone(s.Services)
	}
	for i, v := range s.Services {
		if status, ok := granted[nameIn{v.Namespace, v.Name}]; ok {
			s.Services[i] = v.withGrant(status)
		}
	}
	derive(&s, k.served)
	s.Slices = ListOf(s.flat)
	s.ClusterPolicies = cluster.sorted()
	if len(s.Policies)+len(s.ClusterPolicies) > 0 {
		s.Namespaces = withNamespaces(spaces, &s)
	}
	for _, v := range s.Services {
		if v.Problem != "" {
			s.Problems = append(s.Problems, api.Problem{What: ProblemService, Text: "service " + v.Namespace + "/" + v.Name + ": " + v.Problem})
		}
	}
	for _, e := range s.flat {
		if e.Problem != "" {
			s.Problems = append(s.Problems, api.Problem{What: ProblemService, Text: "endpoint slice " + e.Namespace + "/" + e.Name + ": " + e.Problem})
		}
	}
	for _, p := range s.Policies {
		if p.Problem != "" {
			s.Problems = append(s.Problems, api.Problem{What: ProblemPolicy, Text: "network policy " + p.Namespace + "/" + p.Name + ": " + p.Problem})
		}
	}
	for _, p := range s.ClusterPolicies {
		if p.Problem != "" {
			s.Problems = append(s.Problems, api.Problem{What: ProblemPolicy, Text: "cluster network policy " + p.Name + ": " + p.Problem})
		}
	}
	return s
}

// withNamespaces adds, to the folder's Namespaces, those of pods and policies that it does
// not hold: nobody can be there without one. They have the label that each has.
func withNamespaces(spaces first[Namespace], s *State) []*Namespace {
	add := func(name string) {
		if _, is := spaces[name]; !is {
			spaces[name] = found[Namespace]{object: &Namespace{Name: name, Labels: map[string]string{namespaceLabel: name}}}
		}
	}
	add("default")
	for _, p := range s.Pods {
		add(p.Namespace)
	}
	for _, p := range s.Policies {
		add(p.Namespace)
	}
	return spaces.sorted()
}

// found is an object and its file.
type found[T any] struct {
	file   string
	object *T
}

// first collects objects by name; the first of a name stays.
type first[T any] map[string]found[T]

func (m first[T]) add(s *State, kind, name, file string, object *T) {
	if have, dup := m[name]; dup {
		s.Problems = append(s.Problems, duplicate(kind, name, have.file, file))
		return
	}
	m[name] = found[T]{file, object}
}

func duplicate(kind, name, first, second string) api.Problem {
	return api.Problem{
		What: ProblemDuplicate,
		Text: fmt.Sprintf("%s %s is in %s and in %s; the first counts", kind, name, first, second),
	}
}

func (m first[T]) sorted() []*T {
	out := make([]*T, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name].object)
	}
	return out
}

// mergeStatus adds what the nodes wrote of their pods: the addresses of Pods that are in
// the folder, and Pods that are not. If two nodes claim a pod, the one that the folder's
// Pod names has it, else we ourselves if
// we do, else the first by name.
func mergeStatus(s *State, pods first[Pod], status []named, own []*Pod) []*Pod {
	merged := map[string]*Pod{}
	claim := func(p *Pod, file string) {
		name := key(p)
		have, seen := merged[name]
		root, known := pods[name]
		switch {
		case known && root.object.Node != "" && root.object.Node != p.Node:
			s.Problems = append(s.Problems, api.Problem{
				What: ProblemDuplicate,
				Text: fmt.Sprintf("Pod %s is on node %s by %s, but %s claims it", name, root.object.Node, root.file, file),
			})
			return
		case seen && have.Node != p.Node:
			s.Problems = append(s.Problems, api.Problem{
				What: ProblemDuplicate,
				Text: fmt.Sprintf("Pod %s is claimed by nodes %s and %s; the first counts", name, have.Node, p.Node),
			})
			return
		}
		one := *p
		if known {
			one.Labels, one.HostNetwork, one.Ports = root.object.Labels, root.object.HostNetwork, root.object.Ports
			one.Ready, one.Terminating, one.Finished = root.object.Ready, root.object.Terminating, root.object.Finished
			one.UID = cmp.Or(root.object.UID, p.UID)
		} else if p.Declared {
			one.Terminating = true
		}
		if seen { // another interface of the same pod
			one.Attachment = have.Attachment
			one.IPs = append(slices.Clone(have.IPs), p.IPs...)
		}
		merged[name] = &one
	}
	for _, p := range own {
		claim(p, "this node")
	}
	for _, f := range status {
		for _, p := range f.pods {
			if p.Node != f.node {
				s.Problems = append(s.Problems, api.Problem{
					What: ProblemFile,
					Text: fmt.Sprintf("%s: Pod %s has spec.nodeName %q in the folder of node %s; it is left out", f.file, key(p), p.Node, f.node),
				})
				continue
			}
			claim(p, f.file)
		}
	}
	for name, p := range pods {
		if merged[name] == nil {
			merged[name] = p.object
		}
	}
	return slices.SortedFunc(maps.Values(merged), comparePods)
}

// keep replaces the objects of now that were the same before by those of before, so
// that who compares pointers sees only what changed. Both are sorted by less.
func keep[T any](before, now []*T, compare func(a, b *T) int) {
	for i, j := 0, 0; i < len(before) && j < len(now); {
		if before[i] == now[j] {
			i++
			j++
			continue
		}
		switch c := compare(before[i], now[j]); {
		case c < 0:
			i++
		case c > 0:
			j++
		default:
			if reflect.DeepEqual(before[i], now[j]) {
				now[j] = before[i]
			}
			i++
			j++
		}
	}
}
