package endpoint

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
)

// Bandwidth limits are token buckets (tc-tbf(8)): what the pod receives is limited
// on the egress of the host's end of its veth; what it sends is redirected, as it
// comes in there, to an IFB, limited on that device's egress, and then goes on its
// way as if it had just come in. Both only see what goes through the stack, which
// is why the endpoint's row carries the flag EndpointStack.

// bucket is the shape of one token bucket.
type bucket struct {
	rate  uint64 // bytes per second
	burst uint64 // bytes
}

// queueTime is how long a packet may wait in a bucket's queue.
const queueTime = 50 // milliseconds

// newBucket turns bits into bytes. A burst of 0, or of 2³²-1 and more (what
// containerd sends for a pod that names none), is unspecified: then it is 10 ms of
// the rate, and at least 32 KiB.
func newBucket(rate, burst uint64) bucket {
	b := bucket{rate: max(rate/8, 1), burst: burst / 8}
	if burst == 0 || burst >= math.MaxUint32 {
		b.burst = max(b.rate/100, 32<<10)
	}
	return b
}

// holding is the bucket with room for the largest packet at least: what does not fit into
// the burst the kernel drops, whatever the rate.
func (b bucket) holding(mtu int) bucket {
	const header = 18 // Ethernet's, with a VLAN tag
	b.burst = max(b.burst, uint64(mtu+header))
	return b
}

// qdisc is the bucket as the root of a device's egress. GSO packets bigger than the
// burst are split by the kernel.
func (b bucket) qdisc(index int) *netlink.Tbf {
	// The kernel wants the burst as a time in ticks of 32 bits; one that is too short drops all.
	ticks := math.Ceil(float64(b.burst) * netlink.TIME_UNITS_PER_SEC / float64(b.rate) * netlink.TickInUsec())
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       b.rate,
		Buffer:     uint32(min(ticks, math.MaxUint32)),
		Limit:      uint32(min(b.rate*queueTime/1000+b.burst+(64<<10), math.MaxUint32)),
	}
}

func limitsIn(b *api.Bandwidth) bool  { return b != nil && b.IngressRate > 0 }
func limitsOut(b *api.Bandwidth) bool { return b != nil && b.EgressRate > 0 }

// bucketIn and bucketOut are the buckets of what a pod receives, and of what it sends.
func bucketIn(w wiring) bucket {
	return newBucket(w.bandwidth.IngressRate, w.bandwidth.IngressBurst).holding(w.mtu)
}

func bucketOut(w wiring) bucket {
	return newBucket(w.bandwidth.EgressRate, w.bandwidth.EgressBurst).holding(w.mtu)
}

// setLimits makes the buckets of one attachment on the host's end (index) and takes
// away those that it should not have. All of it may be repeated. It answers the index of the
// IFB; 0 if there is to be none.
func setLimits(host *conn, w wiring, index int, ipv6 bool) (ifb int, err error) {
	if !limitsIn(w.bandwidth) && !limitsOut(w.bandwidth) {
		return 0, nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	if limitsIn(w.bandwidth) {
		err := setBucket(h, bucketIn(w).qdisc(index))
		crash.Point("endpoint: limit what the pod receives")
		if err != nil {
			return 0, fmt.Errorf("limit what %s receives: %w", w.owner.ContainerID, err)
		}
	}
	if !limitsOut(w.bandwidth) {
		return 0, nil
	}
	if ifb, err = makeIFB(host, w, ipv6); err != nil {
		return 0, err
	}
	err = setBucket(h, bucketOut(w).qdisc(ifb))
	crash.Point("endpoint: limit what the pod sends")
	if err != nil {
		return 0, fmt.Errorf("limit what %s sends: %w", w.owner.ContainerID, err)
	}
	return ifb, redirect(h, index, ifb)
}

// setBucket makes the bucket, or changes what is there to it. A root of another kind with the same
// handle the kernel neither changes nor replaces (EINVAL): it is removed first.
func setBucket(h *netlink.Handle, q *netlink.Tbf) error {
	err := h.QdiscReplace(q)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if e := h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: q.QdiscAttrs}); e != nil {
		return errors.Join(err, e)
	}
	return h.QdiscReplace(q)
}

