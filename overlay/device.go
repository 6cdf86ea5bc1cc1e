package overlay

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/weftnet/weft/internal/crash"
	"golang.org/x/sys/unix"
)

// DeviceSpec is what the VXLAN device must be. Everything else about it is
// fixed: external (collect metadata), NOARP, up, no learning, no addresses made
// by the kernel, zero UDP checksums also over IPv6 (RFC 6935), our alias.
type DeviceSpec struct {
	MAC  [6]byte // NodeMAC of the node's outer address
	MTU  int
	Port uint16 // UDP
	// Odd is true in a dump if anything fixed is not as it must be.
	Odd bool
}

// Device is the target of the VXLAN device: at most one row, keyed by its name.
// It is safe for concurrent use.
type Device struct{ name string }

// NewDevice takes the device's name, [DeviceName].
func NewDevice(name string) *Device { return &Device{name: name} }

// found is what there is under the device's name.
type found struct {
	link netlink.Link
	spec DeviceSpec
	make bool // it is not ours to keep: another type, or what cannot be changed
	ours bool
	// addresses: the kernel makes its link-local IPv6 address.
	addresses bool
}

// find returns nil if there is no such device. One of ours that was renamed is to be made anew:
// no other could be made beside it, as it has the UDP port.
func (d *Device) find() (*found, error) {
	link, err := netlink.LinkByName(d.name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link, err = renamed()
	}
	if err != nil {
		return nil, fmt.Errorf("look up device %s: %w", d.name, err)
	}
	if link == nil {
		return nil, nil
	}
	a := link.Attrs()
	f := &found{link: link, spec: DeviceSpec{MTU: a.MTU}}
	if f.addresses, err = makesAddresses(a.Index); isErr(err, unix.ENODEV) {
		return nil, nil // gone meanwhile
	} else if err != nil {
		return nil, fmt.Errorf("look up address generation of %s: %w", d.name, err)
	}
	if len(a.HardwareAddr) == 6 {
		f.spec.MAC = [6]byte(a.HardwareAddr)
	}
	v, isVXLAN := link.(*netlink.Vxlan)
	// The kernel takes an alias only once the device exists. Should we die in
	// between, it is known by what we create it with (see NodeMAC).
	justMade := isVXLAN && v.FlowBased && a.Alias == "" && strings.HasPrefix(a.HardwareAddr.String(), "0e:57:")
	f.ours = a.Alias == DeviceAlias || justMade
	if !isVXLAN {
		f.make, f.spec.Odd = true, true
		return f, nil
	}
	f.spec.Port = uint16(v.Port)
	f.make = a.Name != d.name || !v.FlowBased || v.Learning || !v.UDP6ZeroCSumTx || !v.UDP6ZeroCSumRx || v.GBP
	f.spec.Odd = f.make || a.Alias != DeviceAlias || a.MasterIndex != 0 ||
		a.RawFlags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_NOARP == 0 || f.addresses
	return f, nil
}

// renamed is a VXLAN device with our alias, whatever its name; nil: there is none.
func renamed() (netlink.Link, error) {
	all, err := netlink.LinkList()
	for _, l := range all {
		if l.Type() == "vxlan" && l.Attrs().Alias == DeviceAlias {
			return l, nil
		}
	}
	return nil, err
}

// makesAddresses says whether the kernel makes a device's link-local IPv6 address; it does not
// where IPv6 is off. The sysctl of it would take the longer to find the more pods there are
// (fs/proc/proc_sysctl.c, proc_sys_compare).
func makesAddresses(index int) (makes bool, err error) {
	var c conn
	defer c.Close()
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	err = c.iter(unix.RTM_GETLINK, 0, func(b []byte) {
		attrs(b[unix.SizeofIfInfomsg:], func(typ int, families []byte) {
			if typ != unix.IFLA_AF_SPEC {
				return
			}
			attrs(families, func(family int, settings []byte) {
				attrs(settings, func(typ int, mode []byte) {
					if family == unix.AF_INET6 && typ == unix.IFLA_INET6_ADDR_GEN_MODE && len(mode) > 0 {
						makes = mode[0] != nl.IN6_ADDR_GEN_MODE_NONE
					}
				})
			})
		})
	}, msg)
	return makes, err
}

