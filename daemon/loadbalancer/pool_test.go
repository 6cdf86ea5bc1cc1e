package loadbalancer

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var equalAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestPoolsAreReadFromJSONAndYAML(t *testing.T) {
	want := []Pool{
		{Name: "lan", Ranges: []Range{{ip("192.0.2.64"), ip("192.0.2.127")}, {ip("2001:db8::10"), ip("2001:db8::1f")}}},
		{Name: "vip", Ranges: []Range{{ip("198.51.100.7"), ip("198.51.100.7")}}, Namespaces: []string{"shop"}, Class: Class, Manual: true},
	}
	for _, text := range []string{
		`[{"name": "lan", "addresses": ["192.0.2.64/26", "2001:db8::10-2001:db8::1f"], "auto": true},
		  {"name": "vip", "addresses": ["198.51.100.7"], "namespaces": ["shop"], "class": "weft.dev/l2", "auto": false}]`,
		"- name: lan\n  addresses: [192.0.2.64/26, '2001:db8::10 - 2001:db8::1f']\n" +
			"- {name: vip, addresses: [198.51.100.7], namespaces: [shop], class: weft.dev/l2, auto: false}\n",
	} {
		got, err := ParsePools(text)
		if diff := cmp.Diff(want, got, equalAddrs); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, diff)
		}
	}
	if got, err := ParsePools("  \n"); got != nil || err != nil {
		t.Errorf("empty: got %v, %v", got, err)
	}
}

func TestBadPoolsAreRefusedWithWhatToDo(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"no list", `{name: a}`, "not a JSON or YAML list as in [{"},
		{"no YAML", `[`, "not a JSON or YAML list"},
		{"unknown field", `[{name: a, adresses: [192.0.2.1]}]`, `pool 1: json: unknown field "adresses"; a pool has name, addresses,`},
		{"no name", `[{addresses: [192.0.2.1]}]`, `name: "" is no name`},
		{"name with a space", `[{name: a b, addresses: [192.0.2.1]}]`, `name: "a b" is no name`},
		{"no addresses", `[{name: a}]`, "a: addresses: none; write them as in"},
		{"no address", `[{name: a, addresses: [ten]}]`, `"ten" is neither a prefix`},
		{"range backwards", `[{name: a, addresses: [192.0.2.9-192.0.2.1]}]`, "not before the first"},
		{"range of two families", `[{name: a, addresses: ["192.0.2.9-2001:db8::1"]}]`, "of the same family"},
		{"half a range", `[{name: a, addresses: ["192.0.2.9-"]}]`, "write the first and the last address"},
		{"bits behind", `[{name: a, addresses: [192.0.2.9/24]}]`, "write 192.0.2.0/24 for all of it"},
		{"loopback", `[{name: a, addresses: [127.0.0.0/24]}]`, "loopback"},
		{"multicast", `[{name: a, addresses: ["ff02::1"]}]`, "multicast"},
		{"link-local", `[{name: a, addresses: ["fe80::1-fe80::2"]}]`, "link-local"},
		{"everything", `[{name: a, addresses: ["::/0"]}]`, "leave them out"},
		{"mapped", `[{name: a, addresses: ["::ffff:192.0.2.1"]}]`, "write IPv4 addresses as IPv4"},
		{"zone", `[{name: a, addresses: ["2001:db8::1%eth0"]}]`, "no zones"},
		{"class", `[{name: a, class: other, addresses: [192.0.2.1]}]`, `class: "other" is neither weft.dev/l2 nor none`},
		{"namespace", `[{name: a, namespaces: [A_], addresses: [192.0.2.1]}]`, `"A_" is not the name of a namespace`},
		{"twice", `[{name: a, addresses: [192.0.2.1]}, {name: a, addresses: [192.0.2.2]}]`, "pool a is there twice"},
		{"overlap", `[{name: a, addresses: [192.0.2.0/24]}, {name: b, addresses: [192.0.2.255-192.0.3.1]}]`, "pool b: 192.0.2.255-192.0.3.1 overlaps 192.0.2.0-192.0.2.255 of pool a"},
		{"overlap in one", `[{name: a, addresses: [192.0.2.0/24, 192.0.2.1]}]`, "192.0.2.1 overlaps"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParsePools(tc.text)
			if err == nil || !strings.Contains(err.Error(), tc.want) || got != nil {
				t.Errorf("got %v, %v; want an error with %q", got, err, tc.want)
			}
		})
	}
}

func TestAllFaultsOfPoolsAreSaidAtOnce(t *testing.T) {
	_, err := ParsePools(`[{name: a}, {name: b, addresses: [x]}]`)
	if err == nil || !strings.Contains(err.Error(), "pool 1: a: addresses") || !strings.Contains(err.Error(), `pool 2: b: addresses: "x"`) {
		t.Errorf("got %v", err)
	}
}

func TestSpaceLeavesReservedAddressesOut(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		reserved   []netip.Prefix
		want       []string // addresses, in order
	}{
		{"none", "192.0.2.0/30", nil, []string{"192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"}},
		{"in the middle", "192.0.2.0/30", prefixes("192.0.2.1/32"), []string{"192.0.2.0", "192.0.2.2", "192.0.2.3"}},
		{"at both ends", "192.0.2.0/30", prefixes("192.0.2.0/32", "192.0.2.3/32"), []string{"192.0.2.1", "192.0.2.2"}},
		{"all", "192.0.2.0/30", prefixes("192.0.0.0/16"), nil},
		{"of another family", "192.0.2.0/31", prefixes("::/1"), []string{"192.0.2.0", "192.0.2.1"}},
		{"across 2^64", "2001:db8:0:0:ffff:ffff:ffff:fffe-2001:db8:0:1::1", prefixes("2001:db8:0:1::/128"),
			[]string{"2001:db8::ffff:ffff:ffff:fffe", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parseRange(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			s := newSpace(&Pool{Ranges: []Range{r}}, r.First.Is6(), tc.reserved)
			var got []string
			for i := range s.size {
				a := s.at(i)
				if got = append(got, a.String()); !s.spans(a) {
					t.Errorf("%s is not spanned", a)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHugePoolsAreLookedThroughInPart(t *testing.T) {
	for _, text := range []string{"2001:db8::/32", "10.0.0.0/8"} {
		r, err := parseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		s := newSpace(&Pool{Ranges: []Range{r}}, r.First.Is6(), nil)
		if s.size != maxSpan || !s.spans(s.at(maxSpan-1)) || s.spans(s.at(maxSpan-1).Next()) {
			t.Errorf("%s: size %d, last %s", text, s.size, s.at(maxSpan-1))
		}
	}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}
