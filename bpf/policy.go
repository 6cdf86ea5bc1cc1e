package bpf

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weftnet/weft/internal/reconcile"
)

// Classes is the table of the classes of addresses, by prefix: the longest that matches an
// address says its class. IPv4 addresses are ::ffff:0:0/96 to it: a shorter IPv6 prefix
// that covers these covers them. Rows of `rules` for a class are written before it. Its
// Set returns [ErrFull] if there is no room.
func (d *Datapath) Classes() reconcile.Target[netip.Prefix, Class] {
	return table[weftPrefix, uint64, netip.Prefix, Class]{d, weftMapClasses, toPrefix, prefixFrom,
		func(c Class) uint64 { return uint64(c) },
		func(v uint64) Class { return Class(v) },
	}
}

// Rules is the table of what sets of rules say. All rows of a set are written before an
// endpoint has it, and go after no endpoint has it any more. Its Set returns [ErrFull] if
// there is no room.
func (d *Datapath) Rules() reconcile.Target[RuleKey, RuleRow] {
	return table[weftRulesKey, weftRules, RuleKey, RuleRow]{d, weftMapRules,
		func(k RuleKey) weftRulesKey {
			return weftRulesKey{Set: uint64(k.Set), Class: uint64(k.Class), Block: k.Block}
		},
		func(k weftRulesKey) RuleKey { return RuleKey{RuleSet(k.Set), Class(k.Class), k.Block} },
		func(r RuleRow) (v weftRules) {
			for i, r := range r {
				to := &v.Rule[i]
				to.First, to.Last, to.Index, to.Proto, to.Verdict = r.First, r.Last, r.Index, uint8(r.Protocol), uint8(r.Verdict)
			}
			return v
		},
		func(v weftRules) (r RuleRow) {
			for i, v := range v.Rule {
				r[i] = Rule{v.First, v.Last, v.Index, Protocol(v.Proto), Verdict(v.Verdict)}
			}
			return r
		},
	}
}

// Rejudge lets flows that have passed policies be judged again, each by its next packet.
// It is called after each change of rules, classes or endpoints' sets.
func (d *Datapath) Rejudge() error {
	d.rejudge.Lock()
	defer d.rejudge.Unlock()
	var v uint32
	if err := d.revision.Get(&v); err != nil {
		return fmt.Errorf("judge flows again: %w", err)
	}
	if err := d.revision.Set(v + 1); err != nil {
		return fmt.Errorf("judge flows again: %w", err)
	}
	return nil
}

// firstRevision is where a daemon's revisions begin. One that came before began at least a
// load of the programs ago and has not raised its own by one each millisecond since.
func firstRevision() uint32 { return uint32(time.Now().UnixMilli()) }
