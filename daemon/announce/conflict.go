package announce

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// handover is how long after the beginning others may still say that an address is
	// theirs: those who have announced it until then.
	handover = 5 * time.Second
	// askEvery is how often the link is asked who else has an address, askAgain how soon
	// after somebody has said so.
	askEvery = time.Minute
	askAgain = 6 * time.Second
	// sameClaim is how far the times may be apart by which one claim is known.
	sameClaim = time.Second
	// believedFor is how long a claim counts.
	believedFor = 150 * time.Second
)

// Conflicts tells a foreign machine that has one of our addresses from another node, which
// claims it for a moment at a handover or after a split: the former says so again. The zero
// value is ready. It is not safe for concurrent use.
type Conflicts struct {
	of map[netip.Addr]*dispute
}

type dispute struct {
	ask         time.Time
	mac         [6]byte
	first, last time.Time // when mac said that it has the address; zero: nobody did
}

// Claim is that somebody else said that it has an address.
type Claim struct {
	MAC [6]byte
	At  time.Time
}

// Conflict is an address that somebody else has, too.
type Conflict struct {
	Addr netip.Addr
	MAC  [6]byte
}

// Take takes up who claims which of the addresses that this node announces, since when it
// does. It returns of which the link is to be asked now, in order; see [Ask].
func (c *Conflicts) Take(now time.Time, announced map[netip.Addr]time.Time, claims map[netip.Addr]Claim) []netip.Addr {
	if c.of == nil {
		c.of = map[netip.Addr]*dispute{}
	}
	for a := range c.of {
		if _, ok := announced[a]; !ok {
			delete(c.of, a)
		}
	}
	var ask []netip.Addr
	for a, began := range announced {
		d := c.of[a]
		if d == nil {
			d = &dispute{ask: began.Add(handover + time.Second)}
			c.of[a] = d
		}
		if said, ok := claims[a]; ok && said.At.Sub(began) > handover && said.At.Sub(d.last) > sameClaim && now.Sub(said.At) < believedFor {
			if d.mac != said.MAC || now.Sub(d.last) > believedFor {
				d.mac, d.first = said.MAC, said.At
			}
			d.last = said.At
			if d.last.Sub(d.first) < askAgain/2 {
				d.ask = now.Add(askAgain)
			}
		}
		if !now.Before(d.ask) {
			d.ask = now.Add(askEvery)
			ask = append(ask, a)
		}
	}
	slices.SortFunc(ask, netip.Addr.Compare)
	return ask
}

// List returns the conflicts, in order of the addresses.
func (c *Conflicts) List(now time.Time) []Conflict {
	var out []Conflict
	for a, d := range c.of {
		if d.last.Sub(d.first) >= askAgain/2 && now.Sub(d.last) < believedFor {
			out = append(out, Conflict{a, d.mac})
		}
	}
	slices.SortFunc(out, func(x, y Conflict) int { return x.Addr.Compare(y.Addr) })
	return out
}
