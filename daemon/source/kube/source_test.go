package kube

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/testkube"
)

func TestStateFollowsTheAPI(t *testing.T) {
	for _, form := range []struct {
		name    string
		options testkube.Options
	}{
		{"protocol buffers", testkube.Options{}},
		{"JSON", testkube.Options{JSON: true}},
		{"without streamed lists", testkube.Options{NoStream: true}},
		{"HTTP/1.1", testkube.Options{HTTP1: true}},
	} {
		t.Run(form.name, func(t *testing.T) {
			p := newPlace(t)
			p.Set(form.options)
			p.servers(p.Serve().Addr)
			p.Put(mkNode("node-b", 2), mkNode("node-a", 1), mkPod("one", "node-a"), mkPod("far", "node-b"), mkService("web", "10.96.0.1"), mkSlice("shop", "web", "10.0.1.5"))
			p.start()
			p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]
node node-b [10.0.2.0/24] [192.168.0.2]
pod shop/one uid-one []
service shop/web [10.96.0.1]
slice shop/web-1 of web 10.0.1.5`)
			p.Put(mkNode("node-c", 3), mkSlice("shop", "web", "10.0.1.5", "10.0.2.7"), mkService("api", "10.96.0.2"))
			p.Delete(mkNode("node-b", 2), mkPod("one", "node-a"))
			p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]
node node-c [10.0.3.0/24] [192.168.0.3]
service shop/api [10.96.0.2]
service shop/web [10.96.0.1]
slice shop/web-1 of web 10.0.1.5 10.0.2.7`)
		})
	}
}

// A slice that gets the label is gone for us, and there again without it.
func TestSliceThatBecomesHeadlessIsGone(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkService("web", "10.96.0.1"), mkSlice("shop", "web", "10.0.1.5"))
	p.start()
	there := `
service shop/web [10.96.0.1]
slice shop/web-1 of web 10.0.1.5`
	p.shows(there)
	hidden := mkSlice("shop", "web", "10.0.1.5")
	hidden.Labels["service.kubernetes.io/headless"] = ""
	p.Put(hidden)
	p.shows(`
service shop/web [10.96.0.1]`)
	p.Put(mkSlice("shop", "web", "10.0.1.5"))
	p.shows(there)
}

// A kubelet says every few minutes that its node lives. That must not be work for the
// thousand others.
func TestHeartbeatsChangeNothing(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1), mkNode("node-b", 2))
	p.start()
	before := p.until("synced", func(s source.State) bool { return s.Complete })
	beat := mkNode("node-b", 2)
	beat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
	p.Put(beat, mkService("web", "10.96.0.1")) // the Service says when all has arrived
	p.until("the Service", func(s source.State) bool { return len(s.Services) == 1 })
	p.Put(beat, mkNode("node-c", 3)) // nodes come in order
	after := p.until("the third node", func(s source.State) bool { return len(s.Nodes) == 3 })
	if !slices.Equal(before.Nodes, after.Nodes[:2]) {
		t.Error("a heartbeat made other objects of the nodes")
	}
}

func TestBadObjectDoesNotStopOthers(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	bad := mkService("bad", "10.96.0.999")
	turned := mkService("turned", "10.96.0.2")
	poor := mkNode("node-b", 2)
	poor.Spec.PodCIDRs = nil
	p.Put(mkNode("node-a", 1), poor, bad, turned, mkService("web", "10.96.0.1"))
	p.start()
	p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]
node node-b [] [192.168.0.2]
service shop/turned [10.96.0.2]
service shop/web [10.96.0.1]
problem source-node: node node-b: no spec.podCIDRs
problem source-object: service: shop/bad: spec.clusterIPs[0]: "10.96.0.999" is not an IP address`)
	broken := mkService("turned", "nowhere")
	lost := mkNode("node-a", 1)
	lost.Status.Addresses = nil
	p.Put(broken, lost, mkService("late", "10.96.0.3"))
	p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]
node node-b [] [192.168.0.2]
service shop/late [10.96.0.3]
service shop/turned [10.96.0.2]
service shop/web [10.96.0.1]
problem source-node: node node-a: no InternalIP in status.addresses any more; what it had stays; to remove a node, remove its object
problem source-node: node node-b: no spec.podCIDRs
problem source-object: service: shop/bad: spec.clusterIPs[0]: "10.96.0.999" is not an IP address
problem source-object: service: shop/turned: spec.clusterIPs[0]: "nowhere" is not an IP address`)
	p.Put(mkNode("node-a", 1))
	p.Delete(broken, bad, poor)
	p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]
service shop/late [10.96.0.3]
service shop/web [10.96.0.1]`)
}

// A node that was removed and made anew while nobody watched is another one: the pod CIDR of
// the former may be somebody else's by now.
func TestNodeThatIsMadeAnewHasNothingOfTheFormer(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	former := mkNode("node-a", 1)
	former.UID = "former"
	p.Put(former)
	p.start()
	p.shows(`
node node-a [10.0.1.0/24] [192.168.0.1]`)
	anew := mkNode("node-a", 1)
	anew.UID, anew.Spec.PodCIDRs = "anew", nil
	other := mkNode("node-b", 2)
	other.Spec.PodCIDRs = former.Spec.PodCIDRs
	p.Put(anew, other)
	p.shows(`
node node-a [] [192.168.0.1]
node node-b [10.0.1.0/24] [192.168.0.2]
problem source-node: node node-a: no spec.podCIDRs`)
}

func TestOnlyWhatIsReadIsWatched(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{ClusterPolicies: true}) // a kind that there is not is asked for again
	p.servers(p.Serve().Addr)
	p.opts.Services = false
	p.Put(mkNode("node-a", 1), mkService("web", "10.96.0.1"), mkSlice("shop", "web", "10.0.1.5"), mkSlice("default", "kubernetes", "192.168.0.9"))
	p.start()
	p.until("complete", func(s source.State) bool {
		return s.Complete && s.PoliciesComplete && len(s.Services) == 1 && s.Slices.Len() == 1
	})
	asked := p.Asked()
	slices.Sort(asked)
	if want := []string{"stream clusternetworkpolicies", "stream endpointslices", "stream namespaces", "stream networkpolicies", "stream nodes", "stream pods", "stream services"}; !slices.Equal(asked, want) {
		t.Errorf("requests: got %q, want %q", asked, want)
	}
}
