package overlay

import (
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftWatch judges nf_tables' messages: it picks what concerns our chains, the
// chains that jump to them, and the kubelet's mark. Other writers, kube-proxy
// above all, are many times busier.
type nftWatch struct{}

func (nftWatch) reset(*os.File) error { return nil }

func (nftWatch) message(h unix.NlMsghdr, b []byte) Event {
	if h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(b) < nl.SizeofNfgenmsg {
		return 0
	}
	var chain string
	switch h.Type & 0xff {
	case unix.NFT_MSG_DELTABLE:
		return EventChains
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		_, chain = nftRuleNames(b)
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		attrs(b[nl.SizeofNfgenmsg:], func(typ int, data []byte) {
			if typ == unix.NFTA_CHAIN_NAME {
				chain = unix.ByteSliceToString(data)
			}
		})
	}
	switch {
	case chain == "POSTROUTING", chain == "FORWARD", strings.HasPrefix(chain, "WEFT-"),
		chain == "KUBE-IPTABLES-HINT", chain == "KUBE-KUBELET-CANARY":
		return EventChains
	}
	return 0
}
