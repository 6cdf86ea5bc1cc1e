package service

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

func TestHostPort(t *testing.T) {
	both := ips("10.1.0.5", "fd00::5")
	more := testNode
	more.Own = map[netip.Addr]struct{}{ip("198.51.100.7"): {}, ip("2001:db8::1"): {}}
	for _, tc := range []struct {
		name string
		node Node
		pod  []netip.Addr
		at   []PortMapping
		want string
	}{
		{"everywhere, both families", testNode, both, []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: bpf.TCP}}, `
127.0.0.1:8080/TCP inside [10.1.0.5:80] host port
192.0.2.1:8080/TCP inside [10.1.0.5:80] outside [10.1.0.5:80] host port
[2001:db8::1]:8080/TCP inside [[fd00::5]:80] outside [[fd00::5]:80] host port
[::1]:8080/TCP inside [[fd00::5]:80] host port
alive 10.1.0.5:80/TCP [fd00::5]:80/TCP`},
		{"a pod of one family", testNode, ips("10.1.0.5"), []PortMapping{{HostPort: 53, ContainerPort: 53, Protocol: bpf.UDP}}, `
127.0.0.1:53/UDP inside [10.1.0.5:53] host port
192.0.2.1:53/UDP inside [10.1.0.5:53] outside [10.1.0.5:53] host port
alive 10.1.0.5:53/UDP`},
		{"unspecified: all of its family", testNode, both, []PortMapping{
			{HostIP: ip("0.0.0.0"), HostPort: 1, ContainerPort: 80, Protocol: bpf.TCP},
			{HostIP: ip("::"), HostPort: 2, ContainerPort: 80, Protocol: bpf.TCP}}, `
127.0.0.1:1/TCP inside [10.1.0.5:80] host port
192.0.2.1:1/TCP inside [10.1.0.5:80] outside [10.1.0.5:80] host port
[2001:db8::1]:2/TCP inside [[fd00::5]:80] outside [[fd00::5]:80] host port
[::1]:2/TCP inside [[fd00::5]:80] host port
alive 10.1.0.5:80/TCP [fd00::5]:80/TCP`},
		{"one address", more, both, []PortMapping{
			{HostIP: ip("198.51.100.7"), HostPort: 1, ContainerPort: 80, Protocol: bpf.TCP},
			{HostIP: ip("::ffff:198.51.100.7"), HostPort: 2, ContainerPort: 81, Protocol: bpf.SCTP},
			{HostIP: ip("127.0.0.1"), HostPort: 3, ContainerPort: 80, Protocol: bpf.TCP}}, `
127.0.0.1:3/TCP inside [10.1.0.5:80] host port
198.51.100.7:1/TCP inside [10.1.0.5:80] outside [10.1.0.5:80] host port
198.51.100.7:2/SCTP inside [10.1.0.5:81] outside [10.1.0.5:81] host port
alive 10.1.0.5:80/TCP 10.1.0.5:81/SCTP`},
		{"addresses that are not the node's", more, both, []PortMapping{
			{HostIP: ip("198.51.100.8"), HostPort: 1, ContainerPort: 80, Protocol: bpf.TCP},
			{HostIP: ip("2001:db8::8"), HostPort: 2, ContainerPort: 80, Protocol: bpf.UDP},
			{HostIP: ip("192.0.2.1"), HostPort: 3, ContainerPort: 80, Protocol: bpf.TCP},
			{HostIP: ip("::1"), HostPort: 4, ContainerPort: 80, Protocol: bpf.TCP}}, `
192.0.2.1:3/TCP inside [10.1.0.5:80] outside [10.1.0.5:80] host port
[::1]:4/TCP inside [[fd00::5]:80] host port
alive 10.1.0.5:80/TCP [fd00::5]:80/TCP
problem host port 1/TCP: 198.51.100.8 is not an address of this node; it is served as soon as it is
problem host port 2/UDP: 2001:db8::8 is not an address of this node; it is served as soon as it is`},
		{"what cannot be served", Node{Own: more.Own}, ips("10.1.0.5"), []PortMapping{
			{HostIP: ip("2001:db8::1"), HostPort: 1, ContainerPort: 80, Protocol: bpf.TCP},
			{HostPort: 0, ContainerPort: 80, Protocol: bpf.TCP},
			{HostPort: 2, ContainerPort: 80, Protocol: bpf.TCP}}, `
127.0.0.1:2/TCP inside [10.1.0.5:80] host port
alive 10.1.0.5:80/TCP
problem host port 1/TCP: the pod has no address of the family of 2001:db8::1
problem host port 0/TCP to 80: 0 is not a port
problem host port 2/TCP: the node has no IPv4 address for it but loopback`},
		{"a pod without address", testNode, nil, []PortMapping{{HostPort: 1, ContainerPort: 80, Protocol: bpf.TCP}}, `
problem host port 1/TCP: the pod has no address`},
	} {
		r := HostPort(tc.node, "uid", tc.pod, tc.at)
		check(t, r)
		if d := cmp.Diff("\n"+r.text(t), tc.want); d != "" {
			t.Errorf("%s: rows (-got +want):\n%s", tc.name, d)
		}
	}
}

// A pod's host port and its Service have a row in `alive` in common.
func TestHostPortAgreesWithService(t *testing.T) {
	svc := Compile(testNode, webService(nil), []*source.EndpointSlice{slice(t, "http TCP 8080", "10.1.0.5 here uid=u")})
	host := HostPort(testNode, "u", ips("10.1.0.5"), []PortMapping{{HostPort: 1, ContainerPort: 8080, Protocol: bpf.TCP}})
	if d := cmp.Diff(host.Alive, svc.Alive, cmp.Comparer(func(a, b bpf.Place) bool { return a == b })); d != "" {
		t.Errorf("rows of alive (-host port +Service):\n%s", d)
	}
	next := HostPort(testNode, "another", ips("10.1.0.5"), []PortMapping{{HostPort: 1, ContainerPort: 8080, Protocol: bpf.TCP}})
	for at, g := range next.Alive {
		if g == svc.Alive[at] {
			t.Errorf("%s: the next pod has the same generation", at)
		}
	}
}
