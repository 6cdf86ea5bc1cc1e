package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Translation is a flow that netfilter sends to another place than its client does: by
// rules of kube-proxy, for one.
type Translation struct {
	Protocol        uint8          // TCP, UDP or SCTP
	Client, To      netip.AddrPort // as the client sends it
	Source, Backend netip.AddrPort // as the other end sees it
	Answered        bool           // both ends have spoken
	// Of TCP: who has sent FIN.
	ClientDone, BackendDone bool
}

// Numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h and
// nf_conntrack_{common,tcp}.h; nl has some more.
const (
	ctStatus   = 3
	ctZone     = 18
	ctProtoNum = 1
	ctSrcPort  = 2
	ctDstPort  = 3

	statusSeenReply = 1 << 1

	tcpEstablished = 3
	tcpFinWait     = 4
	tcpLastAck     = 6
	tcpTimeWait    = 7
	tcpClose       = 8

	ctTCPFlagsClient = 4
	ctTCPFlagsServer = 5
	tcpFlagClosing   = 1 << 2 // has sent the first FIN
)

// Translations tells f of the flows of the calling thread's network namespace that are
// translated, without those of TCP that are over and done. A kernel without netfilter's connection tracking has none.
func Translations(f func(Translation)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
		err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
			if t, ok := parseTranslation(msg); ok {
				f(t)
			}
			return true
		})
		// What changed meanwhile is for the next time.
		if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) && !noConntrack(err) {
			return fmt.Errorf("read netfilter's connections: %w", err)
		}
	}
	return nil
}

// ForgetTranslations has netfilter forget flows of the calling thread's network namespace.
func ForgetTranslations(flows []Translation) error {
	if len(flows) == 0 {
		return nil
	}
	gone := translations{}
	for _, f := range flows {
		gone[way{f.Protocol, f.Client, f.To}] = true
	}
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		var err error = netlink.ErrDumpInterrupted
		for i := 0; i < 3 && errors.Is(err, netlink.ErrDumpInterrupted); i++ {
			_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, gone)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("forget netfilter's connections: %w", err))
		}
	}
	return errors.Join(errs...)
}

// way is what a client sends.
type way struct {
	protocol   uint8
	client, to netip.AddrPort
}

// translations chooses flows: a [netlink.CustomConntrackFilter].
type translations map[way]bool

// MatchConntrackFlow says whether a flow is one of them.
func (t translations) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	at := func(ip net.IP, port uint16) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(a.Unmap(), port)
	}
	return f.Zone == 0 && t[way{f.Forward.Protocol, at(f.Forward.SrcIP, f.Forward.SrcPort), at(f.Forward.DstIP, f.Forward.DstPort)}]
}

// noConntrack: the subsystem is not there (net/netfilter/nfnetlink.c).
func noConntrack(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// parseTranslation reads a message of the dump; false: it is none of a live translated
// flow.
func parseTranslation(msg []byte) (t Translation, ok bool) {
	if len(msg) < nl.SizeofNfgenmsg {
		return t, false
	}
	var tcp tcpInfo
	status, ours := uint32(0), true
	attrs(msg[nl.SizeofNfgenmsg:], func(typ int, value []byte) {
		switch typ {
		case nl.CTA_TUPLE_ORIG:
			t.Client, t.To, t.Protocol = parseTuple(value)
		case nl.CTA_TUPLE_REPLY:
			t.Backend, t.Source, _ = parseTuple(value)
		case ctStatus:
			if len(value) == 4 {
				status = binary.BigEndian.Uint32(value)
			}
		case nl.CTA_PROTOINFO:
			tcp = parseTCP(value)
		case ctZone:
			ours = false // somebody's own
		}
	})
	switch t.Protocol {
	case unix.IPPROTO_TCP:
		t.Answered = tcp.state >= tcpEstablished && tcp.state < tcpTimeWait
		both := tcp.state == tcpLastAck
		t.ClientDone = both || tcp.state >= tcpFinWait && tcp.flags[0]&tcpFlagClosing != 0
		t.BackendDone = both || tcp.state >= tcpFinWait && tcp.flags[1]&tcpFlagClosing != 0
		if tcp.state == tcpTimeWait || tcp.state == tcpClose {
			return t, false
		}
	case unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		t.Answered = status&statusSeenReply != 0
	default:
		return t, false
	}
	return t, ours && t.Client.IsValid() && t.Backend.IsValid() && t.To != t.Backend
}

// parseTuple reads one direction; invalid if it has no ports or addresses.
func parseTuple(b []byte) (src, dst netip.AddrPort, protocol uint8) {
	var addrs [2]netip.Addr
	var ports [2]uint16
	attrs(b, func(kind int, value []byte) {
		attrs(value, func(part int, value []byte) {
			switch {
			case kind == nl.CTA_TUPLE_IP && part >= nl.CTA_IP_V4_SRC && part <= nl.CTA_IP_V6_DST:
				addrs[(part-nl.CTA_IP_V4_SRC)%2], _ = netip.AddrFromSlice(value)
			case kind == nl.CTA_TUPLE_PROTO && part == ctProtoNum && len(value) == 1:
				protocol = value[0]
			case kind == nl.CTA_TUPLE_PROTO && (part == ctSrcPort || part == ctDstPort) && len(value) == 2:
				ports[part-ctSrcPort] = binary.BigEndian.Uint16(value)
			}
		})
	})
	if ports == [2]uint16{} || !addrs[0].IsValid() || !addrs[1].IsValid() {
		return src, dst, protocol
	}
	return netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1]), protocol
}

// tcpInfo is what netfilter knows of a connection: its state, and flags of the client and
// of the server.
type tcpInfo struct {
	state uint8
	flags [2]uint8
}

func parseTCP(b []byte) (tcp tcpInfo) {
	attrs(b, func(kind int, value []byte) {
		attrs(value, func(part int, value []byte) {
			switch {
			case kind != nl.CTA_PROTOINFO_TCP || len(value) == 0:
			case part == nl.CTA_PROTOINFO_TCP_STATE:
				tcp.state = value[0]
			case part == ctTCPFlagsClient || part == ctTCPFlagsServer:
				tcp.flags[part-ctTCPFlagsClient] = value[0]
			}
		})
	})
	return tcp
}
