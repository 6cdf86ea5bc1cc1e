package bpf

// RuleSet names what the policies of a pod allow in one direction: a hash of them, the
// same after every start. 0 is none: the pod is not isolated in that direction.
type RuleSet uint64

// RuleSetClosed has no rules: nothing passes. It is that of a pod whose policies are not
// known yet.
const RuleSetClosed RuleSet = 1

// Class names the addresses that the same selectors and CIDRs of policies match: a hash of
// these. 0 is the class of addresses that none matches.
type Class uint64

// RuleKey is the key of the map `rules`. Block counts the rows of one set and class, from 0.
// A class without rows in a set is treated as class 0 of the set is; if that has none
// either, nothing passes.
type RuleKey struct {
	Set   RuleSet
	Class Class
	Block uint32
}

// RulesPerRow is how many rules a row has room for. A row whose last rule has no verdict is
// the last of its set and class.
const RulesPerRow = 8

// RuleRow is rules in their order: the first that matches decides. The first rule without
// a verdict ends them; what matches none does not pass.
type RuleRow [RulesPerRow]Rule

// Rule is what becomes of packets to ports First to Last of a protocol: the pod's own ports
// in a set of ingress, the peer's in one of egress.
type Rule struct {
	First, Last uint16
	Index       uint16   // of what it came from, in the set; RuleNone: of nothing
	Protocol    Protocol // 0: any, also those without ports (which have port 0)
	Verdict     Verdict
}

// RuleNone is the index of no rule.
const RuleNone uint16 = 0xffff

// Verdict is what becomes of a packet.
type Verdict uint8

// Verdicts; 0 is none.
const (
	Allow Verdict = 1
	Deny  Verdict = 2
)
