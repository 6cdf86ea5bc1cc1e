package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// filterOf reads what is at our place on a device of the thread's namespace.
func filterOf(t *testing.T, ifindex int) filter {
	t.Helper()
	c, err := openTC()
	must(t, err)
	defer c.close()
	h := Hook{Program: FromPod, IfIndex: ifindex}
	found, err := c.filters(h)
	must(t, err)
	return found[h]
}

// tcxLink attaches the datapath's from_pod as a daemon did before there were filters.
func tcxLink(t *testing.T, d *Datapath, h Hook) {
	t.Helper()
	must(t, mkdir(d.linkDir()))
	l, err := link.AttachTCX(link.TCXOptions{Interface: h.IfIndex, Program: d.programs[FromPod], Attach: ebpf.AttachTCXIngress})
	must(t, err)
	defer l.Close()
	must(t, l.Pin(d.linkPin(h)))
}

// podDevice is a namespace with a device like a pod's, and the hook on it.
func podDevice(t *testing.T) (netns.NsHandle, netlink.Link, Hook) {
	ns := newNS(t)
	dev := veth(t, ns, newNS(t), "weft0", "eth0")
	return ns, dev, Hook{FromPod, dev.Attrs().Index}
}

func TestRestartAdoptsFilters(t *testing.T) {
	t.Parallel()
	ns, _, h := podDevice(t)
	o := Options{Dir: bpffs(t)}
	first := open(t, o)
	in(t, ns, func() {
		must(t, first.Links().Set(h, struct{}{}))
		must(t, first.Commit())
		must(t, first.Close())
		before := filterOf(t, h.IfIndex)

		d := open(t, o)
		if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
			t.Errorf("before Commit (-got +want):\n%s", diff)
		}
		must(t, d.Links().Set(h, struct{}{}))
		if got := filterOf(t, h.IfIndex); got != before {
			t.Errorf("before Commit the filter is %+v, was %+v", got, before)
		}
		must(t, d.Commit())
		if got := filterOf(t, h.IfIndex); got.program != d.ids[FromPod] || !got.direct {
			t.Errorf("after Commit runs %+v, want program %d", got, d.ids[FromPod])
		}
		if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
			t.Errorf("after Commit (-got +want):\n%s", diff)
		}
	})
}

func TestUpgradeReplacesFiltersAndBack(t *testing.T) {
	t.Parallel()
	ns, _, h := podDevice(t)
	o := Options{Dir: bpffs(t)}
	in(t, ns, func() {
		var before filter
		for i, size := range []uint32{16, 32, 16} {
			o.MaxPeers = size
			d := open(t, o)
			must(t, d.SelfTest())
			must(t, d.Links().Set(h, struct{}{}))
			if got := filterOf(t, h.IfIndex); i > 0 && got != before {
				t.Errorf("upgrade %d: before Commit the filter is %+v, was %+v", i, got, before)
			}
			must(t, d.Commit())
			must(t, d.Commit())
			before = filterOf(t, h.IfIndex)
			if !before.runs(FromPod) || before.program != d.ids[FromPod] {
				t.Errorf("upgrade %d: runs %+v, want %d", i, before, d.ids[FromPod])
			}
			if n := strings.Count(sh(t, ns, "tc filter show dev weft0 ingress"), FilterPrefix+string(FromPod)); n != 1 {
				t.Errorf("upgrade %d: %d filters, want one", i, n)
			}
			if n, err := removeLayouts(o.Dir, d.Layout()); n != 0 || err != nil {
				t.Errorf("upgrade %d: %d layouts were left, error %v", i, n, err)
			}
			must(t, d.Close())
		}
		must(t, Remove(o.Dir))
		must(t, Remove(o.Dir))
		if got := sh(t, ns, "tc qdisc show dev weft0 clsact"); got != "" || exists(o.Dir) {
			t.Errorf("after Remove there is %q, folder there: %v", got, exists(o.Dir))
		}
	})
}

