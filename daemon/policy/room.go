package policy

import (
	"fmt"

	"github.com/weftnet/weft/bpf"
)

// Rows are as many as there are pairs of a set and a class that it names, so that many
// policies that each choose by other labels, and many pods that each have others, can want
// more than there is room for. Then what came first stays, and what does not fit is denied:
//
//   - A class of which a set has no rows is treated as class 0. If the set is of
//     NetworkPolicies alone that allows nothing that the class would not be allowed, so that
//     only these peers are refused.
//   - A set with ClusterNetworkPolicies is closed as a whole: they deny, too.
//   - A set can have a part of all rows only, so that who writes the policies of one
//     namespace takes no room from the others.

// setShare is which part of all rows a set can have.
const setShare = 16

func (c *Compiler) maxRows() int {
	if c.MaxRows == 0 {
		return DefaultMaxRows
	}
	return c.MaxRows
}

// write makes the rows of a class in a set, if there is room.
func (c *Compiler) write(s *ruleSet, cl *class, rules []bpf.Rule) {
	rows := rowsOf(rules)
	switch capped := s.n+len(rows) > max(1, c.maxRows()/setShare); {
	case !capped && (s.refs == 0 || c.rows+len(rows) <= c.maxRows()):
	case cl != c.zero && !s.denies:
		s.short[cl] = struct{}{}
		c.troubled[s] = struct{}{}
		return
	default:
		c.close(s, cl, capped)
		return
	}
	for i, r := range rows {
		c.sink.WantRule(bpf.RuleKey{Set: s.name, Class: cl.id, Block: uint32(i)}, r)
	}
	s.rows[cl] = uint32(len(rows))
	c.count(s, len(rows))
}

// drop removes the rows of a class from a set.
func (c *Compiler) drop(s *ruleSet, cl *class) {
	for i := range s.rows[cl] {
		c.sink.UnwantRule(bpf.RuleKey{Set: s.name, Class: cl.id, Block: i})
	}
	c.count(s, -int(s.rows[cl]))
	delete(s.rows, cl)
	delete(s.short, cl)
}

// count counts rows. Those of a set that no pod is to have any more are in nobody's way:
// they will soon be gone.
func (c *Compiler) count(s *ruleSet, n int) {
	s.n += n
	if s.refs > 0 {
		c.rows += n
	}
}

func (c *Compiler) dropRows(s *ruleSet) {
	for cl := range s.rows {
		c.drop(s, cl)
	}
	delete(c.troubled, s)
}

// close lets nothing pass through the pods of a set, as there is no room for a class of it.
func (c *Compiler) close(s *ruleSet, cl *class, capped bool) {
	s.full, s.capped, s.needed = true, capped, s.n
	s.problem = fmt.Sprintf("no room for its rules (%d rows of %d are taken)", c.rows, c.maxRows())
	if capped {
		s.problem = fmt.Sprintf("its rules need more than %d rows", max(1, c.maxRows()/setShare))
	}
	classes := []*class{cl}
	for had := range s.rows {
		classes = append(classes, had)
	}
	c.dropRows(s)
	for _, had := range classes {
		if had != c.zero {
			s.short[had] = struct{}{}
		}
	}
	s.classes = len(s.short)
	c.troubled[s] = struct{}{}
}

// retry gives rows to those who had no room, if there is some.
func (c *Compiler) retry() {
	for s := range c.troubled {
		if !s.full {
			for cl := range s.short {
				if s.n >= c.maxRows()/setShare || c.rows >= c.maxRows() {
					break
				}
				delete(s.short, cl)
				c.writeClass(s, cl)
			}
			if len(s.short) == 0 && !s.full {
				delete(c.troubled, s)
			}
			continue
		}
		// Not before there is a good deal less to write, or more room: to find that it is
		// not enough costs as much as to write it.
		if s.capped && len(s.short) > s.classes*9/10 && s.needed >= c.maxRows()/setShare*9/10 ||
			!s.capped && c.rows+s.needed > c.maxRows()*9/10 {
			continue
		}
		s.full, s.problem = false, ""
		clear(s.short)
		delete(c.troubled, s)
		c.writeSet(s)
	}
}
