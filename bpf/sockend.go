package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/crash"
)

// socketGroup is what one dump of the kernel can find: sockets of one network namespace,
// family (AF_INET, AF_INET6) and protocol.
type socketGroup struct {
	netns  uint64 // cookie
	family uint8
	proto  Protocol
}

// deadSockets are the cookies of sockets, with their backends.
type deadSockets map[uint64]netip.AddrPort

// EndSockets ends the sockets that were translated to a backend of which dead says that
// it is gone: TCP connections, and connected UDP sockets of the host. Their processes
// see ECONNABORTED; the peer, if it is still there, a reset. Sockets that were connected
// to the same address without a Service are left alone. netns are the paths of the
// network namespaces to look in, the host's and those of its pods; one that is gone is
// no error. It returns how many sockets it ended.
//
// It reads the map `sockets`, and if anything in there is dead it asks the kernel
// (sock_diag(7), filtered by the backends' places) in the namespaces of these sockets
// only, then ends each socket by its ports and cookie.
//
// A socket that connects at this moment may be missed: it is tried again at the next
// call. Any number of calls may run at once.
func (d *Datapath) EndSockets(dead func(backend Place, generation uint32) bool, netns ...string) (int, error) {
	groups, err := d.deadSockets(dead)
	if err != nil || len(groups) == 0 {
		return 0, err
	}
	var ended int
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, wherever it is
		ended, err = d.endSockets(groups, netns)
	}()
	<-done
	return ended, err
}

// deadSockets reads which sockets are connected to dead backends.
func (d *Datapath) deadSockets(dead func(Place, uint32) bool) (map[socketGroup]deadSockets, error) {
	type place struct {
		Place
		generation uint32
	}
	known := map[place]bool{}
	groups := map[socketGroup]deadSockets{}
	err := scan(d, weftMapSockets, func(cookie *uint64, v *weftConnected) {
		p := place{Place{addrFrom(v.Backend), v.BackendPort, Protocol(v.Proto)}, v.Generation}
		is, seen := known[p]
		if !seen {
			is = dead(p.Place, p.generation)
			known[p] = is
		}
		if !is {
			return
		}
		g := socketGroup{v.Netns, v.Family, p.Protocol}
		if groups[g] == nil {
			groups[g] = deadSockets{}
		}
		groups[g][*cookie] = netip.AddrPortFrom(p.Addr, p.Port)
	})
	return groups, err
}

// endSockets does it in one namespace after the other, and leaves the thread there.
func (d *Datapath) endSockets(groups map[socketGroup]deadSockets, netns []string) (int, error) {
	ended := 0
	var errs []error
	wanted := map[uint64]bool{}
	for g := range groups {
		wanted[g.netns] = true
	}
	for _, path := range netns {
		cookie, err := enterNetns(path)
		if err != nil || !wanted[cookie] {
			errs = append(errs, err)
			continue
		}
		for g, sockets := range groups {
			if g.netns != cookie || g.proto != TCP && g.proto != UDP {
				continue
			}
			n, err := d.endGroup(g, sockets)
			if err != nil {
				err = fmt.Errorf("end %s sockets in %s: %w", g.proto, path, err)
			}
			ended += n
			errs = append(errs, err)
		}
	}
	return ended, errors.Join(errs...)
}

func (d *Datapath) endGroup(g socketGroup, sockets deadSockets) (int, error) {
	diag, err := openDiag()
	if err != nil {
		return 0, err
	}
	defer diag.Close()
	found, err := diag.find(g, sockets)
	if err != nil {
		return 0, fmt.Errorf("list sockets: %w", err)
	}
	ended := 0
	var errs []error
	for _, s := range found {
		err := diag.destroy(g, s)
		crash.Point("bpf end socket")
		switch {
		case err == nil || errors.Is(err, unix.ENOENT): // or it ended by itself
			if err == nil {
				ended++
			}
			// Its process may keep it for long; nothing is to be done for it any more.
			errs = append(errs, remove(d, weftMapSockets, s.cookie()))
		case errors.Is(err, unix.EOPNOTSUPP):
			return ended, fmt.Errorf("end socket: %w: the kernel needs CONFIG_INET_DIAG_DESTROY", err)
		default:
			errs = append(errs, fmt.Errorf("end socket: %w", err))
		}
	}
	return ended, errors.Join(errs...)
}

// enterNetns moves the thread and returns the namespace's cookie; 0 if it is gone.
func enterNetns(path string) (uint64, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); errors.Is(err, unix.EINVAL) {
		return 0, nil // the mount is gone, its file still there
	} else if err != nil {
		return 0, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return netnsCookie()
}

// diagID is struct inet_diag_sockid; ports and addresses in network order.
type diagID struct {
	SPort, DPort [2]byte
	Src, Dst     [16]byte
	If           uint32
	Cookie       [2]uint32
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	Family, Proto, Ext, Pad uint8
	States                  uint32
	ID                      diagID
}

// diagMessage is struct inet_diag_msg up to its last field that is used.
type diagMessage struct {
	Family, State, Timer, Retrans uint8
	ID                            diagID
}

func (id diagID) cookie() uint64 { return uint64(id.Cookie[1])<<32 | uint64(id.Cookie[0]) }

// peer is the remote end of a socket.
func (id diagID) peer(family uint8) netip.AddrPort {
	a := netip.AddrFrom16(id.Dst).Unmap()
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(id.Dst[:4]))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(id.DPort[:]))
}