// A former daemon had from_pod in a TCX link; a daemon that died may have left both.
func TestFormerLinksAreTakenOver(t *testing.T) {
	t.Parallel()
	for name, both := range map[string]bool{"link": false, "link and filter": true} {
		t.Run(name, func(t *testing.T) {
			ns, _, h := podDevice(t)
			o := Options{Dir: bpffs(t)}
			former := open(t, o)
			o.MaxPeers = 32
			d := open(t, o)
			in(t, ns, func() {
				tcxLink(t, former, h)
				if both {
					c, err := openTC()
					must(t, err)
					defer c.close()
					must(t, c.setFilter(h, d.programs[FromPod]))
				}
				must(t, d.Links().Set(h, struct{}{}))
				if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
					t.Errorf("links before Commit (-got +want):\n%s", diff)
				}
				if _, ok, err := (links{d}).Get(h); !ok || err != nil {
					t.Errorf("Get before Commit: %v, %v", ok, err)
				}
				if got := running(t, h.IfIndex, ebpf.AttachTCXIngress); len(got) != 1 || got[0] != former.ids[FromPod] {
					t.Errorf("before Commit runs %v, want %d", got, former.ids[FromPod])
				}
				must(t, d.Commit())
				if got := running(t, h.IfIndex, ebpf.AttachTCXIngress); len(got) != 0 || exists(d.linkPin(h)) {
					t.Errorf("after Commit a link runs %v, pin there: %v", got, exists(d.linkPin(h)))
				}
				if got := filterOf(t, h.IfIndex); got.program != d.ids[FromPod] {
					t.Errorf("after Commit the filter is %+v, want program %d", got, d.ids[FromPod])
				}
				if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
					t.Errorf("links after Commit (-got +want):\n%s", diff)
				}
			})
		})
	}
}

// Where our place is taken, a former link stays in force, and a new pod gets an error.
func TestForeignFilterInOurPlaceStays(t *testing.T) {
	t.Parallel()
	ns, _, h := podDevice(t)
	o := Options{Dir: bpffs(t)}
	former := open(t, o)
	o.MaxPeers = 32
	d := open(t, o)
	in(t, ns, func() {
		foreign := passAll(t, "from_pod")
		sh(t, ns, "tc qdisc add dev weft0 clsact")
		must(t, netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: h.IfIndex, Parent: netlink.HANDLE_MIN_INGRESS,
				Handle: podFilterHandle, Priority: PodFilterPriority, Protocol: 3},
			Fd: foreign.FD(), Name: "theirs", DirectAction: true,
		}))
		if err := d.Links().Set(h, struct{}{}); err == nil || !strings.Contains(err.Error(), "theirs") {
			t.Errorf("got %v, want an error that names the filter", err)
		}
		tcxLink(t, former, h)
		must(t, d.Commit())
		must(t, d.Commit())
		if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
			t.Errorf("links (-got +want):\n%s", diff)
		}
		if got := running(t, h.IfIndex, ebpf.AttachTCXIngress); len(got) != 1 || got[0] != d.ids[FromPod] {
			t.Errorf("runs %v, want %d", got, d.ids[FromPod])
		}
		must(t, d.Links().Delete(h))
		if got := filterOf(t, h.IfIndex); got.name != "theirs" {
			t.Errorf("after deletion the filter is %+v, want theirs", got)
		}
	})
}

// The qdisc `ingress` is in the place of clsact, and takes filters for either side as those of one.
func TestIngressIsReplacedUnlessOthersHaveFiltersThere(t *testing.T) {
	t.Parallel()
	ns, _, in0 := podDevice(t)
	out := Hook{ToPod, in0.IfIndex}
	d := open(t, Options{})
	must(t, d.Commit())
	set := func() error { return errors.Join(d.Links().Set(in0, struct{}{}), d.Links().Set(out, struct{}{})) }
	foreign := passAll(t, "theirs")
	in(t, ns, func() {
		must(t, set())
		sh(t, ns, "tc qdisc del dev weft0 clsact")
		sh(t, ns, "tc qdisc add dev weft0 ingress")
		for _, priority := range []uint16{7, RedirectPriority} {
			must(t, netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: in0.IfIndex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: priority, Protocol: 3},
				Fd:          foreign.FD(), Name: "theirs", DirectAction: true,
			}))
			if err := set(); err == nil || !strings.Contains(err.Error(), "ingress") {
				t.Errorf("got %v, want an error that names the qdisc", err)
			}
			if got := sh(t, ns, "tc filter show dev weft0 ingress"); !strings.Contains(got, "theirs") || strings.Contains(got, FilterPrefix+string(ToPod)) {
				t.Errorf("filters are now\n%s", got)
			}
			sh(t, ns, fmt.Sprintf("tc filter del dev weft0 ingress pref %d", priority))
		}
		must(t, set())
		if diff := cmp.Diff(dumpLinks(t, d), hooks(in0, out)); diff != "" {
			t.Errorf("links (-got +want):\n%s", diff)
		}
	})
}

