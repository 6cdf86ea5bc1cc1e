package e2e

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/weftnet/weft/e2e/cluster"
)

func mustPrefix(t testing.TB, s string) netip.Prefix {
	t.Helper()
	p, err := netip.ParsePrefix(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type ref struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

func refs(pods ...*cluster.Pod) []ref {
	list := []ref{}
	for _, p := range pods {
		list = append(list, ref{p.ID, "eth0"})
	}
	return list
}

// gcKeys are the specification's key and the one that libcni also sends (cni#1101).
var gcKeys = []string{"cni.dev/valid-attachments", "cni.dev/attachments"}

func TestGCRemovesWhatIsNotListed(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	foreign := newPod(t, n, "foreign")
	add := callPod("ADD", foreign)
	add.Network = "another"
	foreignResult := call(t, n, add).succeed(t)
	keep := addPod(t, n, "keep")
	for _, key := range gcKeys {
		stays, goes, gone := addPod(t, n, "stays"), addPod(t, n, "goes"), addPod(t, n, "gone")
		if err := gone.NS.Close(); err != nil {
			t.Fatal(err)
		}
		gc := cniCall{Verb: "GC"}.with(key, refs(keep, stays))
		for range 2 {
			call(t, n, gc).succeed(t)
		}
		left := attachments(t, n)
		if _, ok := left[stays.ID]; !ok || len(left) != 3 {
			t.Errorf("%s: left are %v, want foreign, keep and stays", key, left)
		}
		freed(t, n, goes.ID)
		freed(t, n, gone.ID)
		for _, p := range []*cluster.Pod{keep, stays} {
			if err := p.Check(t.Context()); err != nil {
				t.Errorf("%s: CHECK of %s: %v", key, p.Name, err)
			}
		}
		call(t, n, callPod("DEL", stays)).succeed(t)
	}
	// Without any list nothing is removed; with an empty one everything is, of this network.
	if a := call(t, n, cniCall{Verb: "GC"}); a.Exit == 0 {
		t.Errorf("GC without a list: got %s, want an error", a)
	}
	if left := attachments(t, n); len(left) != 2 {
		t.Errorf("GC without a list: left are %v", left)
	}
	call(t, n, cniCall{Verb: "GC"}.with(gcKeys[0], refs())).succeed(t)
	freed(t, n, keep.ID)
	left := attachments(t, n)
	if _, ok := left[foreign.ID]; !ok || len(left) != 1 {
		t.Errorf("empty list: left are %v, want foreign only", left)
	}
	check := add.with("prevResult", foreignResult.prev())
	check.Verb = "CHECK"
	call(t, n, check).succeed(t)
}

// The runtime should not, but may, run ADD while GC runs: a pod that was attached
// after GC's list was made is not GC's to remove while its ADD is under way, and what
// is listed is never harmed.
func TestGCBesideADD(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	keep := addPod(t, n, "keep")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if a, err := tryCall(t.Context(), n, cniCall{Verb: "GC"}.with(gcKeys[0], refs(keep))); err != nil || a.Exit != 0 {
				t.Errorf("GC: %s %v", a, err)
				return
			}
		}
	})
	var adders sync.WaitGroup
	for i := range 8 {
		pods := make([]*cluster.Pod, 5)
		for j := range pods {
			pods[j] = newPod(t, n, fmt.Sprint("p", i, j))
		}
		adders.Go(func() {
			for _, p := range pods {
				if a, err := tryCall(t.Context(), n, callPod("ADD", p)); err != nil || a.Exit != 0 {
					t.Errorf("ADD: %s %v", a, err)
				}
				if a, err := tryCall(t.Context(), n, callPod("DEL", p)); err != nil || a.Exit != 0 {
					t.Errorf("DEL: %s %v", a, err)
				}
			}
		})
	}
	adders.Wait()
	close(stop)
	wg.Wait()
	if err := keep.Check(t.Context()); err != nil {
		t.Errorf("CHECK of a listed pod: %v", err)
	}
	if left := attachments(t, n); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	freed(t, n, "none")
}
