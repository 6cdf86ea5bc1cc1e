package overlay

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftMsg is a message of nf_tables: type, and struct nfgenmsg with the family.
func nftMsg(typ int, v6 bool, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: nftFamily(v6), Version: nl.NFNETLINK_V0})
	return req
}

func nftFamily(v6 bool) uint8 {
	if v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// nftHas says whether nf_tables has a table (chain is empty) or a chain of the
// names that iptables uses. It is one message, whatever the size of the ruleset.
func nftHas(v6 bool, table, chain string) (bool, error) {
	typ := unix.NFT_MSG_GETTABLE
	if chain != "" {
		typ = unix.NFT_MSG_GETCHAIN
	}
	req := nftMsg(typ, v6, unix.NLM_F_ACK)
	req.AddData(nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(table))) // = NFTA_CHAIN_TABLE
	if chain != "" {
		req.AddData(nl.NewRtAttr(unix.NFTA_CHAIN_NAME, nl.ZeroTerminated(chain)))
	}
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if isErr(err, unix.ENOENT) || noNFT(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask nf_tables for %s %s: %w", table, chain, err)
	}
	return true, nil
}

// noNFT says whether err is the answer of a kernel without nf_tables
// (net/netfilter/nfnetlink.c: EINVAL for an unknown subsystem).
func noNFT(err error) bool {
	return isErr(err, unix.EINVAL, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP)
}

// nftRules counts the rules in the tables that iptables uses, without those in
// our chains.
func nftRules() (int, error) {
	n := 0
	for _, v6 := range []bool{false, true} {
		var err error
		for range maxDumps {
			var count int
			err = nftMsg(unix.NFT_MSG_GETRULE, v6, unix.NLM_F_DUMP).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(b []byte) bool {
				table, chain := nftRuleNames(b)
				switch table {
				case "filter", "nat", "mangle", "raw", "security":
					if !strings.HasPrefix(chain, "WEFT-") {
						count++
					}
				}
				return true
			})
			if err == nil || noNFT(err) {
				n += count
				break
			}
			if !errors.Is(err, nl.ErrDumpInterrupted) {
				return 0, fmt.Errorf("count the rules in nf_tables: %w", err)
			}
		}
	}
	return n, nil
}

// nftRuleNames returns the table and chain of a message about a rule.
func nftRuleNames(b []byte) (table, chain string) {
	if len(b) < nl.SizeofNfgenmsg {
		return "", ""
	}
	attrs(b[nl.SizeofNfgenmsg:], func(typ int, data []byte) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			table = unix.ByteSliceToString(data)
		case unix.NFTA_RULE_CHAIN:
			chain = unix.ByteSliceToString(data)
		}
	})
	return table, chain
}