func TestDriftOfFiltersIsSeen(t *testing.T) {
	t.Parallel()
	ns, dev, h := podDevice(t)
	d := open(t, Options{})
	must(t, d.Commit())
	foreign := passAll(t, "from_pod")
	in(t, ns, func() {
		put := func(direct bool, fd int) {
			must(t, netlink.FilterReplace(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: h.IfIndex, Parent: netlink.HANDLE_MIN_INGRESS,
					Handle: podFilterHandle, Priority: PodFilterPriority, Protocol: 3},
				Fd: fd, Name: FilterPrefix + string(FromPod), DirectAction: direct,
			}))
		}
		for name, harm := range map[string]func(){
			"filter deleted":   func() { sh(t, ns, "tc filter del dev weft0 ingress pref 1") },
			"clsact deleted":   func() { sh(t, ns, "tc qdisc del dev weft0 clsact") },
			"program replaced": func() { put(true, foreign.FD()) },
			"not direct":       func() { put(false, d.programs[FromPod].FD()) },
		} {
			must(t, d.Links().Set(h, struct{}{}))
			harm()
			if got := dumpLinks(t, d); len(got) != 0 {
				t.Errorf("%s: links %v, want none", name, got)
			}
			if _, ok, err := (links{d}).Get(h); ok || err != nil {
				t.Errorf("%s: Get says %v, %v", name, ok, err)
			}
			must(t, d.Links().Set(h, struct{}{}))
			if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
				t.Errorf("%s: links after repair (-got +want):\n%s", name, diff)
			}
			if got := filterOf(t, h.IfIndex); got.program != d.ids[FromPod] || !got.direct {
				t.Errorf("%s: after repair the filter is %+v, want program %d", name, got, d.ids[FromPod])
			}
		}
		// What others hang there stays, and clsact with it.
		sh(t, ns, "tc filter add dev weft0 ingress pref 7 protocol all u32 match u32 0 0 classid 1:1")
		must(t, d.Links().Delete(h))
		must(t, d.Links().Delete(h))
		if got := sh(t, ns, "tc filter show dev weft0 ingress"); !strings.Contains(got, "pref 7") || strings.Contains(got, FilterPrefix+string(FromPod)) {
			t.Errorf("after deletion the filters are\n%s", got)
		}
		must(t, d.Links().Set(h, struct{}{}))
		must(t, Remove(d.dir))
		if got := sh(t, ns, "tc filter show dev weft0 ingress"); !strings.Contains(got, "pref 7") || strings.Contains(got, FilterPrefix+string(FromPod)) {
			t.Errorf("after Remove the filters are\n%s", got)
		}
		must(t, os.MkdirAll(d.linkDir(), 0o700))
		must(t, netlink.LinkDel(dev))
		if got := dumpLinks(t, d); len(got) != 0 {
			t.Errorf("device gone: links %v, want none", got)
		}
		must(t, d.Links().Delete(h))
	})
}

// More devices than fit in one batch, some without a filter, some with a foreign one.
func TestAllFiltersAreFound(t *testing.T) {
	t.Parallel()
	ns := newNS(t)
	d := open(t, Options{})
	in(t, ns, func() {
		want := map[Hook]struct{}{}
		for i := range 3*maxBatch + 5 {
			dev := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("dev", i)}}
			must(t, netlink.LinkAdd(dev))
			h := Hook{FromPod, dev.Index}
			switch i % 5 {
			case 0:
			case 1:
				sh(t, ns, "tc qdisc add dev "+dev.Name+" clsact")
			default:
				must(t, d.Links().Set(h, struct{}{}))
				want[h] = struct{}{}
			}
		}
		if diff := cmp.Diff(dumpLinks(t, d), want); diff != "" {
			t.Errorf("links (-got +want):\n%s", diff)
		}
	})
}