// makeIFB makes the device, or finds it, and answers its index.
func makeIFB(host *conn, w wiring, ipv6 bool) (int, error) {
	name := ifbName(w.owner)
	create := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifInfo(0, 0, 0)).str(unix.IFLA_IFNAME, name)
	create.nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, func() { create.str(unix.IFLA_INFO_KIND, "ifb") })
	quiet := newMessage(unix.RTM_SETLINK, 0, ifInfo(0, 0, 0)).
		str(unix.IFLA_IFNAME, name).attr(unix.IFLA_IFALIAS, []byte(alias(w.owner)))
	if ipv6 {
		quiet.nest(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, func() {
			quiet.nest(unix.AF_INET6|unix.NLA_F_NESTED, func() { quiet.u8(genModeAttr, genModeNone) })
		})
	}
	up := newMessage(unix.RTM_SETLINK, 0, ifInfo(0, unix.IFF_UP, unix.IFF_UP)).str(unix.IFLA_IFNAME, name)
	replies, err := host.exec(create, quiet, up, getLinkMessage(name))
	crash.Point("endpoint: make ifb")
	if err != nil {
		return 0, err
	}
	if errors.Is(replies[0].err, unix.EEXIST) {
		replies[0].err = nil
	}
	for _, r := range replies {
		if r.err != nil {
			return 0, fmt.Errorf("make ifb %s: %w", name, r.err)
		}
	}
	l, _, err := linkOf(replies[3])
	return l.index, err
}

// redirect sends what comes in on the device index, and what from_pod leaves to the
// stack, to the device ifb. clsact is shared with from_pod, which is set after it. The
// u32 classifier matches everything; matchall would say it better, but is not in every
// kernel.
func redirect(h *netlink.Handle, index, ifb int) error {
	err := h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	crash.Point("endpoint: add clsact")
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	filters, err := ourFilters(h, index)
	if err != nil {
		return err
	}
	for to, f := range filters {
		if to == ifb {
			return nil
		}
		// Its device is gone; it would drop everything.
		if err := h.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete redirection to a former ifb: %w", err)
		}
	}
	err = h.FilterReplace(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: bpf.RedirectPriority, Protocol: unix.ETH_P_ALL,
		},
		ClassId: netlink.MakeHandle(1, 1),
		Actions: []netlink.Action{netlink.NewMirredAction(ifb)},
	})
	crash.Point("endpoint: add redirection")
	if err != nil {
		return fmt.Errorf("redirect to ifb: %w", err)
	}
	return nil
}

// ourFilters lists the filters that redirect what comes in on a device, by where to
// (0: to a device that is gone).
func ourFilters(h *netlink.Handle, index int) (map[int]netlink.Filter, error) {
	all, err := h.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	ours := map[int]netlink.Filter{}
	for _, f := range all {
		u, ok := f.(*netlink.U32)
		if !ok || u.Priority > bpf.RedirectPriority {
			continue
		}
		for _, a := range u.Actions {
			if m, ok := a.(*netlink.MirredAction); ok {
				ours[m.Ifindex] = f
			}
		}
	}
	return ours, nil
}

// tcMessage is struct tcmsg.
func tcMessage(index int, parent uint32) []byte {
	b := make([]byte, 20)
	native.PutUint32(b[4:], uint32(index))
	native.PutUint32(b[12:], parent)
	return b
}

// held is a token bucket as the kernel tells it.
type held struct {
	rate          uint64 // bytes per second
	limit, buffer uint32 // as in [netlink.Tbf]
	peak          bool   // it has a peak rate, too
}

// is says whether it is the wanted one. What a kernel may make of its times is allowed for.
func (h held) is(want *netlink.Tbf) bool {
	return h.rate == want.Rate && h.limit == want.Limit && !h.peak && h.buffer >= want.Buffer/2 && h.buffer/2 <= want.Buffer
}

