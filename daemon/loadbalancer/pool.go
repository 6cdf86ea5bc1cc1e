package loadbalancer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/daemon/source"
)

// NoClass stands in a pool for Services without a class.
const NoClass = "none"

// Pool is addresses, and for whom they are.
type Pool struct {
	Name       string
	Ranges     []Range  // as written; no two overlap
	Namespaces []string // of its Services; none: all
	Class      string   // of its Services: "" any that is ours, [Class] or [NoClass]
	Manual     bool     // its addresses are given only to who asks for them
}

// Range is the addresses from First to Last, both of one family.
type Range struct{ First, Last netip.Addr }

// Contains says whether an address is in the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

func (r Range) overlaps(o Range) bool {
	return r.First.Is4() == o.First.Is4() && r.First.Compare(o.Last) <= 0 && o.First.Compare(r.Last) <= 0
}

func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// Contains says whether an address is in the pool.
func (p *Pool) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(a) })
}

// admits says whether the pool is for a Service.
func (p *Pool) admits(s *source.Service) bool {
	switch {
	case len(p.Namespaces) > 0 && !slices.Contains(p.Namespaces, s.Namespace):
		return false
	case p.Class == NoClass:
		return s.LoadBalancerClass == ""
	}
	return p.Class == "" || p.Class == s.LoadBalancerClass
}

const example = `[{"name": "lan", "addresses": ["192.0.2.64/26", "2001:db8::10-2001:db8::1f"]}]`

var poolName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)

// ParsePools reads a list of pools, as JSON or YAML. An empty text is an empty list. The
// error says of all that is wrong what to do about it.
func ParsePools(text string) ([]Pool, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var raw []json.RawMessage
	js, err := yaml.YAMLToJSONStrict([]byte(text))
	if err == nil {
		err = json.Unmarshal(js, &raw)
	}
	if err != nil {
		return nil, fmt.Errorf("not a JSON or YAML list as in %s: %w", example, err)
	}
	var pools []Pool
	var errs []error
	for i, one := range raw {
		p, err := parsePool(one)
		if err != nil {
			errs = append(errs, fmt.Errorf("pool %d: %w", i+1, err))
			continue
		}
		errs = append(errs, clashes(pools, p))
		pools = append(pools, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return pools, nil
}

func parsePool(js []byte) (Pool, error) {
	var in struct {
		Name       string   `json:"name"`
		Addresses  []string `json:"addresses"`
		Namespaces []string `json:"namespaces"`
		Class      string   `json:"class"`
		Auto       *bool    `json:"auto"` // true, if it is not there
	}
	d := json.NewDecoder(bytes.NewReader(js))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return Pool{}, fmt.Errorf("%w; a pool has name, addresses, namespaces, class, auto", err)
	}
	p := Pool{Name: in.Name, Namespaces: in.Namespaces, Class: in.Class, Manual: in.Auto != nil && !*in.Auto}
	switch {
	case !poolName.MatchString(p.Name):
		return p, fmt.Errorf("name: %q is no name (a-z, 0-9, - and .): give it one", p.Name)
	case p.Class != "" && p.Class != Class && p.Class != NoClass:
		return p, fmt.Errorf("%s: class: %q is neither %s nor %s (Services without a class): leave it out for both", p.Name, p.Class, Class, NoClass)
	case len(in.Addresses) == 0:
		return p, fmt.Errorf(`%s: addresses: none; write them as in ["192.0.2.64/26", "2001:db8::10-2001:db8::1f"]`, p.Name)
	}
	for _, n := range p.Namespaces {
		if !poolName.MatchString(n) {
			return p, fmt.Errorf("%s: namespaces: %q is not the name of a namespace", p.Name, n)
		}
	}
	for _, text := range in.Addresses {
		r, err := parseRange(text)
		if err != nil {
			return p, fmt.Errorf("%s: addresses: %w", p.Name, err)
		}
		if err := overlap(p, r); err != nil {
			return p, fmt.Errorf("%s: addresses: %w", p.Name, err)
		}
		p.Ranges = append(p.Ranges, r)
	}
	return p, nil
}

// clashes says which of the pools has the name of p, or addresses of it.
func clashes(pools []Pool, p Pool) error {
	for _, other := range pools {
		if other.Name == p.Name {
			return fmt.Errorf("pool %s is there twice: give each its own name", p.Name)
		}
		for _, r := range p.Ranges {
			if err := overlap(other, r); err != nil {
				return fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

// overlap says which range of a pool has addresses of r.
func overlap(p Pool, r Range) error {
	for _, has := range p.Ranges {
		if has.overlaps(r) {
			return fmt.Errorf("%s overlaps %s of pool %s: let each address be in one place", r, has, p.Name)
		}
	}
	return nil
}

// parseRange reads a prefix, two addresses with a hyphen between, or one address.
func parseRange(text string) (Range, error) {
	text = strings.TrimSpace(text)
	var r Range
	if first, last, ok := strings.Cut(text, "-"); ok {
		a, errA := netip.ParseAddr(strings.TrimSpace(first))
		b, errB := netip.ParseAddr(strings.TrimSpace(last))
		if err := errors.Join(errA, errB); err != nil {
			return r, fmt.Errorf("%q is no range: write the first and the last address, as in 192.0.2.10-192.0.2.20", text)
		}
		if a.Is4() != b.Is4() || a.Compare(b) > 0 {
			return r, fmt.Errorf("%q is no range: the last address must be of the same family and not before the first", text)
		}
		r = Range{a, b}
	} else if p, err := netip.ParsePrefix(text); err == nil {
		if p.Masked() != p {
			return r, fmt.Errorf("%q has bits behind its prefix: write %s for all of it, or a range", text, p.Masked())
		}
		r = rangeOf(p)
	} else if a, err := netip.ParseAddr(text); err == nil {
		r = Range{a, a}
	} else {
		return r, fmt.Errorf("%q is neither a prefix (192.0.2.64/26) nor a range (192.0.2.10-192.0.2.20) nor an address", text)
	}
	if r.First.Is4In6() || r.First.Zone() != "" || r.Last.Zone() != "" {
		return r, fmt.Errorf("%q: write IPv4 addresses as IPv4, and no zones", text)
	}
	for _, no := range unusable {
		if r.overlaps(rangeOf(no.prefix)) {
			return r, fmt.Errorf("%q has addresses that are %s: no client can reach a Service there, leave them out", text, no.is)
		}
	}
	return r, nil
}

// unusable are addresses that no Service can have.
var unusable = []struct {
	prefix netip.Prefix
	is     string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "of no host (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast, or reserved"},
	{netip.MustParsePrefix("::/127"), "loopback, or unspecified"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// rangeOf is the addresses of a masked prefix.
func rangeOf(p netip.Prefix) Range {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return Range{p.Addr(), last}
}
