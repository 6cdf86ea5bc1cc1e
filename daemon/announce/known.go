package announce

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Held is whether this node announces each address that it may.
func (m *Machine) Held() map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(m.addrs))
	for a, x := range m.addrs {
		out[a] = x.on
	}
	return out
}

// Began is since when this node announces an address; zero: it does not.
func (m *Machine) Began(a netip.Addr) time.Time {
	if x := m.addrs[a]; x != nil && x.on {
		return x.began
	}
	return time.Time{}
}

// Announcer is the node that announces an address as far as this one knows: itself, one
// that has said so, or, as only the next ones ask, the first that is not known to be dead.
// Empty: nobody that is known.
func (m *Machine) Announcer(a netip.Addr) (name string, sure bool) {
	x := m.addrs[a]
	if x == nil {
		return "", false
	}
	if x.on {
		return m.self, true
	}
	guess := ""
	for _, n := range x.ahead {
		p := m.peers[n]
		if p == nil || p.state == dead {
			continue
		}
		guess = cmp.Or(guess, n)
		if v, ok := x.views[n]; ok && v.life == p.life && v.on {
			return n, true
		}
	}
	return guess, false
}

// Dead is the names of the nodes that do not answer, of those that are asked, in order.
func (m *Machine) Dead() []string {
	var out []string
	for name, p := range m.peers {
		if p.state == dead {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Takeovers is how often this node began to announce an address that others stand before
// it for.
func (m *Machine) Takeovers() uint64 { return m.takeovers }
