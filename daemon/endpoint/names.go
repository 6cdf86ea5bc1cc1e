package endpoint

import (
	"crypto/sha1"
	"encoding/hex"
	"net"
	"strings"

	"github.com/weftnet/weft/ipam"
)

// Prefixes of what a restarted daemon, and uninstall, recognise as ours
// (docs/ARCHITECTURE.md, "Ownership").
const (
	vethPrefix  = "weft"
	ifbPrefix   = "wifb"
	aliasPrefix = "weft:"
)

func digest(o ipam.Owner) []byte {
	sum := sha1.Sum([]byte(o.ContainerID + "/" + o.IfName))
	return sum[:]
}

// hostName is the name of the host's end of the veth: 15 bytes (IFNAMSIZ less 1).
func hostName(o ipam.Owner) string { return vethPrefix + hex.EncodeToString(digest(o))[:11] }

// ifbName is the name of the device that limits what the pod sends.
func ifbName(o ipam.Owner) string { return ifbPrefix + hex.EncodeToString(digest(o))[:11] }

// alias is the ifalias of both devices.
func alias(o ipam.Owner) string { return aliasPrefix + o.ContainerID + "/" + o.IfName }

// ownerOf reads an alias of ours.
func ownerOf(alias string) (ipam.Owner, bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	id, ifname, both := strings.Cut(rest, "/")
	if !ok || !both || id == "" || ifname == "" {
		return ipam.Owner{}, false
	}
	return ipam.Owner{ContainerID: id, IfName: ifname}, true
}

// rowOwner is the owner's name in the tables.
func rowOwner(o ipam.Owner) string { return "pod:" + o.ContainerID + "/" + o.IfName }

// podMAC and hostMAC are locally administered unicast addresses (IEEE 802c). They
// follow from the owner, so that a repeated ADD makes the same devices.
func podMAC(o ipam.Owner) net.HardwareAddr {
	d := digest(o)
	return net.HardwareAddr{0x06, 0x57, d[16], d[17], d[18], d[19]}
}

func hostMAC(o ipam.Owner) net.HardwareAddr {
	d := digest(o)
	return net.HardwareAddr{0x06, 0x58, d[16], d[17], d[18], d[19]}
}

// madeName says whether the device has a name such as we make.
func madeName(l link) bool {
	prefix := map[string]string{"veth": vethPrefix, "ifb": ifbPrefix}[l.kind]
	rest, ok := strings.CutPrefix(l.name, prefix)
	if !ok || prefix == "" || len(rest) != 11 {
		return false
	}
	return strings.Trim(rest, "0123456789abcdef") == ""
}
