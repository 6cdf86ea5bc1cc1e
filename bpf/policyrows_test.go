package bpf

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPolicyRowsReadAsWritten(t *testing.T) {
	d := open(t, Options{})
	classes := map[netip.Prefix]Class{
		netip.MustParsePrefix("10.244.1.5/32"):   1 << 63,
		netip.MustParsePrefix("0.0.0.0/0"):       2,
		netip.MustParsePrefix("fd00:244::/32"):   3,
		netip.MustParsePrefix("::/0"):            4,
		netip.MustParsePrefix("fd00:244::5/128"): 5,
	}
	for p, c := range classes {
		must(t, d.Classes().Set(p, c))
	}
	rules := map[RuleKey]RuleRow{
		{1 << 63, 1 << 62, 0}: {{First: 80, Last: 90, Index: 3, Protocol: TCP, Verdict: Allow}, {Last: 65535, Index: RuleNone, Verdict: Deny}},
		{1 << 63, 1 << 62, 1}: {7: {First: 1, Last: 2, Protocol: SCTP, Verdict: Deny}},
		{7, 0, 0}:             {},
	}
	for k, r := range rules {
		must(t, d.Rules().Set(k, r))
	}
	gotClasses, err := d.Classes().Dump()
	must(t, err)
	gotRules, err := d.Rules().Dump()
	must(t, err)
	if diff := cmp.Diff(gotClasses, classes, addrs); diff != "" {
		t.Errorf("classes (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(gotRules, rules); diff != "" {
		t.Errorf("rules (-got +want):\n%s", diff)
	}
	for range 2 {
		for p := range classes {
			must(t, d.Classes().Delete(p))
		}
		for k := range rules {
			must(t, d.Rules().Delete(k))
		}
	}
	gotClasses, _ = d.Classes().Dump()
	gotRules, _ = d.Rules().Dump()
	if len(gotClasses)+len(gotRules) > 0 {
		t.Errorf("after deletion there are %v and %v", gotClasses, gotRules)
	}
}

func TestFullPolicyMapsRefuseWhatIsNew(t *testing.T) {
	d := open(t, Options{MaxClasses: 2, MaxRules: 2})
	var errC, errR error
	for i := range 3 {
		errC = d.Classes().Set(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32), 1)
		errR = d.Rules().Set(RuleKey{Set: RuleSet(i)}, RuleRow{})
	}
	if !errors.Is(errC, ErrFull) || !errors.Is(errR, ErrFull) {
		t.Errorf("third row: %v and %v, want ErrFull", errC, errR)
	}
}

// Two daemons with the same maps do not take each other's judgements for their own.
func TestRevisionsDiffer(t *testing.T) {
	o := Options{Dir: bpffs(t)}
	revision := func(d *Datapath) (v uint32) {
		must(t, d.revision.Get(&v))
		return v
	}
	d := open(t, o)
	first := revision(d)
	must(t, d.Rejudge())
	if got := revision(d); got == first {
		t.Errorf("the revision is %d before and after", got)
	}
	if got := revision(open(t, o)); got-revision(d) > 1<<31 || got == revision(d) {
		t.Errorf("the next daemon begins with %d, the former one is at %d", got, revision(d))
	}
}
