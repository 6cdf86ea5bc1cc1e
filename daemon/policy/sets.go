package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// ruleSet is what the policies of pods say in one direction.
type ruleSet struct {
	name     bpf.RuleSet
	dir      direction
	policies []*policy
	tiers    [tiers][]rule
	isolates bool     // a NetworkPolicy is among the policies
	origins  []origin // by rules' index
	refs     int      // pods that have it
	atoms    []*atom
	ports    map[string]struct{} // names of peers' ports
	base     []bpf.Rule          // of class 0
	rows     map[*class]uint32   // how many; not of classes that are as class 0
	n        int                 // of rows
	denies   bool                // it has rules that do not allow
	problem  string              // why it is closed; "": it is not

	// For lack of room:
	short   map[*class]struct{} // classes that have no rows
	full    bool                // it is closed
	capped  bool                // as it needs more than a set can have
	needed  int                 // rows that it had then
	classes int                 // that were short then
}

// origin is where a rule comes from.
type origin struct {
	policy *policy
	rule   int
}

// rule is one of a policy.
type rule struct {
	action source.ClusterAction
	any    bool    // all peers
	peers  []*atom // one of these
	ports  []source.PolicyPort
	all    bool // ports
	index  uint16
}

// id is what a pod's row says; s may be nil.
func (s *ruleSet) id() bpf.RuleSet {
	switch {
	case s == nil:
		return 0
	case s.problem != "":
		return bpf.RuleSetClosed
	}
	return s.name
}

// setOf is the set of policies for a pod that has these ports; nil if there is no policy.
// Its name is the first 8 bytes of a SHA-256 of all that it depends on.
func (c *Compiler) setOf(d direction, policies []*policy, ports []source.SlicePort) *ruleSet {
	if len(policies) == 0 {
		return nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", d)
	for _, p := range policies {
		dig := p.digest(d)
		fmt.Fprintf(h, "%d %q %x\n", p.tier, p.name(), dig.sum)
		if d == ingress {
			for _, n := range dig.names {
				fmt.Fprintf(h, "%v\n", byName(n, ports))
			}
		}
	}
	id := bpf.RuleSet(max(2, binary.LittleEndian.Uint64(h.Sum(nil))))
	if s := c.sets[id]; s != nil {
		return s
	}
	s := &ruleSet{name: id, dir: d, policies: policies, rows: map[*class]uint32{}, short: map[*class]struct{}{}, ports: map[string]struct{}{}}
	c.build(s, ports)
	c.sets[id] = s
	c.work.newSets = append(c.work.newSets, s)
	return s
}

// byName is the ports that a pod has under a name, each once.
func byName(want source.PolicyPort, has []source.SlicePort) (out []source.PolicyPort) {
	for _, p := range has {
		found := source.PolicyPort{Protocol: p.Protocol, First: p.Port, Last: p.Port}
		if p.Name == want.Name && (want.Protocol == 0 || want.Protocol == p.Protocol) && !slices.Contains(out, found) {
			out = append(out, found)
		}
	}
	return out
}

// maxIndex is the greatest index that a rule can have.
const maxIndex = int(bpf.RuleNone) - 1

// build makes the rules of a set.
func (c *Compiler) build(s *ruleSet, ports []source.SlicePort) {
	add := func(p *policy, n int, r rule, want []source.PolicyPort) {
		r.index = uint16(min(len(s.origins), maxIndex))
		s.origins = append(s.origins, origin{p, n})
		r.all = want == nil
		for _, w := range want {
			switch {
			case w.Name == "":
				r.ports = append(r.ports, w)
			case s.dir == ingress:
				r.ports = append(r.ports, byName(w, ports)...)
			default:
				r.ports = append(r.ports, w)
				c.wantPort(s, w.Name)
			}
		}
		for _, a := range r.peers {
			c.acquire(s, a)
			s.atoms = append(s.atoms, a)
		}
		s.tiers[p.tier] = append(s.tiers[p.tier], r)
	}
	for _, p := range s.policies {
		if p.cluster != nil {
			s.denies = true
			for n, r := range p.clusterRules(s.dir) {
				add(p, n, rule{action: r.Action, peers: c.clusterPeers(r.Peers)}, r.Ports)
			}
			continue
		}
		s.isolates = true
		for n, r := range p.rules(s.dir).Rules {
			add(p, n, rule{action: source.ClusterAccept, any: r.Peers == nil, peers: c.peers(p.network.Namespace, r.Peers)}, r.Ports)
		}
	}
	if len(s.origins) > maxIndex+1 {
		s.problem = fmt.Sprintf("%d rules, more than the %d that a set can have", len(s.origins), maxIndex+1)
	}
}

func (c *Compiler) peers(namespace string, peers []source.PolicyPeer) (out []*atom) {
	for _, p := range peers {
		switch {
		case p.Block != nil:
			out = append(out, c.inBlock(*p.Block))
		case p.Namespaces == nil:
			out = append(out, c.podsIn(namespace, p.Pods))
		default:
			out = append(out, c.podsBy(p.Namespaces, p.Pods))
		}
	}
	return out
}

func (c *Compiler) clusterPeers(peers []source.ClusterPeer) (out []*atom) {
	for _, p := range peers {
		if p.Namespaces != nil {
			out = append(out, c.podsBy(p.Namespaces, p.Pods))
		}
		if p.Nodes != nil {
			out = append(out, c.nodesBy(p.Nodes))
		}
		for _, n := range p.Networks {
			out = append(out, c.inBlock(source.PolicyBlock{CIDR: n}))
		}
	}
	return out
}

// wantPort says that a set names a port of its peers.
func (c *Compiler) wantPort(s *ruleSet, name string) {
	if c.ports[name] == nil {
		c.ports[name] = map[*ruleSet]struct{}{}
		c.work.ports[name] = struct{}{}
	}
	c.ports[name][s] = struct{}{}
	s.ports[name] = struct{}{}
}

// maxRetired is how many sets are remembered that nobody has any more.
const maxRetired = 64

// sweepSets forgets the sets that no pod is to have, nor has.
func (c *Compiler) sweepSets(inForce func(bpf.RuleSet) bool) {
	c.leaving = false
	for id, s := range c.sets {
		if s.refs > 0 {
			continue
		}
		if s.problem == "" && inForce(id) {
			c.leaving = true
			continue
		}
		delete(c.sets, id)
		c.dropRows(s)
		for _, a := range s.atoms {
			c.release(s, a)
		}
		for n := range s.ports {
			if delete(c.ports[n], s); len(c.ports[n]) == 0 {
				delete(c.ports, n)
				c.work.stale = true
			}
		}
		*s = ruleSet{name: s.name, dir: s.dir, policies: s.policies, isolates: s.isolates, origins: s.origins, problem: s.problem}
		c.retired = append(c.retired, s)
	}
	if n := len(c.retired) - maxRetired; n > 0 {
		c.retired = slices.Delete(c.retired, 0, n)
	}
}
