package kube

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/testkube"
)

func nodes(n int) func(source.State) bool {
	return func(s source.State) bool { return s.Complete && len(s.Nodes) == n }
}

func well(s source.State) bool { return len(s.Problems) == 0 }

// nobody is an address of loopback at which nobody listens.
func nobody(p *place) string {
	p.t.Helper()
	s := p.Serve()
	s.Stop()
	return s.Addr
}

func TestStateStaysWhileTheAPIIsAway(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{ClusterPolicies: true})
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkNode("node-a", 1), mkNode("node-b", 2))
	p.start()
	before := p.until("synced", func(s source.State) bool { return nodes(2)(s) && s.PoliciesComplete })
	server.Stop()
	s := p.until("the outage is shown", func(s source.State) bool { return hasProblem(s, ProblemAPI, server.Addr, "refused", "stays in force") })
	if !s.Complete || !slices.Equal(s.Nodes, before.Nodes) {
		t.Errorf("state during the outage: %s", text(s))
	}
	p.Put(mkNode("node-c", 3))
	p.Delete(mkNode("node-b", 2))
	p.Asked()
	p.ServeOn(server.Addr)
	p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]
node node-c [10.0.3.0/24] [192.168.0.3]`)
	for _, asked := range p.Asked() {
		if strings.HasPrefix(asked, "stream") || strings.HasPrefix(asked, "list") {
			t.Errorf("after the outage it asks for all objects again: %s", asked)
		}
	}
}

func TestForgottenHistoryIsListedAgain(t *testing.T) {
	for _, options := range []testkube.Options{{}, {NoStream: true}} {
		p := newPlace(t)
		p.Set(options)
		server := p.Serve()
		p.servers(server.Addr)
		p.Put(mkNode("node-a", 1), mkNode("node-b", 2), mkNode("node-c", 3))
		p.start()
		before := p.until("synced", nodes(3))
		server.Stop()
		p.Delete(mkNode("node-b", 2))
		p.Compact()
		p.ServeOn(server.Addr)
		after := p.until("the deletion", nodes(2))
		if after.Nodes[0] != before.Nodes[0] || after.Nodes[1] != before.Nodes[2] {
			t.Errorf("%+v: nodes that did not change are other objects", options)
		}
	}
}

// A connection may end at any time, for the server's restart or for balance: that is no
// outage.
func TestCutConnectionIsTakenUpAgain(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkNode("node-a", 1))
	p.start()
	p.until("synced", nodes(1))
	for i := range 5 {
		server.Cut()
		p.Put(mkNode("node-b", 10+i))
		p.until("the change", func(s source.State) bool {
			return len(s.Nodes) == 2 && s.Nodes[1].PodCIDRs[0].String() == mkNode("", 10+i).Spec.PodCIDRs[0]
		})
	}
	p.until("no problem", well)
}

func TestDeadServersAreLeft(t *testing.T) {
	p := newPlace(t)
	frozen, server := p.Serve(), p.Serve()
	frozen.Freeze()
	p.Put(mkNode("node-a", 1))
	for range 4 { // whichever chance has come first
		p.servers(nobody(p), frozen.Addr, server.Addr)
		p.start()
		p.within(10*time.Second, "synced", nodes(1))
		p.stop()
	}
}

// A connection on which nothing is said looks well from here for as long as nobody asks.
func TestBlackHoleIsLeft(t *testing.T) {
	p := newPlace(t)
	first := p.Serve()
	p.servers(first.Addr)
	p.Put(mkNode("node-a", 1))
	p.start()
	p.until("synced", nodes(1))
	second := p.Serve()
	p.Put(mkServers(t, second))
	p.until("it is learnt", func(source.State) bool { _, err := os.Stat(p.opts.StateFile); return err == nil })
	first.Freeze()
	p.Put(mkNode("node-b", 2))
	p.within(15*time.Second, "the change", nodes(2))
}

func TestServerThatDoesNotAnswerAsItShouldIsLeft(t *testing.T) {
	p := newPlace(t)
	bad, good := p.Serve(), p.Serve()
	p.Fail(func(r *http.Request) int {
		if r.Context().Value(http.LocalAddrContextKey).(interface{ String() string }).String() == bad.Addr {
			return http.StatusInternalServerError
		}
		return 0
	})
	p.Put(mkNode("node-a", 1))
	for range 4 {
		p.servers(bad.Addr, good.Addr)
		p.start()
		p.until("synced", nodes(1))
		p.until("no problem", well)
		p.stop()
	}
}

// All API servers get other addresses, one after the other, while the daemon looks.
func TestServersAreFollowed(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkNode("node-a", 1), mkServers(t, server))
	p.start()
	p.until("synced", nodes(1))
	for i := range 4 {
		next := p.Serve()
		p.Put(mkServers(t, server, next), mkServers(t, next))
		p.until("the new server", func(source.State) bool {
			b, err := os.ReadFile(p.opts.StateFile)
			return err == nil && string(b) == `{"servers":["`+next.Addr+`"]}`+"\n"
		})
		server.Stop()
		server = next
		p.Put(mkNode("node-b", 10+i))
		p.until("the change", func(s source.State) bool {
			return len(s.Nodes) == 2 && s.Nodes[1].PodCIDRs[0].String() == mkNode("", 10+i).Spec.PodCIDRs[0]
		})
	}
}

func TestServersAreFoundAgainAfterTheyMoved(t *testing.T) {
	t.Run("to those known last", func(t *testing.T) {
		p := newPlace(t)
		first, second := p.Serve(), p.Serve()
		p.Kubeconfig(p.opts.Kubelet, first.Addr, "")
		p.Put(mkNode("node-a", 1), mkServers(t, second))
		p.start()
		p.until("synced", nodes(1))
		p.until("written", func(source.State) bool { _, err := os.Stat(p.opts.StateFile); return err == nil })
		p.stop()
		first.Stop()
		p.start()
		p.until("synced", nodes(1))
	})
	t.Run("to those that the kubelet knows now", func(t *testing.T) {
		p := newPlace(t)
		first := p.Serve()
		p.Kubeconfig(p.opts.Kubelet, first.Addr, "")
		p.Put(mkNode("node-a", 1), mkServers(t, first))
		p.start()
		p.until("synced", nodes(1))
		p.until("written", func(source.State) bool { _, err := os.Stat(p.opts.StateFile); return err == nil })
		p.stop()
		first.Stop()
		second := p.Serve()
		p.start()
		p.until("the outage is shown", func(s source.State) bool { return hasProblem(s, ProblemAPI, first.Addr) })
		p.Kubeconfig(p.opts.Kubelet, second.Addr, "")
		p.until("synced", nodes(1))
	})
	t.Run("from a file that is cut short", func(t *testing.T) {
		p := newPlace(t)
		p.Kubeconfig(p.opts.Kubelet, p.Serve().Addr, "")
		if err := os.WriteFile(p.opts.StateFile, []byte(`{"serv`), 0o600); err != nil {
			t.Fatal(err)
		}
		p.Put(mkNode("node-a", 1))
		p.start()
		p.until("synced", nodes(1))
	})
}

