package bpf

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPolicyRowsReadAsWritten(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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

// The rules of a set and class are read in order, whatever their number; a class without
// any is class 0; what matches none does not pass. Judged by a plain reading of them.
func TestRulesAreReadInOrder(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	d := open(t, Options{MaxAllowedNew: 1024})
	p := &node{Datapath: d}
	pod := addr("10.244.1.5")
	must(t, d.Endpoints().Set(pod, Endpoint{IfIndex: loopback, MAC: p.podMAC}))
	peers := []netip.Addr{addr("10.1.2.3"), addr("10.1.2.4"), addr("10.2.0.1"), addr("192.0.2.9")}
	d.class(t, 11, peers[0])
	must(t, d.Classes().Set(netip.MustParsePrefix("10.1.0.0/16"), 12))
	must(t, d.Classes().Set(netip.MustParsePrefix("10.2.0.0/16"), 13)) // without rows
	must(t, d.Classes().Set(netip.MustParsePrefix("::/0"), 14))
	must(t, d.Classes().Set(netip.MustParsePrefix("::ffff:0:0/96"), 15))
	classOf := []Class{11, 12, 0, 15}
	for round := range 60 {
		set := RuleSet(100 + round)
		rules := map[Class][]Rule{}
		for _, c := range []Class{0, 11, 12, 15} {
			n := []int{1, 7, 8, 9, 16, 40, 700}[r.IntN(7)]
			for range n {
				first := uint16(r.IntN(12))
				rules[c] = append(rules[c], Rule{
					First: first, Last: first + uint16(r.IntN(3)), Index: uint16(r.IntN(100)),
					Protocol: []Protocol{0, TCP, UDP, 1}[r.IntN(4)], Verdict: Verdict(1 + r.IntN(2)),
				})
			}
			if n > 16 { // let many be read
				for i := range rules[c] {
					if i < n-4 {
						rules[c][i].First, rules[c][i].Last = 100, 100
					}
				}
			}
			d.rules(t, set, c, rules[c]...)
		}
		d.isolate(t, pod, 0, set)
		for range 60 {
			i := r.IntN(len(peers))
			to, proto := netip.AddrPortFrom(peers[i], uint16(r.IntN(14))), []Protocol{TCP, UDP, SCTP, 1}[r.IntN(4)]
			port := to.Port()
			packet := datagram(proto, netip.AddrPortFrom(pod, 1), to, 64, syn, []byte("xxxxxxxxxxxx"))
			if proto == 1 {
				packet, port = ping(pod, to.Addr(), true), 0
			}
			want := false
			for _, rule := range rules[classOf[i]] {
				if (rule.Protocol == 0 || rule.Protocol == proto) && rule.First <= port && port <= rule.Last {
					want = rule.Verdict == Allow
					break
				}
			}
			d.forgetAllowed(t)
			verdict, _ := d.run(t, FromPod, ethernet(noMAC, p.podMAC, ethType(packet), packet), 0)
			if got := verdict != tcxDrop; got != want {
				t.Fatalf("round %d: %s to %s passed: %v, want %v by %+v", round, proto, to, got, want, rules[classOf[i]])
			}
		}
	}
	if n := d.counts(t)["drop policy-egress"]; n == 0 {
		t.Error("nothing was ever denied")
	}
}
