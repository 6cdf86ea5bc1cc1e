package kube

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
)

// attachment is the interface of a pod, as the daemon knows it.
func attachment(pod, uid string, ips ...string) api.Endpoint {
	e := api.Endpoint{
		Ref:          api.Ref{ContainerID: "sandbox-" + pod + uid, IfName: "eth0"},
		PodNamespace: "shop", PodName: pod, PodUID: uid, Since: time.Now(),
	}
	for _, ip := range ips {
		e.IPs = append(e.IPs, netip.MustParseAddr(ip))
	}
	return e
}

// patched waits for patches and returns them, and those that came soon after.
func (p *place) patched(n int) []testkube.Patch {
	p.t.Helper()
	var all []testkube.Patch
	p.until(fmt.Sprint(n, " patches"), func(source.State) bool {
		all = append(all, p.Patches()...)
		return len(all) >= n
	})
	return append(all, p.Patches()...)
}

func (p *place) put(e api.Endpoint, gone bool) {
	p.t.Helper()
	if err := p.WritePod(e, gone); err != nil {
		p.t.Fatal(err)
	}
}

// settle waits until what came before has been seen: a marker comes after it.
func (p *place) settle() {
	p.t.Helper()
	marker := mkPod(fmt.Sprintf("marker-%d", time.Now().UnixNano()), "node-a")
	p.Put(marker)
	p.put(attachment(marker.Name, string(marker.UID), "10.0.1.250"), false)
	p.until("marker", func(source.State) bool {
		return slices.ContainsFunc(p.Cluster.Pods(), func(pod *corev1.Pod) bool {
			return pod.Name == marker.Name && pod.Annotations[addressesAnnotation] == string(marker.UID)+"/10.0.1.250"
		})
	})
}

const said = "weft.dev/pod-ips="

func TestAddressesAreAnnouncedOnce(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkPod("one", "node-a"))
	p.start()
	p.until("synced", nodes(0))
	e := attachment("one", "uid-one", "10.0.1.2", "fd00::2")
	p.put(e, false)
	want := testkube.Patch{Namespace: "shop", Name: "one", UID: "uid-one", Annotations: said + "uid-one/10.0.1.2,fd00::2"}
	if got := p.patched(1); len(got) != 1 || got[0] != want {
		t.Errorf("patches: got %+v, want %+v", got, want)
	}
	// The kubelet's updates that were on their way do not have it made again.
	for i := range 3 {
		old := mkPod("one", "node-a")
		old.Annotations = map[string]string{addressesAnnotation: "uid-one/10.0.1.2,fd00::2", "seen": fmt.Sprint(i)}
		p.Put(old)
	}
	p.put(e, false) // a repeated ADD
	p.put(e, true)
	p.settle()
	if got := p.Patches(); len(got) != 1 {
		t.Errorf("more patches: %+v", got)
	}
}

func TestNobodyElsesPodIsAnnounced(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkPod("successor", "node-a"), mkPod("nameless", "node-a"))
	p.start()
	p.until("synced", nodes(0))
	p.put(attachment("successor", "uid-of-the-one-before", "10.0.1.2"), false)
	p.put(attachment("nameless", "", "10.0.1.3"), false)
	p.put(attachment("unknown", "uid-unknown", "10.0.1.4"), false)
	p.settle()
	if got := p.Patches(); len(got) != 1 {
		t.Errorf("patches: %+v", got)
	}
	if got := p.Snapshot(); !well(got) {
		t.Errorf("problems: %s", text(got))
	}
	// Its Pod may come later than the runtime's call.
	p.Put(mkPod("unknown", "node-a"))
	if got := p.patched(1); len(got) != 1 || got[0].Name != "unknown" {
		t.Errorf("patches: %+v", got)
	}
}

// The Pod that stands for a file of the kubelet has another UID than the runtime knows.
func TestPodOfAFileIsAnnounced(t *testing.T) {
	for _, known := range []bool{true, false} {
		p := newPlace(t)
		p.servers(p.Serve().Addr)
		mirror := mkPod("static", "node-a")
		mirror.Annotations = map[string]string{configAnnotation: "hash"}
		if !known {
			mirror.Spec.NodeName = "" // so that it is not watched
		}
		p.Put(mirror)
		p.start()
		p.until("synced", nodes(0))
		p.put(attachment("static", "hash", "10.0.1.2"), false)
		if got := p.patched(1); len(got) != 1 || got[0].UID != "uid-static" || got[0].Annotations != said+"uid-static/10.0.1.2" {
			t.Errorf("known %v: patches: %+v", known, got)
		}
	}
}

func TestAnnouncementIsTriedAgain(t *testing.T) {
	for status, what := range map[int]string{
		http.StatusInternalServerError: "by the test",
		http.StatusForbidden:           "by the test",
		http.StatusConflict:            "conflict",
	} {
		p := newPlace(t)
		p.servers(p.Serve().Addr)
		p.Put(mkPod("one", "node-a"))
		p.Fail(func(r *http.Request) int {
			if r.Method == http.MethodPatch {
				return status
			}
			return 0
		})
		p.start()
		p.until("synced", nodes(0))
		p.put(attachment("one", "uid-one", "10.0.1.2"), false)
		p.until("it is shown", func(s source.State) bool { return hasProblem(s, source.ProblemStatus, "1 of our pods", what) })
		p.Fail(nil)
		if got := p.patched(1); len(got) != 1 || got[0].Annotations != said+"uid-one/10.0.1.2" {
			t.Errorf("%d: patches: %+v", status, got)
		}
		p.until("solved", well)
	}
}

