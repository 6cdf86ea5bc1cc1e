package daemon

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
)

// target is what a person names: a pod or a Service by name, or an address, with or without
// a port.
type target struct {
	namespace, name string // namespace "": any
	addr            netip.Addr
	port            uint16 // 0: none
	protocol        bpf.Protocol
}

// parseTarget reads NAME, NAMESPACE/NAME or an address, with :PORT and /PROTOCOL behind it
// or not. An IPv6 address with a port is in brackets.
func parseTarget(text string) (target, error) {
	bad := func(why string) (target, error) {
		return target{}, &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("%q: %s", text, why)}
	}
	t := target{protocol: bpf.TCP}
	if a, err := netip.ParseAddr(text); err == nil {
		t.addr = a.Unmap().WithZone("")
		return t, nil
	}
	who, rest := text, ""
	if at := strings.LastIndexByte(text, ':'); at >= 0 && !strings.HasSuffix(text, "]") {
		who, rest = text[:at], text[at+1:]
		port, protocol, given := strings.Cut(rest, "/")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad(fmt.Sprintf("%q is no port: give a number from 1 to 65535", port))
		}
		t.port = uint16(n)
		if given {
			var ok bool
			if t.protocol, ok = protocols[strings.ToLower(protocol)]; !ok {
				return bad(fmt.Sprintf("%q is no protocol with ports: give tcp, udp or sctp", protocol))
			}
		}
	}
	bracketed := strings.HasPrefix(who, "[") && strings.HasSuffix(who, "]")
	bare := who
	if bracketed {
		bare = who[1 : len(who)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil && (bracketed || a.Is4()) {
		t.addr = a.Unmap().WithZone("")
		return t, nil
	}
	if !api.IsServiceName(who) {
		return bad("neither an address nor the name of a pod or a Service (NAME or NAMESPACE/NAME); an IPv6 address with a port is in brackets")
	}
	namespace, name, given := strings.Cut(who, "/")
	if t.namespace, t.name = namespace, name; !given {
		t.namespace, t.name = "", who
	}
	return t, nil
}

var protocols = map[string]bpf.Protocol{"tcp": bpf.TCP, "udp": bpf.UDP, "sctp": bpf.SCTP}
