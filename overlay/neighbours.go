package overlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/weftnet/weft/internal/crash"
	"golang.org/x/sys/unix"
)

// Neighbours is the target of permanent neighbour entries on devices of ours.
// It is safe for concurrent use.
type Neighbours struct {
	conn conn
	ours func(link string) bool
}

// NewNeighbours takes the devices whose name ours approves.
func NewNeighbours(ours func(link string) bool) *Neighbours { return &Neighbours{ours: ours} }

// Close releases the socket.
func (n *Neighbours) Close() { n.conn.Close() }

// ndMsg is struct ndmsg (linux/neighbour.h).
type ndMsg struct {
	family uint8
	index  int
	state  uint16
}

const sizeofNdMsg = 12

func (m ndMsg) Len() int { return sizeofNdMsg }

func (m ndMsg) Serialize() []byte {
	b := []byte{m.family, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(m.index))
	b = binary.NativeEndian.AppendUint16(b, m.state)
	return append(b, 0, 0)
}

var _ nl.NetlinkRequestData = ndMsg{}

// Dump returns the permanent entries on devices of ours. Entries that the kernel
// made itself, or learned, are not ours.
func (n *Neighbours) Dump() (map[NeighKey]NeighMAC, error) {
	links := newLinkInfo()
	defer links.close()
	rows := map[NeighKey]NeighMAC{}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found := map[NeighKey]NeighMAC{}
		err := n.conn.dump(unix.RTM_GETNEIGH, func() { clear(found) }, func(b []byte) {
			if len(b) < sizeofNdMsg || binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT == 0 {
				return
			}
			k := NeighKey{LinkIndex: int(get32(b[4:]))}
			var mac NeighMAC
			attrs(b[sizeofNdMsg:], func(typ int, data []byte) {
				switch typ {
				case unix.NDA_DST:
					k.IP = getAddr(data)
				case unix.NDA_LLADDR:
					copy(mac[:], data)
				}
			})
			if name := links.name(k.LinkIndex); name != "" && n.ours(name) {
				found[k] = mac
			}
		}, ndMsg{family: fam})
		if err != nil && !isErr(err, unix.EAFNOSUPPORT) {
			return nil, fmt.Errorf("dump neighbours: %w", err)
		}
		for k, v := range found {
			rows[k] = v
		}
	}
	return rows, nil
}

// Set creates or replaces an entry, whatever state it is in.
func (n *Neighbours) Set(k NeighKey, mac NeighMAC) error {
	err := n.conn.write(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		ndMsg{family: family(k.IP), index: k.LinkIndex, state: unix.NUD_PERMANENT},
		attr(unix.NDA_DST, k.IP.AsSlice()), attr(unix.NDA_LLADDR, mac[:]))
	if err != nil {
		return fmt.Errorf("set neighbour %s on link %d: %w", k.IP, k.LinkIndex, err)
	}
	crash.Point("neigh")
	return nil
}

// Delete removes an entry; nil if it or the device is gone.
func (n *Neighbours) Delete(k NeighKey) error {
	err := n.conn.write(unix.RTM_DELNEIGH, 0,
		ndMsg{family: family(k.IP), index: k.LinkIndex}, attr(unix.NDA_DST, k.IP.AsSlice()))
	if isErr(err, unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EAFNOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete neighbour %s on link %d: %w", k.IP, k.LinkIndex, err)
	}
	crash.Point("neigh")
	return nil
}

// unmapped is an address as the kernel tells families apart.
func unmapped(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
