package overlay

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"github.com/weftnet/weft/internal/crash"
	"golang.org/x/sys/unix"
)

// In nf_tables a table and a base chain exist only once somebody has made them;
// iptables makes them at the first rule, and never removes a table. So that an
// uninstall leaves no trace we make those that are missing ourselves, and mark
// them, as the only kind of name that a table has room for, with a comment.
// Marked ones are removed with our chain if nobody else uses them.

// nftMark is the comment "weft" as libnftnl writes it into the user data of
// tables and chains: type 0, length, string.
const nftMark = "\x00\x05weft\x00"

// nftBase is what nf_tables has of a table and its chains.
type nftBase struct {
	table       bool
	tableMarked bool
	idle        bool // all chains of the table are base chains that do nothing
	chain       bool // the base chain of a ChainKey
	chainMarked bool
	chainIdle   bool // it has no rules, and accepts
}

func nftRead(k ChainKey) (b nftBase, err error) {
	var used, chains uint32
	req := nftMsg(unix.NFT_MSG_GETTABLE, k.IPv6, unix.NLM_F_ACK)
	req.AddData(nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(k.Table)))
	err = req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		b.table = true
		attrs(m[nl.SizeofNfgenmsg:], func(typ int, data []byte) {
			switch typ {
			case unix.NFTA_TABLE_USE:
				used = binary.BigEndian.Uint32(data)
			case nftaTableUserdata:
				b.tableMarked = string(data) == nftMark
			}
		})
		return true
	})
	if isErr(err, unix.ENOENT) || noNFT(err) {
		return nftBase{}, nil
	}
	if err != nil {
		return b, fmt.Errorf("read table %s: %w", k.Table, err)
	}
	b.idle = true
	req = nftMsg(unix.NFT_MSG_GETCHAIN, k.IPv6, unix.NLM_F_DUMP)
	err = req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		c := parseNFTChain(m)
		if c.table != k.Table {
			return true
		}
		chains++
		b.idle = b.idle && c.idle
		if c.name == k.base() {
			b.chain, b.chainMarked, b.chainIdle = true, c.marked, c.idle
		}
		return true
	})
	if err != nil {
		return b, fmt.Errorf("read the chains of table %s: %w", k.Table, err)
	}
	b.idle = b.idle && used == chains // else it has sets or the like
	return b, nil
}

type nftChain struct {
	table, name  string
	marked, idle bool
}

func parseNFTChain(m []byte) (c nftChain) {
	var hook bool
	var policy, use uint32
	attrs(m[nl.SizeofNfgenmsg:], func(typ int, data []byte) {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			c.table = unix.ByteSliceToString(data)
		case unix.NFTA_CHAIN_NAME:
			c.name = unix.ByteSliceToString(data)
		case unix.NFTA_CHAIN_HOOK:
			hook = true
		case unix.NFTA_CHAIN_POLICY:
			policy = binary.BigEndian.Uint32(data)
		case unix.NFTA_CHAIN_USE:
			use = binary.BigEndian.Uint32(data)
		case nftaChainUserdata:
			c.marked = string(data) == nftMark
		}
	})
	c.idle = hook && policy == nfAccept && use == 0
	return c
}

// Numbers of include/uapi/linux/netfilter.h and netfilter/nf_tables.h.
const (
	nftaTableUserdata = 6
	nftaChainUserdata = 12
	nfAccept          = 1
	nfForward         = 2   // NF_INET_FORWARD
	nfPostRouting     = 4   // NF_INET_POST_ROUTING
	nfPrioritySrcNAT  = 100 // NF_IP_PRI_NAT_SRC; that of filter is 0
)

