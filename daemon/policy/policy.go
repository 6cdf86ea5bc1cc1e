// Package policy turns network policies into rows of the kernel's maps `rules` and
// `classes`, for the pods that are attached to this node (docs/policy.md).
//
// Addresses are classed by what the policies of these pods name: two that the same
// selectors and blocks match are of one class. What the policies of a pod say in one
// direction is a set of rules; pods with the same policies share it. Sets and classes are
// named by hashes of their content: rows of a name never change, and another policy is
// another set.
package policy

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// Sink is told which rows are wanted, and which no longer. It hears only of what changes.
type Sink interface {
	WantRule(bpf.RuleKey, bpf.RuleRow)
	UnwantRule(bpf.RuleKey)
	WantClass(netip.Prefix, bpf.Class)
	UnwantClass(netip.Prefix)
}

// Local is an attachment of this node.
type Local struct {
	Ref             api.Ref
	Namespace, Name string
	// UID is the pod's as the runtime knows it, or empty. A Pod of that name with another one
	// is not this pod: it was made anew, and the source does not know yet, or knows already.
	UID string
	// Labels are the pod's if the source has no Pod of it; nil: not known.
	Labels map[string]string
	// Addrs are the truth, whatever the Pod's status says.
	Addrs []netip.Addr
}

// Change is what an Update changed for the data path besides rows of rules.
type Change struct {
	Pods    []api.Ref // whose Isolation is another, by container and interface; not those that left
	Rejudge bool      // open flows may be judged otherwise now
}

// Isolation is the sets of rules by which a pod is judged; 0: by none.
type Isolation struct{ Ingress, Egress bpf.RuleSet }

// Closed is the Isolation of a pod whose policies are not known.
var Closed = Isolation{Ingress: bpf.RuleSetClosed, Egress: bpf.RuleSetClosed}

// DefaultMaxRows is [Compiler.MaxRows] if it is 0.
const DefaultMaxRows = 1 << 18

// Compiler keeps what was compiled, so that a change costs what it changes. It is not safe
// for concurrent use; what it returns is the caller's.
type Compiler struct {
	// MaxRows is how many rows of rules there may be, without those that Sweep will give
	// up, default [DefaultMaxRows]; a set can have a sixteenth of them. What has no room is denied, and is a problem that names
	// its policies.
	MaxRows int

	node  string
	ready bool // a complete State was seen
	sink  Sink
	work  work

	// Objects as they were seen last.
	podList    []*source.Pod
	pods       []*pod // parallel to podList
	spare      []*pod // room for the next pods
	nodeList   []*source.Node
	nodes      map[string]*node
	spaceList  []*source.Namespace
	spaces     map[string]*space
	policyList []*source.NetworkPolicy
	policies   map[string]*index[*policy] // by namespace
	policyOf   map[*source.NetworkPolicy]*policy
	clusterSet []*source.ClusterPolicy
	cluster    []*policy // in the order in which they are asked
	locals     map[api.Ref]*local
	byName     map[name][]*local
	waiting    map[api.Ref]struct{} // that came while nothing was known

	// What is in force.
	sets    map[bpf.RuleSet]*ruleSet
	leaving bool       // there may be sets that no pod is to have
	retired []*ruleSet // the last that went, for drops that are told late
	atoms   map[string]*atom
	nextID  uint32
	scopes  map[string]*scope
	chosen  index[*scope] // those that choose by namespaces' labels
	nodeSel index[*atom]
	ports   map[string]map[*ruleSet]struct{} // sets that name a peer's port
	sigs    map[string]*sig
	noSig   *sig // of nothing
	sigRoom int  // sigs are swept when there are more
	classes map[classKey]*class
	zero    *class // of noSig
	places  map[netip.Addr]*place
	tree    blockTree
	rows    int // of rules
	// Sets for which there is not enough room.
	troubled map[*ruleSet]struct{}
	gen      uint32
	room     []*atom
	flat     flattener
}

// name names a pod.
type name struct{ namespace, name string }

// work is what an Update has found to do.
type work struct {
	pods      map[*pod]struct{}   // that changed
	spaces    map[string]struct{} // whose pods may match something else
	came      []*atom             // that pods may match
	stale     bool                // pods may match an atom that went
	ports     map[string]struct{} // names of peers' ports that came
	nodes     bool
	locals    map[*local]struct{} // that changed
	localsIn  map[string]struct{} // namespaces whose locals may have other sets
	allLocals bool                // all may
	newSets   []*ruleSet
	blocks    []netip.Prefix // that came or went
	places    map[netip.Addr]struct{}
	classes   map[*class]struct{} // that got their first row, or lost their last
	rejudge   bool
}