// Dump returns the device if it is ours.
func (d *Device) Dump() (map[string]DeviceSpec, error) {
	rows := map[string]DeviceSpec{}
	f, err := d.find()
	if err != nil {
		return nil, err
	}
	if f != nil && f.ours {
		rows[d.name] = f.spec
	}
	return rows, nil
}

// Set makes the device, or changes it; where the kernel cannot change it
// (another type, another port) it is made anew. A device of that name which is
// not ours is left alone: [ErrForeign].
func (d *Device) Set(name string, s DeviceSpec) error {
	if name != d.name {
		return fmt.Errorf("set device %s: not %s", name, d.name)
	}
	f, err := d.find()
	if err != nil {
		return err
	}
	switch {
	case f == nil:
	case !f.ours:
		return fmt.Errorf("set device %s (type %s, alias %q): %w: rename or delete it",
			name, f.link.Type(), f.link.Attrs().Alias, ErrForeign)
	case f.make || f.spec.Port != s.Port:
		if err := d.delete(f.link); err != nil {
			return err
		}
		f = nil
	}
	if f == nil {
		link, err := d.create(s)
		if err != nil {
			return err
		}
		f = &found{link: link, spec: DeviceSpec{MAC: s.MAC, MTU: s.MTU}}
		if f.addresses, err = makesAddresses(link.Attrs().Index); err != nil {
			return fmt.Errorf("look up address generation of %s: %w", name, err)
		}
	}
	if err := configure(f, s); err != nil {
		return fmt.Errorf("set device %s: %w", name, err)
	}
	return nil
}

// create makes the device, down and without alias. In external mode it has
// sockets of both families once it is up (drivers/net/vxlan vxlan_sock_add).
func (d *Device) create(s DeviceSpec) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = d.name, s.MTU, s.MAC[:]
	link := &netlink.Vxlan{
		LinkAttrs: attrs, FlowBased: true, Port: int(s.Port),
		UDP6ZeroCSumTx: true, UDP6ZeroCSumRx: true,
	}
	err := netlink.LinkAdd(link)
	if errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("create device %s: %w: another external VXLAN device uses UDP port %d: delete it, or set another port", d.name, err, s.Port)
	}
	if err != nil {
		return nil, fmt.Errorf("create device %s: %w", d.name, err)
	}
	crash.Point("device create")
	made, err := netlink.LinkByName(d.name)
	if err != nil {
		return nil, fmt.Errorf("look up device %s: %w", d.name, err)
	}
	return made, nil
}

// configure changes what differs, and brings the device up last.
func configure(f *found, s DeviceSpec) error {
	a := f.link.Attrs()
	steps := []struct {
		name string
		due  bool
		do   func() error
	}{
		{"set alias", a.Alias != DeviceAlias, func() error { return netlink.LinkSetAlias(f.link, DeviceAlias) }},
		{"release from its master", a.MasterIndex != 0, func() error { return netlink.LinkSetNoMaster(f.link) }},
		{"set MAC", f.spec.MAC != s.MAC, func() error { return netlink.LinkSetHardwareAddr(f.link, net.HardwareAddr(s.MAC[:])) }},
		{"set MTU", f.spec.MTU != s.MTU, func() error { return netlink.LinkSetMTU(f.link, s.MTU) }},
		{"set NOARP", a.RawFlags&unix.IFF_NOARP == 0, func() error { return netlink.LinkSetARPOff(f.link) }},
		{"turn address generation off", f.addresses, func() error {
			return netlink.LinkSetIP6AddrGenMode(f.link, nl.IN6_ADDR_GEN_MODE_NONE)
		}},
		{"set up", a.RawFlags&unix.IFF_UP == 0, func() error { return netlink.LinkSetUp(f.link) }},
	}
	for _, step := range steps {
		if !step.due {
			continue
		}
		if err := step.do(); err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("%s: %w: another program uses UDP port %d: stop it, or set another port", step.name, err, s.Port)
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
		crash.Point("device")
	}
	return nil
}

// Delete removes the device if it is ours.
func (d *Device) Delete(name string) error {
	if name != d.name {
		return nil
	}
	f, err := d.find()
	if err != nil || f == nil || !f.ours {
		return err
	}
	return d.delete(f.link)
}

func (d *Device) delete(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !isErr(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", d.name, err)
	}
	crash.Point("device delete")
	return nil
}
