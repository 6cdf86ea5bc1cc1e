package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func nodes(n int) []Node {
	var out []Node
	for i := range n {
		out = append(out, Node{Name: fmt.Sprintf("worker-%d.example.com", i)})
	}
	return out
}

// order is all nodes, best first, as every one of them sees it.
func order(t *testing.T, a netip.Addr, all []Node) []string {
	t.Helper()
	out := make([]string, len(all))
	for _, n := range all {
		ahead, ok := Ahead(a, n.Name, all)
		if !ok {
			t.Fatalf("%s is not among the nodes", n.Name)
		}
		out[len(ahead)] = n.Name
	}
	for i, name := range out {
		if ahead, _ := Ahead(a, name, all); !slices.Equal(ahead, out[:i]) {
			t.Fatalf("%s sees %v before it, others %v", name, ahead, out[:i])
		}
	}
	return out
}

func TestAllNodesSeeOneOrder(t *testing.T) {
	all := nodes(7)
	a := netip.MustParseAddr("2001:db8::5")
	want := order(t, a, all)
	if got := First(a, all); got != want[0] {
		t.Errorf("the first is %s, want %s", got, want[0])
	}
	slices.Reverse(all)
	if got := order(t, a, all); !slices.Equal(got, want) {
		t.Errorf("order %v, want %v as in another order of the nodes", got, want)
	}
	if _, ok := Ahead(a, "stranger", all); ok {
		t.Error("a stranger is a node")
	}
}

// Of neighbouring addresses, as pools give them out.
func TestAddressesSpreadOverTheNodes(t *testing.T) {
	for _, first := range []string{"192.0.2.0", "10.255.255.0", "2001:db8::"} {
		all := nodes(10)
		got := map[string]int{}
		a := netip.MustParseAddr(first)
		for range 1000 {
			got[order(t, a, all)[0]]++
			a = a.Next()
		}
		for _, n := range all {
			if got[n.Name] < 60 || got[n.Name] > 140 {
				t.Errorf("%s and on: %v, want about 100 for each", first, got)
				break
			}
		}
	}
}

func TestOnlyTheAddressesOfANodeThatGoesMove(t *testing.T) {
	all := nodes(9)
	a := netip.MustParseAddr("192.0.2.0")
	for range 200 {
		before := order(t, a, all)
		after := order(t, a, all[1:])
		if want := slices.DeleteFunc(slices.Clone(before), func(n string) bool { return n == all[0].Name }); !slices.Equal(after, want) {
			t.Fatalf("%s: %v, want %v", a, after, want)
		}
		a = a.Next()
	}
}

func TestNodesOnTheLinkOfAnAddress(t *testing.T) {
	node := func(name string, addrs ...string) Node {
		n := Node{Name: name}
		for _, a := range addrs {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
		}
		return n
	}
	all := []Node{
		node("a", "10.0.1.1", "fd00:1::1"), node("b", "10.0.1.130", "fd00:1::2"),
		node("c", "10.0.2.1", "fd00:2::1"), node("d", "10.0.2.2"),
	}
	for _, c := range []struct {
		name, addr string
		links      []string
		want       []string
	}{
		{"on our link", "10.0.1.200", []string{"10.0.1.0/24", "fd00:1::/64"}, []string{"a", "b"}},
		{"on the link of others", "10.0.1.200", []string{"10.0.2.0/24"}, []string{"b"}},
		{"on nobody's link", "192.0.2.1", []string{"10.0.1.0/24"}, []string{"a", "b", "c", "d"}},
		{"on our link, other family", "fd00:1::99", []string{"fd00:1::/64"}, []string{"a", "b", "d"}},
		{"on the link of others, other family", "fd00:1::99", []string{"fd00:2::/64"}, []string{"a", "b"}},
		{"on a link of ours among several", "10.0.2.9", []string{"10.0.0.0/16", "10.0.2.0/24"}, []string{"c", "d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var links []netip.Prefix
			for _, l := range c.links {
				links = append(links, netip.MustParsePrefix(l))
			}
			var got []string
			for _, n := range Near(netip.MustParseAddr(c.addr), links, all) {
				got = append(got, n.Name)
			}
			if diff := cmp.Diff(got, c.want); diff != "" {
				t.Errorf("nodes (-got +want):\n%s", diff)
			}
		})
	}
}
