package bpf

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// running returns the ids of the programs on a device, in order.
func running(t *testing.T, ifindex int, at ebpf.AttachType) []ebpf.ProgramID {
	t.Helper()
	r, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
	must(t, err)
	ids := []ebpf.ProgramID{}
	for _, p := range r.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

func dumpLinks(t *testing.T, d *Datapath) map[Hook]struct{} {
	t.Helper()
	got, err := d.Links().Dump()
	must(t, err)
	return got
}

func hooks(hs ...Hook) map[Hook]struct{} {
	m := map[Hook]struct{}{}
	for _, h := range hs {
		m[h] = struct{}{}
	}
	return m
}

// passAll is a program of that name that leaves every packet to the next.
func passAll(t *testing.T, name string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func TestLinksAreSetFoundAndRemoved(t *testing.T) {
	t.Parallel()
	ns := newNS(t)
	dev := veth(t, ns, newNS(t), "weft0", "eth0")
	ifindex := dev.Attrs().Index
	o := Options{Dir: bpffs(t)}
	d := open(t, o)
	in(t, ns, func() {
		all := hooks(Hook{FromPod, ifindex}, Hook{FromUplink, ifindex}, Hook{ToOverlay, ifindex}, Hook{FromOverlay, ifindex})
		for h := range all {
			must(t, d.Links().Set(h, struct{}{}))
			must(t, d.Links().Set(h, struct{}{}))
		}
		if diff := cmp.Diff(dumpLinks(t, d), all); diff != "" {
			t.Errorf("links (-got +want):\n%s", diff)
		}
		if got := running(t, ifindex, ebpf.AttachTCXEgress); len(got) != 1 || got[0] != d.ids[ToOverlay] {
			t.Errorf("on egress runs %v, want %d", got, d.ids[ToOverlay])
		}
		if got := running(t, ifindex, ebpf.AttachTCXIngress); len(got) != 2 {
			t.Errorf("on ingress run %v, want two", got)
		}
		if got := filterOf(t, ifindex); !got.runs(FromPod) || got.program != d.ids[FromPod] || !got.direct {
			t.Errorf("filter %+v, want ours with program %d", got, d.ids[FromPod])
		}
		must(t, d.Close()) // a daemon's end changes nothing
		if got := running(t, ifindex, ebpf.AttachTCXIngress); len(got) != 2 {
			t.Errorf("after the daemon's end run %v, want two", got)
		}
		again := open(t, o)
		if diff := cmp.Diff(dumpLinks(t, again), all); diff != "" {
			t.Errorf("links after restart (-got +want):\n%s", diff)
		}
		for h := range all {
			must(t, again.Links().Delete(h))
			must(t, again.Links().Delete(h))
		}
		if got := running(t, ifindex, ebpf.AttachTCXIngress); len(got) != 0 {
			t.Errorf("after deletion run %v", got)
		}
		if got := sh(t, ns, "tc qdisc show dev weft0 clsact"); got != "" {
			t.Errorf("after deletion there is %s", got)
		}
		if err := again.Links().Set(Hook{FromPod, 12345}, struct{}{}); err == nil {
			t.Error("attaching to a device that is not there succeeded")
		}
		if err := again.Links().Set(Hook{"other", ifindex}, struct{}{}); err == nil {
			t.Error("attaching a program that is not there succeeded")
		}
	})
}

func TestDriftOfLinksIsSeen(t *testing.T) {
	t.Parallel()
	ns := newNS(t)
	dev := veth(t, ns, newNS(t), "weft0", "eth0")
	h := Hook{FromUplink, dev.Attrs().Index}
	d := open(t, Options{})
	must(t, d.Commit())
	foreign := passAll(t, string(FromUplink))
	in(t, ns, func() {
		for name, harm := range map[string]func(){
			"program replaced": func() {
				l, err := link.LoadPinnedLink(d.linkPin(h), nil)
				must(t, err)
				defer l.Close()
				must(t, l.Update(foreign))
			},
			"link detached": func() {
				l, err := link.LoadPinnedLink(d.linkPin(h), nil)
				must(t, err)
				defer l.Close()
				must(t, l.Detach())
			},
			"pin removed":        func() { must(t, os.Remove(d.linkPin(h))) },
			"pin folder removed": func() { must(t, os.RemoveAll(d.linkDir())) },
			"pin of another kind": func() {
				must(t, os.Remove(d.linkPin(h)))
				p, err := foreign.Clone()
				must(t, err)
				defer p.Close()
				must(t, p.Pin(d.linkPin(h)))
			},
		} {
			must(t, d.Links().Set(h, struct{}{}))
			harm()
			if got := dumpLinks(t, d); len(got) != 0 {
				t.Errorf("%s: links %v, want none", name, got)
			}
			must(t, d.Links().Set(h, struct{}{}))
			if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
				t.Errorf("%s: links after repair (-got +want):\n%s", name, diff)
			}
			if got := running(t, h.IfIndex, ebpf.AttachTCXIngress); len(got) != 1 || got[0] != d.ids[FromUplink] {
				t.Errorf("%s: runs %v, want only %d", name, got, d.ids[FromUplink])
			}
		}
		// The device goes: so does the pin.
		must(t, netlink.LinkDel(dev))
		if got := dumpLinks(t, d); len(got) != 0 {
			t.Errorf("device gone: links %v, want none", got)
		}
		if exists(d.linkPin(h)) {
			t.Error("device gone: the pin is still there")
		}
	})
}

func TestUpgradeMovesLinksAndBack(t *testing.T) {
	t.Parallel()
	ns := newNS(t)
	dev := veth(t, ns, newNS(t), "weft0", "eth0")
	h := Hook{FromUplink, dev.Attrs().Index}
	o := Options{Dir: bpffs(t)}
	in(t, ns, func() {
		var before []ebpf.ProgramID
		for i, size := range []uint32{16, 32, 16} {
			o.MaxPeers = size
			d := open(t, o)
			must(t, d.SelfTest())
			must(t, d.Links().Set(h, struct{}{}))
			if i > 0 {
				if diff := cmp.Diff(running(t, h.IfIndex, ebpf.AttachTCXIngress), before); diff != "" {
					t.Errorf("upgrade %d: programs changed before Commit (-got +want):\n%s", i, diff)
				}
				if diff := cmp.Diff(dumpLinks(t, d), hooks(h)); diff != "" {
					t.Errorf("upgrade %d: links before Commit (-got +want):\n%s", i, diff)
				}
			}
			must(t, d.Commit())
			must(t, d.Commit())
			before = running(t, h.IfIndex, ebpf.AttachTCXIngress)
			if len(before) != 1 || before[0] != d.ids[FromUplink] {
				t.Errorf("upgrade %d: runs %v, want only %d", i, before, d.ids[FromUplink])
			}
			if n, err := removeLayouts(o.Dir, d.Layout()); n != 0 || err != nil {
				t.Errorf("upgrade %d: %d layouts were left, error %v", i, n, err)
			}
			must(t, d.Close())
		}
		must(t, Remove(o.Dir))
		must(t, Remove(o.Dir))
		if got := running(t, h.IfIndex, ebpf.AttachTCXIngress); len(got) != 0 || exists(o.Dir) {
			t.Errorf("after Remove runs %v, folder there: %v", got, exists(o.Dir))
		}
	})
}
