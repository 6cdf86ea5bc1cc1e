package bpf

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/internal/reconcile"
)

// A trie tells the longest prefix that matches: a row in whose place a shorter prefix has been
// put with the same value, so that the number is right, is missed all the same.
func TestCheckSeesAShorterPrefix(t *testing.T) {
	t.Parallel()
	d := open(t, Options{MaxPeers: DefaultMaxPeers})
	prefix := netip.MustParsePrefix
	peer := Peer{Remote: addr("192.0.2.2"), Local: addr("192.0.2.1")}
	for _, at := range []string{"0.0.0.0/0", "10.0.0.0/7", "::/0"} {
		shorter(t, "peers", d.Peers(), prefix("10.244.3.0/24"), prefix(at), peer)
		shorter(t, "classes", d.Classes(), prefix("10.244.3.0/24"), prefix(at), Class(7))
	}
	shorter(t, "ranges", d.Services().Ranges, Range{1, prefix("10.0.0.0/8")}, Range{1, prefix("0.0.0.0/0")}, struct{}{})
}

func shorter[K, V comparable](t *testing.T, name string, target reconcile.Target[K, V], ours, other K, v V) {
	t.Helper()
	tab := reconcile.New(name, target)
	tab.AllowPrune()
	want := map[K]V{ours: v}
	tab.Put("test", want)
	must(t, reconcile.Group{tab}.Sync(true))
	must(t, target.Delete(ours))
	must(t, target.Set(other, v))
	must(t, tab.Check(false))
	must(t, reconcile.Group{tab}.Sync(false))
	got, err := target.Dump()
	must(t, err)
	if !maps.Equal(got, want) {
		t.Errorf("%s after a check: %v, want %v", name, got, want)
	}
}
