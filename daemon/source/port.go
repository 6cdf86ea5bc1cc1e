package source

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
)

// intOrString is a number or a string, as text.
type intOrString string

func (s *intOrString) UnmarshalJSON(js []byte) error {
	if js[0] == '"' {
		return json.Unmarshal(js, (*string)(s))
	}
	if string(js) == "null" {
		return nil
	}
	var n int64
	if json.Unmarshal(js, &n) != nil {
		return &json.UnmarshalTypeError{Value: kindOf(js), Type: reflect.TypeFor[intOrString]()}
	}
	*s = intOrString(strconv.FormatInt(n, 10))
	return nil
}

// kindOf names a JSON value as package json does in its errors.
func kindOf(js []byte) string {
	switch js[0] {
	case '[':
		return "array"
	case '{':
		return "object"
	case 't', 'f':
		return "bool"
	}
	return "number " + string(js)
}

func parseProtocol(s string) (Protocol, error) {
	switch s {
	case "", "TCP":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("%q is none of TCP, UDP, SCTP", s)
}

func checkPort(field string, n int) (uint16, error) {
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("%s: %d is not a port (1 to 65535)", field, n)
	}
	return uint16(n), nil
}

// targetPort is the number of a Service port's target, 0 if it is a name.
func targetPort(p ServicePort) (uint16, error) {
	if p.TargetPort == "" {
		return p.Port, nil
	}
	if n, err := strconv.Atoi(p.TargetPort); err == nil {
		if n < 1 || n > 65535 {
			return 0, fmt.Errorf("%d is not a port (1 to 65535)", n)
		}
		return uint16(n), nil
	}
	if len(p.TargetPort) > 15 || strings.Trim(p.TargetPort, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return 0, fmt.Errorf("%q is neither a port nor the name of one (a-z, 0-9 and -, at most 15)", p.TargetPort)
	}
	return 0, nil
}

// ordinaryIP is an address that many nodes can have a route to.
func ordinaryIP(s string) (netip.Addr, error) {
	ip, err := parseIP(s)
	if err == nil && special(ip) != "" {
		err = fmt.Errorf("%s is %s", ip, special(ip))
	}
	return ip, err
}

// special says of which kind an address is that means something else on each node, or
// more than one receiver: nothing a Service or an endpoint could have. "": of none.
func special(ip netip.Addr) string {
	switch {
	case ip.IsUnspecified():
		return "the unspecified address"
	case ip.IsLoopback():
		return "a loopback address"
	case ip.IsLinkLocalUnicast():
		return "a link-local address"
	case ip.IsMulticast():
		return "a multicast address"
	}
	return ""
}