func newWork() work {
	return work{
		pods: map[*pod]struct{}{}, spaces: map[string]struct{}{}, locals: map[*local]struct{}{},
		localsIn: map[string]struct{}{}, ports: map[string]struct{}{}, places: map[netip.Addr]struct{}{}, classes: map[*class]struct{}{},
	}
}

// New returns a Compiler for the pods of a node.
func New(nodeName string) *Compiler {
	c := &Compiler{
		node: nodeName, nodes: map[string]*node{}, spaces: map[string]*space{},
		policies: map[string]*index[*policy]{}, policyOf: map[*source.NetworkPolicy]*policy{},
		locals: map[api.Ref]*local{}, byName: map[name][]*local{}, waiting: map[api.Ref]struct{}{},
		sets: map[bpf.RuleSet]*ruleSet{}, atoms: map[string]*atom{}, scopes: map[string]*scope{},
		ports: map[string]map[*ruleSet]struct{}{}, noSig: &sig{}, troubled: map[*ruleSet]struct{}{}, sigRoom: 1024,
		classes: map[classKey]*class{}, places: map[netip.Addr]*place{}, tree: newBlockTree(),
	}
	c.sigs = map[string]*sig{"": c.noSig}
	c.zero = c.classOf(classKey{c.noSig, c.noSig, c.noSig})
	c.zero.refs = 1 // it is always there
	return c
}

// Update compiles what changed since the last one and tells t which rows are wanted; see
// [Compiler.Sweep] for when they are not any more. The
// lists of s are sorted as [source.State] says, and an object that is the same pointer is
// taken to be unchanged. Before a State of which the policies are complete nothing is
// known; one that is not complete any more changes nothing but which pods are attached.
func (c *Compiler) Update(s source.State, locals []Local, t Sink) Change {
	c.sink = t
	c.work = newWork()
	if !s.PoliciesComplete {
		return c.incomplete(locals)
	}
	if !c.ready {
		c.ready, c.work.allLocals = true, true
	}
	c.updatePolicies(s.Policies, s.ClusterPolicies)
	c.updateSpaces(s.Namespaces)
	c.updateNodes(s.Nodes)
	c.updatePods(s.Pods)
	c.updateLocals(locals)
	c.findSets()
	c.settleRows()

	clear(c.waiting)
	return c.done(Change{Rejudge: c.work.rejudge})
}

// done adds to a Change the pods whose isolation is another than the caller knows.
func (c *Compiler) done(out Change) Change {
	for ref, l := range c.locals {
		if now, known := c.isolation(l); !l.told || now != l.last || known != l.lastKnown {
			l.told, l.last, l.lastKnown = true, now, known
			out.Pods = append(out.Pods, ref)
			out.Rejudge = true
		}
	}
	slices.SortFunc(out.Pods, compareRefs)
	c.work, c.sink = work{}, nil
	return out
}

// settleRows makes the rows of what an Update or a Sweep found.
func (c *Compiler) settleRows() {
	c.updateBlocks()
	c.matchNodes()
	c.matchPods()
	c.classPlaces()
	c.writeRules()
	c.sweepSigs()
}

// Sweep gives up the sets that no pod is to have any more, but for those that inForce says a
// pod's row still has. Update keeps them, and classes addresses by what they name, too, so
// that whoever still goes by them is judged by all of them. So: write the rows, then the
// pods' sets, then sweep and write again. What it changes are names of classes, but for a
// pod that was closed as there was no room.
func (c *Compiler) Sweep(inForce func(bpf.RuleSet) bool, t Sink) Change {
	if !c.leaving {
		return Change{}
	}
	c.sink, c.work = t, newWork()
	c.sweepSets(inForce)
	c.settleRows()
	return c.done(Change{})
}

// incomplete tells of pods that came; of them nothing is known yet.
func (c *Compiler) incomplete(locals []Local) Change {
	var out Change
	for _, l := range locals {
		if _, told := c.waiting[l.Ref]; !told && c.locals[l.Ref] == nil {
			c.waiting[l.Ref] = struct{}{}
			out.Pods = append(out.Pods, l.Ref)
		}
	}
	slices.SortFunc(out.Pods, compareRefs)
	c.work, c.sink = work{}, nil
	return out
}

// Isolation returns the sets of a pod. If known is false it is [Closed]: there was no
// complete State yet, or it lacks the Pod (and its labels are not known otherwise), or the
// pod's Namespace while there is a ClusterNetworkPolicy, which may choose by its labels.
func (c *Compiler) Isolation(ref api.Ref) (i Isolation, known bool) {
	l := c.locals[ref]
	if l == nil {
		return Closed, false
	}
	return c.isolation(l)
}

func (c *Compiler) isolation(l *local) (Isolation, bool) {
	if !l.known {
		return Closed, false
	}
	return Isolation{l.sets[ingress].id(), l.sets[egress].id()}, true
}