// nftPrepare makes the table and the base chain, as iptables would, if absent.
func nftPrepare(k ChainKey) error {
	b, err := nftRead(k)
	if err != nil || b.chain {
		return err
	}
	var batch nftBatch
	if !b.table {
		batch.add(k.IPv6, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE,
			nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(k.Table)),
			nl.NewRtAttr(nftaTableUserdata, []byte(nftMark)))
	}
	hook, priority := uint32(nfForward), uint32(0)
	if k.Table == TableNAT {
		hook, priority = nfPostRouting, nfPrioritySrcNAT
	}
	at := nl.NewRtAttr(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, nil)
	at.AddRtAttr(unix.NFTA_HOOK_HOOKNUM, be32(hook))
	at.AddRtAttr(unix.NFTA_HOOK_PRIORITY, be32(priority))
	batch.add(k.IPv6, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE,
		nl.NewRtAttr(unix.NFTA_CHAIN_TABLE, nl.ZeroTerminated(k.Table)),
		nl.NewRtAttr(unix.NFTA_CHAIN_NAME, nl.ZeroTerminated(k.base())),
		at,
		nl.NewRtAttr(unix.NFTA_CHAIN_POLICY, be32(nfAccept)),
		nl.NewRtAttr(unix.NFTA_CHAIN_TYPE, nl.ZeroTerminated(k.Table)), // nat or filter
		nl.NewRtAttr(nftaChainUserdata, []byte(nftMark)))
	if err := batch.commit(0); err != nil {
		return fmt.Errorf("make %s in table %s: %w", k.base(), k.Table, err)
	}
	crash.Point("chain base")
	return nil
}

// nftTidy removes what nftPrepare made and nobody uses. Whatever changes between
// the look and the removal makes it start anew: the kernel checks the generation.
func nftTidy(k ChainKey) error {
	var err error
	for range tries {
		var gen uint32
		if gen, err = nftGeneration(); err != nil {
			return err
		}
		b, rerr := nftRead(k)
		if rerr != nil {
			return rerr
		}
		var batch nftBatch
		switch {
		case b.tableMarked && b.idle:
			batch.add(k.IPv6, unix.NFT_MSG_DELTABLE, 0, nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(k.Table)))
		case b.chainMarked && b.chainIdle:
			batch.add(k.IPv6, unix.NFT_MSG_DELCHAIN, 0,
				nl.NewRtAttr(unix.NFTA_CHAIN_TABLE, nl.ZeroTerminated(k.Table)),
				nl.NewRtAttr(unix.NFTA_CHAIN_NAME, nl.ZeroTerminated(k.base())))
		default:
			return nil
		}
		if err = batch.commit(gen); err == nil {
			crash.Point("chain base")
			return nil
		}
	}
	return fmt.Errorf("remove the empty table %s: %w", k.Table, err)
}

// nftGeneration is 0 in a kernel without nf_tables.
func nftGeneration() (gen uint32, err error) {
	err = nftMsg(unix.NFT_MSG_GETGEN, false, unix.NLM_F_ACK).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		attrs(m[nl.SizeofNfgenmsg:], func(typ int, data []byte) {
			if typ == unix.NFTA_GEN_ID {
				gen = binary.BigEndian.Uint32(data)
			}
		})
		return true
	})
	if err != nil && !noNFT(err) {
		return 0, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	return gen, nil
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// nftBatch is a transaction of nf_tables.
type nftBatch struct{ messages []*nl.NetlinkRequest }

func (b *nftBatch) add(v6 bool, typ, flags int, parts ...nl.NetlinkRequestData) {
	req := nftMsg(typ, v6, flags)
	for _, p := range parts {
		req.AddData(p)
	}
	b.messages = append(b.messages, req)
}

// commit sends it. If generation is not 0 and no longer the ruleset's, nothing
// is changed, and the error is ERESTART.
func (b *nftBatch) commit(generation uint32) error {
	frame := func(typ int) *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(typ, 0)
		// The subsystem is in res_id, in network byte order.
		req.AddData(&nl.Nfgenmsg{Version: nl.NFNETLINK_V0, ResId: binary.NativeEndian.Uint16([]byte{0, unix.NFNL_SUBSYS_NFTABLES})})
		return req
	}
	begin := frame(unix.NFNL_MSG_BATCH_BEGIN)
	if generation != 0 {
		begin.AddData(nl.NewRtAttr(unix.NFNL_BATCH_GENID, be32(generation)))
	}
	buf := begin.Serialize()
	for _, m := range b.messages {
		buf = append(buf, m.Serialize()...)
	}
	buf = append(buf, frame(unix.NFNL_MSG_BATCH_END).Serialize()...)

	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// The kernel has worked it off; what went wrong is in the queue.
	answer := make([]byte, 1<<13)
	for {
		n, _, err := unix.Recvfrom(fd, answer, unix.MSG_DONTWAIT)
		if isErr(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
		if n >= unix.SizeofNlMsghdr+4 && get16(answer[4:]) == unix.NLMSG_ERROR {
			if errno := int32(get32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
				return unix.Errno(-errno)
			}
		}
	}
}