// Who says that there are no API servers is one.
func TestNoServersAreNotBelieved(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkServers(t, server))
	p.start()
	written := func(source.State) bool {
		b, _ := os.ReadFile(p.opts.StateFile)
		return strings.Contains(string(b), server.Addr)
	}
	p.until("written", written)
	p.Put(mkServers(t))
	p.until("none", well) // with the endpoint goes the problem that it is of loopback
	p.Delete(mkServers(t))
	p.until("gone", func(s source.State) bool { return s.Slices.Len() == 0 })
	if !written(source.State{}) {
		t.Error("the servers known last are forgotten")
	}
	if entries, err := filepath.Glob(p.opts.StateFile + ".*"); err != nil || len(entries) > 0 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestRefusalIsShown(t *testing.T) {
	t.Run("unknown", func(t *testing.T) {
		p := newPlace(t)
		p.servers(p.Serve().Addr)
		p.Allow("token-1", false)
		p.Put(mkNode("node-a", 1))
		p.start()
		p.until("it is shown", func(s source.State) bool { return hasProblem(s, ProblemAccess, "does not take our credentials") })
		p.Allow("token-1", true)
		p.until("synced", nodes(1))
		p.until("solved", well)
	})
	t.Run("forbidden", func(t *testing.T) {
		p := newPlace(t)
		p.servers(p.Serve().Addr)
		p.Fail(func(r *http.Request) int {
			if strings.HasSuffix(r.URL.Path, "/endpointslices") {
				return http.StatusForbidden
			}
			return 0
		})
		p.Put(mkNode("node-a", 1))
		p.start()
		s := p.until("it is shown", func(s source.State) bool { return hasProblem(s, ProblemAccess, "ClusterRole", "endpointslices") })
		if s.Complete {
			t.Error("complete without what is forbidden")
		}
		p.Fail(nil)
		p.until("synced", nodes(1))
		p.until("solved", well)
	})
}

func TestTokenIsReadAnew(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkNode("node-a", 1))
	p.start()
	p.until("synced", nodes(1))
	p.ServiceAccount(p.dir, "token-2")
	p.Allow("token-1", false)
	server.Cut()
	p.Put(mkNode("node-b", 2))
	p.until("the change", nodes(2))
	p.until("no problem", well)
}

// kinds is how many are read, with ClusterNetworkPolicies.
const kinds = 7

// failing says whether all kinds have failed so for so long, once they were listed.
func failing(text string, d time.Duration) func(source.State) bool {
	return func(s source.State) bool {
		n := 0
		for _, p := range s.Problems {
			if p.What == ProblemAPI && strings.Contains(p.Text, text) && time.Since(p.Since) > d {
				n++
			}
		}
		return s.Complete && n == kinds
	}
}

func TestWatchThatEndsAtOnceIsNotAStorm(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{NoWatch: true, NoStream: true, ClusterPolicies: true})
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1))
	p.start()
	p.until("it is shown", failing("ends at once", time.Second))
	if n := len(p.Asked()); n > kinds*3+kinds*8 {
		t.Errorf("%d requests in a second", n)
	}
	p.Set(testkube.Options{})
	p.Put(mkNode("node-b", 2))
	p.until("the change", nodes(2))
}

func TestServerThatForgetsWhatItListsIsNotAStorm(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{NoStream: true, Forgets: true, ClusterPolicies: true})
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1))
	p.start()
	p.until("it is shown", failing("too old", time.Second))
	if n := len(p.Asked()); n > kinds*3*2*8 {
		t.Errorf("%d requests in a second", n)
	}
	p.Set(testkube.Options{NoStream: true})
	p.Put(mkNode("node-b", 2))
	p.until("the change", nodes(2))
	p.until("solved", well)
}
