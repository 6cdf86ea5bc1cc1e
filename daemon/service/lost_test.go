package service

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

// Endpoints on nodes that do not answer get nothing new as long as there are others.
func TestLostNodes(t *testing.T) {
	local := func(s *source.Service) { nodePort(s); s.ExternalLocal, s.InternalLocal = true, true }
	udp := func(s *source.Service) { s.Ports[0].Protocol = source.UDP }
	lost := func(n *Node) {
		n.Lost = map[string]bool{"there": true}
		n.LostAddrs = map[netip.Addr]struct{}{ip("192.0.2.9"): {}}
	}
	for _, tc := range []compileCase{
		{name: "what is there gets nothing; its connections stay", slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.0.5 here", "10.1.1.5 there", "10.1.2.5 elsewhere")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.2.5:8080]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP 10.1.2.5:8080/TCP`},
		{name: "datagrams move", with: udp, slices: []*source.EndpointSlice{
			slice(t, "http UDP 8080", "10.1.0.5 here", "10.1.1.5 there")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/UDP inside [10.1.0.5:8080]
			alive 10.1.0.5:8080/UDP`},
		{name: "known by the node's address alone", slices: []*source.EndpointSlice{
			slice(t, "http TCP 6443", "192.0.2.8 -", "192.0.2.9 -")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [192.0.2.8:6443]
			alive 192.0.2.8:6443/TCP 192.0.2.9:6443/TCP`},
		{name: "there is nothing else", slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.5 there", "10.1.1.6 there leaving")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.1.5:8080]
			alive 10.1.1.5:8080/TCP 10.1.1.6:8080/TCP`},
		{name: "what is leaving elsewhere goes before what is ready there", slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.0.5 here leaving", "10.1.1.5 there")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP`},
		{name: "all that this zone should have is there", slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.5 there zones=z1", "10.1.2.5 elsewhere zones=z2")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.2.5:8080]
			alive 10.1.1.5:8080/TCP 10.1.2.5:8080/TCP`},
		{name: "this zone has some left", slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.5 there zones=z1", "10.1.2.5 elsewhere zones=z2", "10.1.2.6 elsewhere zones=z1")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.2.6:8080]
			alive 10.1.1.5:8080/TCP 10.1.2.5:8080/TCP 10.1.2.6:8080/TCP`},
		{name: "one without hints there does not void the others'", slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.5 there", "10.1.2.5 elsewhere zones=z2", "10.1.2.6 elsewhere zones=z1")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.2.6:8080]
			alive 10.1.1.5:8080/TCP 10.1.2.5:8080/TCP 10.1.2.6:8080/TCP`},
		{name: "Local asks nobody else", with: local, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.5 there")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside drop
			192.0.2.1:30080/TCP inside [10.1.1.5:8080] outside drop
			alive 10.1.1.5:8080/TCP`},
	} {
		tc.node = lost
		tc.run(t)
	}
}

// A node that is cut off from all others has what is on it for its own pods; what comes from
// outside is given to all, as the others give it.
func TestCutOff(t *testing.T) {
	compileCase{name: "cut off", with: nodePort, node: func(n *Node) {
		n.Lost, n.CutOff = map[string]bool{"there": true, "elsewhere": true}, true
	}, slices: []*source.EndpointSlice{slice(t, "http TCP 8080", "10.1.0.5 here", "10.1.1.5 there", "10.1.2.5 elsewhere")}, want: `
		10.96.0.1 rejects other ports
		10.96.0.1:80/TCP inside [10.1.0.5:8080]
		192.0.2.1:30080/TCP inside [10.1.0.5:8080] outside [10.1.0.5:8080 10.1.1.5:8080 10.1.2.5:8080 maglev 307]
		alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP 10.1.2.5:8080/TCP`}.run(t)
}