func TestAnnouncementsWaitForTheAPI(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkPod("one", "node-a"), mkPod("two", "node-a"), mkPod("short", "node-a"))
	p.start()
	p.until("synced", nodes(0))
	server.Stop()
	p.until("the outage is shown", func(s source.State) bool { return hasProblem(s, ProblemAPI) })
	p.put(attachment("one", "uid-one", "10.0.1.2"), false)
	short := attachment("short", "uid-short", "10.0.1.3")
	p.put(short, false)
	p.put(attachment("two", "uid-two", "10.0.1.4"), false)
	p.put(short, true)
	p.Delete(mkPod("short", "node-a"))
	p.ServeOn(server.Addr)
	got := p.patched(2)
	slices.SortFunc(got, func(a, b testkube.Patch) int { return len(a.Annotations+a.Name) - len(b.Annotations+b.Name) })
	if len(got) != 2 || got[0].Name+got[1].Name != "onetwo" && got[0].Name+got[1].Name != "twoone" {
		t.Errorf("patches: %+v", got)
	}
	p.until("no problem", well)
}

func TestRestartAnnouncesOnlyWhatDiffers(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	same, other, twin := mkPod("same", "node-a"), mkPod("other", "node-a"), mkPod("the-copy", "node-a")
	same.Annotations = map[string]string{addressesAnnotation: "uid-same/10.0.1.2"}
	other.Annotations = map[string]string{addressesAnnotation: "uid-other/10.0.1.99"}
	twin.Annotations = map[string]string{addressesAnnotation: "uid-same/10.0.1.6"} // by chance its own address
	p.Put(same, other, twin, mkPod("none", "node-a"))
	s, err := Open(p.opts)
	if err != nil {
		t.Fatal(err)
	}
	live := []api.Endpoint{
		attachment("same", "uid-same", "10.0.1.2"), attachment("other", "uid-other", "10.0.1.3"),
		attachment("none", "uid-none", "10.0.1.4"), attachment("gone", "uid-gone", "10.0.1.5"),
		attachment("the-copy", "uid-the-copy", "10.0.1.6"),
	}
	gone := attachment("same", "uid-same", "10.0.1.7")
	gone.ContainerID = "former"
	p.startWith(s)
	if err := s.SyncPods(live); err != nil {
		t.Fatal(err)
	}
	p.put(gone, true)
	got := p.patched(3)
	p.settle()
	got = append(got, p.Patches()...)
	slices.SortFunc(got, func(a, b testkube.Patch) int { return len(a.Name) - len(b.Name) })
	if len(got) != 4 || got[0].Name != "none" || got[1].Annotations != said+"uid-other/10.0.1.3" ||
		got[2].Annotations != said+"uid-the-copy/10.0.1.6" {
		t.Errorf("patches: %+v", got)
	}
}

// What was told before the list of those that live is newer than it.
func TestSyncIsOlderThanWhatWasToldBefore(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkPod("ended", "node-a"), mkPod("new", "node-a"))
	s, err := Open(p.opts)
	if err != nil {
		t.Fatal(err)
	}
	ended := attachment("ended", "uid-ended", "10.0.1.2")
	if err := s.WritePod(ended, true); err != nil {
		t.Fatal(err)
	}
	if err := s.WritePod(attachment("new", "uid-new", "10.0.1.3"), false); err != nil {
		t.Fatal(err)
	}
	if err := s.SyncPods([]api.Endpoint{ended}); err != nil {
		t.Fatal(err)
	}
	p.startWith(s)
	p.settle()
	if got := p.Patches(); len(got) != 2 || got[0].Name != "new" {
		t.Errorf("patches: %+v", got)
	}
}

func TestAllInterfacesOfTheNewestSandboxAreAnnounced(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkPod("one", "node-a"))
	p.start()
	p.until("synced", nodes(0))
	former, now := attachment("one", "uid-one", "10.0.1.2"), attachment("one", "uid-one", "10.0.1.3")
	now.ContainerID, now.Since = "later", former.Since.Add(time.Second)
	second := now
	second.IfName, second.IPs = "a1", []netip.Addr{netip.MustParseAddr("10.0.1.4")}
	for _, e := range []api.Endpoint{former, now, second} {
		p.put(e, false)
	}
	p.until("the last is said", func(source.State) bool {
		return slices.ContainsFunc(p.Cluster.Pods(), func(pod *corev1.Pod) bool {
			return pod.Annotations[addressesAnnotation] == "uid-one/10.0.1.3,10.0.1.4"
		})
	})
	p.Patches()
	p.put(former, true)
	p.settle()
	if got := p.Patches(); len(got) != 1 {
		t.Errorf("patches after the former sandbox is gone: %+v", got)
	}
}
