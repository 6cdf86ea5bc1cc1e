// Package endpoint makes, checks, repairs and removes the pods' interfaces: the
// CNI verbs, and what keeps a pod connected between them.
//
// What one attachment is, is in its file (package ipam) before anything of it is in
// the kernel, and until nothing of it is. All verbs may be repeated, and killed at
// any point. Verbs of different attachments run in parallel; those of one attachment
// wait for each other.
package endpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/ipam"
	"github.com/weftnet/weft/overlay"
)

// Deps is what a [Manager] works with.
type Deps struct {
	IPAM   *ipam.Manager
	Routes *reconcile.Table[overlay.RouteKey, overlay.Route]
	Neighs *reconcile.Table[overlay.NeighKey, overlay.NeighMAC]
	Rows   *reconcile.Table[netip.Addr, bpf.Endpoint]
	Links  *reconcile.Table[bpf.Hook, struct{}]

	// RowTarget and LinkTarget are the targets of Rows and Links, which CHECK
	// reads (by [reconcile.Getter] if they are that). Nil: CHECK leaves them out.
	RowTarget  reconcile.Target[netip.Addr, bpf.Endpoint]
	LinkTarget reconcile.Target[bpf.Hook, struct{}]

	Net     func() Net                      // what the node currently offers
	Changed func(e api.Endpoint, gone bool) // told of each attachment; nil: nobody. Must not call back.
	// Ports is told what host ports an attachment has, none: no longer any, and returns
	// when that is so in the kernel; nil: nobody. It may be told the same again. Must not
	// call back.
	Ports func(Ports) error
	// Policies says what policies mean for each attachment; nil: nothing.
	Policies Policies
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: none
	StateDir string           // holds tombstones/ and answered/
}

// Net is what the node offers to pods.
type Net struct {
	Gateways []netip.Addr // one per family
	MTU      int          // of the pods, bytes
	Ready    error        // why ADD cannot be served; nil: it can
}

// Manager keeps the attachments of one node.
type Manager struct {
	Deps
	locks owners
	// conf4 and conf6 are where the host's ends have their sysctls.
	conf4, conf6 conf
	ipv6         bool   // the kernel has it
	boot         string // id of this boot

	called atomic.Int64 // when an Add or Del last began or ended (Unix time, ns)
	unrest unrest

	// rowsMu is held while an attachment's rows are put in the table Rows, from the
	// question what policies say of it on. It is taken before mu.
	rowsMu sync.Mutex

	mu   sync.Mutex
	live map[ipam.Owner]*attachment
	// Whom events of a namespace (its id seen from here) or of a device concern.
	byNetns, byIndex map[int][]ipam.Owner
	orphan           map[string]time.Time // devices without a lease, since when
	turn             int                  // where the round of thorough looks is
	detail           int                  // how many the next Sweep makes
}

