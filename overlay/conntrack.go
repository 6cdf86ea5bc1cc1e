package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Translation is a flow that netfilter sends to another place than its client does, by rules of
// kube-proxy for one, or that it gives another source.
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
	ctWayZone  = 3 // of one direction, in its tuple
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
func ForgetTranslations(flows ...Translation) error {
	var errs []error
	for _, f := range flows {
		errs = append(errs, forget(f.Protocol, f.Client, f.To))
	}
	return errors.Join(errs...)
}

// ForgetEnded has netfilter forget what it knows of a flow that has ended, by its tuple as its
// client sends it. alive: it has not ended, and is known still.
func ForgetEnded(protocol uint8, client, to netip.AddrPort) (alive bool, err error) {
	req := tupleRequest(nl.IPCTNL_MSG_CT_GET, protocol, client, to)
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case errors.Is(err, unix.ENOENT) || err != nil && noConntrack(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask netfilter for a connection: %w", err)
	}
	for _, msg := range msgs {
		if t, _, over := parseFlow(msg); !over || t.Client != client {
			return true, nil
		}
	}
	return false, forget(protocol, client, to)
}

func forget(protocol uint8, client, to netip.AddrPort) error {
	req := tupleRequest(nl.IPCTNL_MSG_CT_DELETE, protocol, client, to)
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("have netfilter forget a connection: %w", err)
	}
	return nil
}

// tupleRequest is about the connection that has a tuple. (The answer to GET says that it is one of
// many, so there is an end to it only if it is to be acknowledged.)
func tupleRequest(verb int, protocol uint8, src, dst netip.AddrPort) *nl.NetlinkRequest {
	family, from, to := uint8(unix.AF_INET), nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if src.Addr().Is6() {
		family, from, to = unix.AF_INET6, nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	addrs := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	addrs.AddRtAttr(from, src.Addr().AsSlice())
	addrs.AddRtAttr(to, dst.Addr().AsSlice())
	ports := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	ports.AddRtAttr(ctProtoNum, []byte{protocol})
	ports.AddRtAttr(ctSrcPort, binary.BigEndian.AppendUint16(nil, src.Port()))
	ports.AddRtAttr(ctDstPort, binary.BigEndian.AppendUint16(nil, dst.Port()))
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|verb, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	req.AddData(tuple)
	return req
}

// noConntrack: the subsystem is not there (net/netfilter/nfnetlink.c).
func noConntrack(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// parseTranslation reads a message of the dump; false: it is none of a live translated
// flow.
func parseTranslation(msg []byte) (t Translation, ok bool) {
	t, ok, over := parseFlow(msg)
	return t, ok && !over && (t.To != t.Backend || t.Client != t.Source)
}

// parseFlow reads what netfilter says of a flow; false: it is none that could be ours. over: it
// has ended.
func parseFlow(msg []byte) (t Translation, ok, over bool) {
	if len(msg) < nl.SizeofNfgenmsg {
		return t, false, false
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
		over = tcp.state == tcpTimeWait || tcp.state == tcpClose
	case unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		t.Answered = status&statusSeenReply != 0
	default:
		return t, false, false
	}
	return t, ours && t.Client.IsValid() && t.Backend.IsValid(), over
}

// parseTuple reads one direction; invalid if it has no ports or addresses, or a zone of its own.
func parseTuple(b []byte) (src, dst netip.AddrPort, protocol uint8) {
	var addrs [2]netip.Addr
	var ports [2]uint16
	zoned := false
	attrs(b, func(kind int, value []byte) {
		zoned = zoned || kind == ctWayZone
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
	if zoned || ports == [2]uint16{} || !addrs[0].IsValid() || !addrs[1].IsValid() {
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