// buckets lists the token buckets at the roots of all devices, by device. It is a dump, for the
// few pods with limits: asking for a single qdisc would make the kernel tell all listeners of
// it, Watch too.
func (c *conn) buckets() (map[int]held, error) {
	parts, err := c.dump(unix.RTM_GETQDISC, tcMessage(0, 0), nil)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	all := map[int]held{}
	for _, p := range parts {
		if len(p.data) < 20 || u32(p.data[12:]) != netlink.HANDLE_ROOT {
			continue
		}
		a := attrs(p.data[20:])
		if cString(a[unix.TCA_KIND]) != "tbf" {
			continue
		}
		opts := attrs(a[unix.TCA_OPTIONS])
		var b held
		// struct tc_tbf_qopt: two of tc_ratespec, limit, buffer.
		if parms := opts[nl.TCA_TBF_PARMS]; len(parms) >= 32 {
			b = held{rate: uint64(u32(parms[8:])), peak: u32(parms[20:]) != 0, limit: u32(parms[24:]), buffer: u32(parms[28:])}
		}
		if wide := opts[nl.TCA_TBF_RATE64]; len(wide) >= 8 {
			b.rate = native.Uint64(wide)
		}
		all[int(u32(p.data[4:]))] = b
	}
	return all, nil
}

// filtered says whether tc filters hang on a device, in either direction. Those
// that run our programs do not count, nor do TCX programs.
func (c *conn) filtered(index int) (bool, error) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		parts, err := c.dump(unix.RTM_GETTFILTER, tcMessage(index, parent), nil)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			continue // no such qdisc
		}
		if err != nil {
			return false, fmt.Errorf("list filters: %w", err)
		}
		if slices.ContainsFunc(parts, foreignFilter) {
			return true, nil
		}
	}
	return false, nil
}

// foreignFilter says whether a part of an answer is a filter other than ours. For
// each priority there is, besides, a part without handle.
func foreignFilter(p part) bool {
	if len(p.data) < 20 || u32(p.data[8:]) == 0 {
		return false
	}
	a := attrs(p.data[20:])
	return cString(a[unix.TCA_KIND]) != "bpf" || !strings.HasPrefix(cString(attrs(a[unix.TCA_OPTIONS])[nl.TCA_BPF_NAME]), bpf.FilterPrefix)
}

// mustSee says whether a queueing discipline or a filter on the device must see the
// packets, so that BPF must not send them past it.
func (c *conn) mustSee(l link) (bool, error) {
	if stackOnly(l.qdisc) {
		return true, nil
	}
	return c.filtered(l.index)
}

// stackOnly says whether a queueing discipline of this kind does anything.
func stackOnly(kind string) bool { return kind != "" && kind != "noqueue" && kind != "noop" }

// inspectLimits looks at what limits a pod that is to be limited.
func inspectLimits(host *conn, w wiring, outer link, found *look) error {
	have, err := host.buckets()
	if err != nil {
		return err
	}
	if limitsIn(w.bandwidth) && !have[outer.index].is(bucketIn(w).qdisc(0)) {
		found.addf("bandwidth limit of what the pod receives is missing on %s", outer.name)
	}
	if limitsOut(w.bandwidth) {
		return inspectIFB(host, w, outer, have, found)
	}
	return nil
}

// inspectIFB looks at the device, its bucket and the redirection to it.
func inspectIFB(host *conn, w wiring, outer link, have map[int]held, found *look) error {
	name := ifbName(w.owner)
	ifb, there, err := host.linkByName(name)
	if err != nil {
		return fmt.Errorf("look for %s: %w", name, err)
	}
	found.ifb = ifb.index
	if !there || !ifb.up() || ifb.alias != alias(w.owner) {
		found.addf("device %s, which limits what the pod sends, is missing or changed", name)
		return nil
	}
	if !have[ifb.index].is(bucketOut(w).qdisc(0)) {
		found.addf("bandwidth limit of what the pod sends is missing on %s", name)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	filters, err := ourFilters(h, outer.index)
	if err != nil {
		return err
	}
	if filters[ifb.index] == nil {
		found.addf("redirection of %s to %s is missing", outer.name, name)
	}
	return nil
}
