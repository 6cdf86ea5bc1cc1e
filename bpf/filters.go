package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/crash"
)

// from_pod and to_pod hang on their device each as a filter of clsact (tc-bpf(8), direct action), the
// other programs by a TCX link each. A device's first TCX link has the kernel wait for
// an RCU grace period, some 13 ms, with the lock of all rtnetlink held
// (kernel/bpf/tcx.c, tcx_entry_sync); every ADD would wait for that, and every DEL.
// docs/adr/004-clsact-for-pods.md has the numbers.

// filterParents are the programs that run in filters, and on which side of a device.
var filterParents = map[Program]uint32{
	FromPod: netlink.HANDLE_MIN_INGRESS,
	ToPod:   netlink.HANDLE_MIN_EGRESS,
}

// FilterPrefix and a program's name are the name of the filter that runs it, by which
// it is ours.
const FilterPrefix = "weft:"

func (h Hook) inFilter() bool { return filterParents[h.Program] != 0 }

// PodFilterPriority is our place among the filters of a pod's device: what others hang
// there behind it sees what from_pod leaves to the stack, as behind a TCX link.
const PodFilterPriority = 1

// RedirectPriority is the place of the filter that redirects what a pod with limits sends: behind
// from_pod, which must see it first. Former daemons, whose from_pod was in a TCX link, had it at 1.
const RedirectPriority = PodFilterPriority + 1

// podFilterHandle is "Weft": others of the same priority, which are few, count from 1.
const podFilterHandle = 0x57656674

// filter is what is at our place on a device.
type filter struct {
	name    string
	program ebpf.ProgramID
	direct  bool // its verdict is the program's
}

func (f filter) runs(p Program) bool { return f.name == FilterPrefix+string(p) }

// place is where our filter is on a device.
func (h Hook) place() nl.TcMsg {
	return nl.TcMsg{
		Family: nl.FAMILY_ALL, Ifindex: int32(h.IfIndex), Handle: podFilterHandle, Parent: filterParents[h.Program],
		Info: netlink.MakeHandle(PodFilterPriority, nl.Swap16(unix.ETH_P_ALL)),
	}
}

func kind(name string) *nl.RtAttr { return nl.NewRtAttr(unix.TCA_KIND, nl.ZeroTerminated(name)) }

// filters reads what is at the place of each of the hooks. One that has nothing there,
// or whose device is gone, is left out.
func (c *tc) filters(hooks ...Hook) (map[Hook]filter, error) {
	reqs := make([]*nl.NetlinkRequest, len(hooks))
	for i, h := range hooks {
		reqs[i] = request(unix.RTM_GETTFILTER, 0, h.place(), kind("bpf"))
	}
	answers, err := c.exec(reqs...)
	if err != nil {
		return nil, err
	}
	found := map[Hook]filter{}
	for i, a := range answers {
		switch {
		case errors.Is(a.err, unix.ENODEV), errors.Is(a.err, unix.ENOENT), errors.Is(a.err, unix.EINVAL):
			// No device; no such filter; no qdisc, or one of another kind is there.
		case a.err != nil:
			return nil, fmt.Errorf("read filter of device %d: %w", hooks[i].IfIndex, a.err)
		case len(a.parts) == 1 && len(a.parts[0]) >= nl.SizeofTcMsg:
			found[hooks[i]] = parseFilter(a.parts[0])
		}
	}
	return found, nil
}

func parseFilter(b []byte) filter {
	o := attributes(attributes(b[nl.SizeofTcMsg:])[unix.TCA_OPTIONS])
	f := filter{name: unix.ByteSliceToString(o[nl.TCA_BPF_NAME])}
	if id := o[nl.TCA_BPF_ID]; len(id) == 4 {
		f.program = ebpf.ProgramID(native.Uint32(id))
	}
	if flags := o[nl.TCA_BPF_FLAGS]; len(flags) == 4 {
		f.direct = native.Uint32(flags)&nl.TCA_BPF_FLAG_ACT_DIRECT != 0
	}
	return f
}

// allFilters reads our filters, and no others, on all devices.
func (c *tc) allFilters() (map[Hook]filter, error) {
	devices, err := c.hooked()
	if err != nil {
		return nil, err
	}
	hooks := make([]Hook, 0, len(filterParents)*len(devices))
	for _, index := range devices {
		for p := range filterParents {
			hooks = append(hooks, Hook{Program: p, IfIndex: index})
		}
	}
	found, err := c.filters(hooks...)
	if err != nil {
		return nil, err
	}
	for h, f := range found {
		if !f.runs(h.Program) {
			delete(found, h)
		}
	}
	return found, nil
}