// record is what a lease file says of an attachment beside its addresses.
type record struct {
	Netns  string `json:"netns"`
	Boot   string `json:"boot"`   // boot id: Cookie means nothing in another boot
	Cookie uint64 `json:"cookie"` // of the network namespace
	MAC    string `json:"mac"`
	// Gateways are the node's when the pod was last set up: a restarted daemon knows
	// the pods' rows before it has read its Node.
	Gateways []netip.Addr `json:"gateways"`

	PodNamespace string            `json:"podNamespace,omitempty"`
	PodName      string            `json:"podName,omitempty"`
	PodUID       string            `json:"podUID,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	PortMappings []api.PortMapping `json:"portMappings,omitempty"`
	Bandwidth    *api.Bandwidth    `json:"bandwidth,omitempty"`
}

// attachment is one pod interface as we know it now. Its owner's lock guards it
// but for reads of List, which m.mu guards with all writes.
type attachment struct {
	lease    ipam.Lease
	rec      record
	host     link         // the host's end; index 0 while there is none
	ifb      int          // index of the device that limits what the pod sends; 0: none is known
	stack    bool         // a queueing discipline must see its packets
	mtu      int          // what was last set
	offered  []netip.Addr // the node's gateways by which its rows were made
	answered bool         // the runtime has been told that it exists
	dead     time.Time    // when it was first seen without namespace and device
	state    string       // "ok", or what is wrong

	// Guarded by Manager.rowsMu.
	rows      bool      // they are in the table, or were; not any more once they are being removed
	isolation Isolation // what they say
}

// New returns a manager that knows of no attachment before [Manager.Restore].
func New(d Deps) *Manager {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Changed == nil {
		d.Changed = func(api.Endpoint, bool) {}
	}
	if d.Policies == nil {
		d.Policies = open{}
	}
	if d.Ports == nil {
		d.Ports = func(Ports) error { return nil }
	}
	boot, err := bootID()
	if err != nil {
		d.Log.Warn("boot id unknown, pods of a former boot are found by their devices only", "err", err)
	}
	_, err = os.Stat("/proc/sys/net/ipv6")
	return &Manager{
		Deps: d, ipv6: err == nil, boot: boot, conf4: conf{name: conf4}, conf6: conf{name: conf6},
		live: map[ipam.Owner]*attachment{}, byNetns: map[int][]ipam.Owner{}, byIndex: map[int][]ipam.Owner{}, orphan: map[string]time.Time{},
	}
}

// busy notes that a call begins; the function returned, that it ends.
func (m *Manager) busy() (end func()) {
	note := func() { m.called.Store(time.Now().UnixNano()) }
	note()
	return note
}

// get returns the attachment, or nil.
func (m *Manager) get(o ipam.Owner) *attachment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live[o]
}

// update changes an attachment under m.mu.
func (m *Manager) update(a *attachment, f func(*attachment)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(a)
}

// put makes an attachment known, in the place of a former one of the same owner.
func (m *Manager) put(a *attachment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unindex(a.lease.Owner)
	m.live[a.lease.Owner] = a
	m.index(a)
}

func (m *Manager) forget(o ipam.Owner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unindex(o)
	delete(m.live, o)
}

// setHost notes the attachment's devices on the host.
func (m *Manager) setHost(a *attachment, l link, ifb, mtu int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unindex(a.lease.Owner)
	a.host, a.ifb, a.mtu = l, ifb, mtu
	m.index(a)
}

func (m *Manager) index(a *attachment) {
	if a.host.index == 0 {
		return
	}
	m.byIndex[a.host.index] = append(m.byIndex[a.host.index], a.lease.Owner)
	if a.ifb != 0 {
		m.byIndex[a.ifb] = append(m.byIndex[a.ifb], a.lease.Owner)
	}
	if a.host.netnsID >= 0 {
		m.byNetns[a.host.netnsID] = append(m.byNetns[a.host.netnsID], a.lease.Owner)
	}
}

// unindex takes an owner's known device out of the indexes.
func (m *Manager) unindex(o ipam.Owner) {
	a := m.live[o]
	if a == nil || a.host.index == 0 {
		return
	}
	drop := func(from map[int][]ipam.Owner, key int) {
		from[key] = slices.DeleteFunc(slices.Clone(from[key]), func(x ipam.Owner) bool { return x == o })
		if len(from[key]) == 0 {
			delete(from, key)
		}
	}
	drop(m.byIndex, a.host.index)
	drop(m.byIndex, a.ifb)
	drop(m.byNetns, a.host.netnsID)
}

// all returns the known attachments' owners in a stable order.
func (m *Manager) all() []ipam.Owner {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]ipam.Owner, 0, len(m.live))
	for o := range m.live {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b ipam.Owner) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
	return list
}

// List returns the attachments of this node, by container and interface.
func (m *Manager) List() []api.Endpoint {
	list := make([]api.Endpoint, 0, 16)
	for _, o := range m.all() {
		if a := m.get(o); a != nil {
			m.mu.Lock()
			list = append(list, a.endpoint())
			m.mu.Unlock()
		}
	}
	return list
}

// endpoint is the attachment as the API shows it.
func (a *attachment) endpoint() api.Endpoint {
	return api.Endpoint{
		Ref:          refOf(a.lease.Owner),
		PodNamespace: a.rec.PodNamespace, PodName: a.rec.PodName, PodUID: a.rec.PodUID,
		IPs: slices.Clone(a.lease.Addrs), MAC: a.rec.MAC, HostIf: hostName(a.lease.Owner),
		Netns: a.rec.Netns, MTU: a.mtu, Since: a.lease.At, Bandwidth: a.rec.Bandwidth, State: a.state,
	}
}

// Labels returns the labels that the runtime named for an attachment, for the
// source's status files.
func (m *Manager) Labels(r api.Ref) map[string]string {
	if a := m.get(ipam.Owner{ContainerID: r.ContainerID, IfName: r.IfName}); a != nil {
		return a.rec.Labels
	}
	return nil
}

// marshal cannot fail: the record has no types that JSON does not know.
func (r record) marshal() json.RawMessage {
	b, _ := json.Marshal(r)
	return b
}

func parseRecord(b json.RawMessage) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("read attachment: %w", err)
	}
	return r, nil
}

// answeredPath is a file whose name says that ADD has been answered. It is not
// synced: after a crash of the machine no attachment lives.
func (m *Manager) answeredPath(o ipam.Owner) string {
	return filepath.Join(m.StateDir, "answered", fmt.Sprintf("%x", digest(o)))
}

// owners is one lock per attachment.
type owners struct {
	mu sync.Mutex
	m  map[ipam.Owner]*ownerLock
}

type ownerLock struct {
	token chan struct{} // holds one element while unlocked
	users int
}

// lock waits for the attachment's lock, at most as long as ctx lives. Nobody gets it whose ctx
// has ended: what a runtime that has gone away wanted may be outdated, as a DEL for which its
// plugin has left a tombstone is after the next ADD.
func (l *owners) lock(ctx context.Context, o ipam.Owner) (unlock func(), err error) {
	l.mu.Lock()
	if l.m == nil {
		l.m = map[ipam.Owner]*ownerLock{}
	}
	e := l.m[o]
	if e == nil {
		e = &ownerLock{token: make(chan struct{}, 1)}
		e.token <- struct{}{}
		l.m[o] = e
	}
	e.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(l.m, o)
		}
	}
	select {
	case <-e.token:
		if err = ctx.Err(); err == nil {
			return func() { e.token <- struct{}{}; leave() }, nil
		}
		e.token <- struct{}{}
		err = fmt.Errorf("who calls for %s/%s has gone: %w", o.ContainerID, o.IfName, err)
	case <-ctx.Done():
		err = fmt.Errorf("wait for another call of %s/%s: %w", o.ContainerID, o.IfName, context.Cause(ctx))
	}
	leave()
	return nil, err
}

// busy says whether somebody holds, or waits for, the attachment's lock.
func (l *owners) busy(o ipam.Owner) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m[o] != nil
}

// stateAdding is the state of an attachment whose Add is under way.
const stateAdding = "adding"

// adding says whether an Add of this owner is under way.
func (m *Manager) adding(o ipam.Owner) bool {
	if !m.locks.busy(o) {
		return false
	}
	a := m.get(o)
	if a == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.state == stateAdding
}
