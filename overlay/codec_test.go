package overlay

import (
	"net/netip"
	"slices"
	"testing"
)

// FuzzParse feeds what the kernel sends to the readers; they must not fall over,
// and what they take for a route must have a masked or at least a valid prefix.
func FuzzParse(f *testing.F) {
	for k, v := range testRoutes(3, 4) {
		var b []byte
		for _, p := range routeMessage(k, v) {
			b = append(b, p.Serialize()...)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseRoute(b); ok && !r.key.Dst.IsValid() {
			t.Errorf("route without destination from %x", b)
		}
		parseAddr(b)
		getVia(b)
	})
}

// TestRouteCodec reads what it writes.
func TestRouteCodec(t *testing.T) {
	for k, v := range testRoutes(3, 4) {
		var b []byte
		for _, p := range routeMessage(k, v) {
			b = append(b, p.Serialize()...)
		}
		got, ok := parseRoute(b)
		if !ok || !got.ours() {
			t.Fatalf("%v: not a route of ours", k)
		}
		if d := diff(map[RouteKey]Route{got.key: got.Route}, map[RouteKey]Route{k: v}); d != "" {
			t.Errorf("(-got +want):\n%s", d)
		}
		for n := range len(b) { // truncated anywhere
			parseRoute(slices.Clone(b[:n]))
		}
	}
}

func TestRouteKeysThatNeverConvergeAreRefused(t *testing.T) {
	r := NewRoutes()
	for name, k := range map[string]RouteKey{
		"none":           {},
		"not masked":     {Dst: netip.MustParsePrefix("10.0.0.1/24")},
		"mapped":         {Dst: netip.MustParsePrefix("::ffff:10.0.0.0/120")},
		"default metric": {Dst: netip.MustParsePrefix("fd00::/64"), Metric: 1024},
	} {
		if r.Set(k, Route{}) == nil || r.Delete(k) == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
