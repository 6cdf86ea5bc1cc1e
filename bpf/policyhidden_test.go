package bpf

import "testing"

// What IPv6 extension headers hide may be what a rule denies, so it is denied; rules that
// allow ports do not match it.
func TestWhatHeadersHideIsDenied(t *testing.T) {
	t.Parallel()
	p := newLane(t, true, true)
	src, dst := p.client.Addr(), p.backend.Addr()
	hidden := func(proto byte) func() uint32 {
		body := cat([]byte{6, 0, 1, 4, 0, 0, 0, 0}, udp(1, servePort, make([]byte, 16)))
		return func() uint32 {
			verdict, _ := p.send(t, header{src: src, dst: dst, proto: proto}.packet(body))
			return verdict
		}
	}
	fragment := func() uint32 {
		body := cat([]byte{60, 0}, be16(1), be32(7), []byte{6, 0, 1, 4, 0, 0, 0, 0}, udp(1, servePort, make([]byte, 16)))
		verdict, _ := p.send(t, header{src: src, dst: dst, proto: 44}.packet(body))
		return verdict
	}
	deny := Rule{First: servePort, Last: servePort, Protocol: TCP, Verdict: Deny}
	for _, c := range []struct {
		name   string
		rules  []Rule
		passes bool
	}{
		{"a port is denied", []Rule{deny, allowAll}, false},
		{"a port is denied after all are allowed", []Rule{allowAll, deny}, true},
		{"a port is denied behind the first row", append(make([]Rule, 0, 10), allowPort(UDP, 1), allowPort(UDP, 2), allowPort(UDP, 3), allowPort(UDP, 4), allowPort(UDP, 5), allowPort(UDP, 6), allowPort(UDP, 7), allowPort(UDP, 8), deny, allowAll), false},
		{"a port is allowed", []Rule{allowPort(TCP, servePort)}, false},
		{"all are allowed", []Rule{allowAll}, true},
	} {
		p.forgetAllowed(t)
		p.rules(t, setOut, 0, c.rules...)
		p.isolate(t, src, 0, setOut)
		t.Run(c.name, func(t *testing.T) {
			p.walkThrough(t, "policy-egress", []step{
				{"destination options", c.passes, hidden(60)}, {"routing", c.passes, hidden(43)},
				{"hop-by-hop", c.passes, hidden(protoHopByHop)}, {"a fragment of options", c.passes, fragment},
			})
		})
	}
}
