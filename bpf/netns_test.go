package bpf

import (
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// newNS makes a network namespace without a name; it goes with its last handle.
func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	must(t, err)
	defer old.Close()
	ns, err := netns.New() // and enters it
	must(t, err)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	must(t, netns.Set(old))
	t.Cleanup(func() { ns.Close() })
	return ns
}

// in runs f in a namespace; f starts no goroutine that must be there too.
func in(t testing.TB, ns netns.NsHandle, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	must(t, err)
	defer old.Close()
	must(t, netns.Set(ns))
	defer func() {
		if err := netns.Set(old); err != nil {
			panic(err) // the thread must not go on in the wrong namespace
		}
	}()
	f()
}

// veth makes a pair, one end here and one in another namespace, both up, and returns
// the device here.
func veth(t testing.TB, here, there netns.NsHandle, name, peer string) netlink.Link {
	t.Helper()
	var l netlink.Link
	in(t, here, func() {
		at := netlink.NewLinkAttrs()
		at.Name = name
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: at, PeerName: peer, PeerNamespace: netlink.NsFd(there)}))
		l = up(t, name)
	})
	in(t, there, func() { up(t, peer) })
	return l
}

// up sets a device up and returns it as it is now.
func up(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	l, err = netlink.LinkByName(name)
	must(t, err)
	return l
}