// addFilter makes clsact, if it is not there, and our filter. EEXIST: something is in
// our place.
func (c *tc) addFilter(h Hook, prog *ebpf.Program) error {
	noClsact, err := c.addClsact(h.IfIndex)
	if err != nil {
		return err
	}
	// In `ingress` a filter of the way to the pod would be one of the way from it.
	if noClsact != nil && filterParents[h.Program] != netlink.HANDLE_MIN_INGRESS {
		return fmt.Errorf("add clsact: %w", noClsact)
	}
	answers, err := c.exec(newFilter(h, prog, unix.NLM_F_EXCL))
	crash.Point("bpf add filter")
	if err != nil {
		return err
	}
	switch err := answers[0].err; {
	case err == nil || errors.Is(err, unix.EEXIST):
		return err
	case noClsact != nil:
		return fmt.Errorf("add clsact: %w", noClsact)
	default:
		return fmt.Errorf("add filter: %w", err)
	}
}

// errIngress: see addClsact.
var errIngress = errors.New("the qdisc `ingress`, with filters of others, is in its place: move them to clsact")

// addClsact makes clsact; refused says why there can be none. The qdisc `ingress`, which the
// kernel has in the same place, is replaced unless there are others' filters in it.
func (c *tc) addClsact(ifindex int) (refused, err error) {
	add := request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, clsact(ifindex), kind("clsact"))
	answers, err := c.exec(add)
	if err != nil || !errors.Is(answers[0].err, unix.EINVAL) { // what the kernel says if it is of another kind
		return refusal(answers), err
	}
	filters, err := c.dump(unix.RTM_GETTFILTER, nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(ifindex), Parent: netlink.HANDLE_MIN_INGRESS})
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	if slices.ContainsFunc(filters, foreignFilter) {
		return errIngress, nil
	}
	answers, err = c.exec(request(unix.RTM_DELQDISC, 0, clsact(ifindex), kind("ingress")), add)
	crash.Point("bpf replace ingress")
	return refusal(answers), err
}

// refusal is what the kernel said to the last of some requests.
func refusal(answers []answer) error {
	if len(answers) == 0 {
		return nil
	}
	return answers[len(answers)-1].err
}

// foreignFilter says whether a part of an answer is a filter that is neither one of ours nor the
// redirection of a pod with limits. For each priority there is, besides, a part without handle.
func foreignFilter(b []byte) bool {
	if len(b) < nl.SizeofTcMsg {
		return false
	}
	m := nl.DeserializeTcMsg(b)
	redirect := m.Info>>16 == RedirectPriority && unix.ByteSliceToString(attributes(b[nl.SizeofTcMsg:])[unix.TCA_KIND]) == "u32"
	return m.Handle != 0 && !redirect && !strings.HasPrefix(parseFilter(b).name, FilterPrefix)
}

// setFilter makes the device run the program in our filter, which is made or, in one
// step for every packet, replaced.
func (c *tc) setFilter(h Hook, prog *ebpf.Program) error {
	err := c.addFilter(h, prog)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	have, err := c.filters(h)
	if err != nil {
		return err
	}
	if f, there := have[h]; there && !f.runs(h.Program) {
		return fmt.Errorf("filter %q of somebody else is in the place of ours: %w", f.name, unix.EEXIST)
	}
	answers, err := c.exec(newFilter(h, prog, 0))
	crash.Point("bpf replace filter")
	if err == nil {
		err = answers[0].err
	}
	if err != nil {
		return fmt.Errorf("replace filter: %w", err)
	}
	return nil
}

func newFilter(h Hook, prog *ebpf.Program, flags int) *nl.NetlinkRequest {
	options := nl.NewRtAttr(unix.TCA_OPTIONS|unix.NLA_F_NESTED, nil)
	options.AddRtAttr(nl.TCA_BPF_FD, nl.Uint32Attr(uint32(prog.FD())))
	options.AddRtAttr(nl.TCA_BPF_NAME, nl.ZeroTerminated(FilterPrefix+string(h.Program)))
	options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
	return request(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|flags, h.place(), kind("bpf"), options)
}

func clsact(ifindex int) nl.TcMsg {
	return nl.TcMsg{
		Family: nl.FAMILY_ALL, Ifindex: int32(ifindex),
		Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}
}

// deleteFilter removes our filter from a device, and clsact if nothing else is on it.
// Nothing there, or no device, is no error.
func (c *tc) deleteFilter(h Hook) error {
	have, err := c.filters(h)
	if err != nil || !have[h].runs(h.Program) {
		return err
	}
	answers, err := c.exec(request(unix.RTM_DELTFILTER, 0, h.place(), kind("bpf")))
	crash.Point("bpf delete filter")
	if err != nil {
		return err
	}
	if err := answers[0].err; err != nil && !gone(err) {
		return fmt.Errorf("delete filter: %w", err)
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		others, err := c.dump(unix.RTM_GETTFILTER, nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(h.IfIndex), Parent: parent})
		if gone(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("list filters: %w", err)
		}
		if len(others) > 0 {
			return nil
		}
	}
	answers, err = c.exec(request(unix.RTM_DELQDISC, 0, clsact(h.IfIndex), kind("clsact")))
	crash.Point("bpf delete clsact")
	if err == nil && !gone(answers[0].err) {
		err = answers[0].err
	}
	if err != nil {
		return fmt.Errorf("delete clsact: %w", err)
	}
	return nil
}

// gone says whether an error is of a device, qdisc or filter that is not there. EINVAL
// is, too, what the kernel says to the deletion of a qdisc of another kind.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}
