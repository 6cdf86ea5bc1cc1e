// Package rival builds what Weft is compared with, out of network namespaces: the
// limits (a bare veth pair; plain routing without an overlay) and a peer (bridge,
// kernel VXLAN and iptables, as flannel makes them).
//
// The underlay is the same for all and the same as package cluster's: two nodes joined
// by a bridge in a namespace of its own, MTU 1500.
package rival

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/internal/testnet"
)

// Lab is one built way to go. Its paths are from one client.
type Lab struct {
	Same4, Same6, Cross4, Cross6 load.Path
	// Outside4 begins at a host beside the nodes, and goes through the first node to the
	// pod on the second. Flannel has none.
	Outside4 load.Path
	// Near4 begins there, too, and goes to a pod of the first node; Direct4 goes straight to
	// the second node, and only limits have it.
	Near4, Direct4 load.Path

	bridge *testnet.NS // between the nodes
	hosts  [2]*testnet.NS
	undo   []func() error
}

// Of is a lab that somebody else has built; close removes it.
func Of(close func() error) *Lab { return &Lab{undo: []func() error{close}} }

// Close removes everything.
func (l *Lab) Close() error {
	var errs []error
	for i := len(l.undo) - 1; i >= 0; i-- {
		errs = append(errs, l.undo[i]())
	}
	l.undo = nil
	return errors.Join(errs...)
}

func (l *Lab) ns(name string) (*testnet.NS, error) {
	n, err := testnet.Create("rival-" + name)
	if err != nil {
		return nil, err
	}
	l.undo = append(l.undo, n.Close)
	return n, n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
}

// run runs commands in a namespace, one per line.
func run(ns *testnet.NS, commands string) error {
	for line := range strings.Lines(commands) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if _, err := ns.Output(f[0], f[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// sysctls sets sysctls of a namespace, each as key=value.
func sysctls(ns *testnet.NS, settings ...string) error {
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		if err := ns.Sysctl(key, value); err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	return nil
}

// build makes a lab; a half-made one is removed.
func build(f func(*Lab) error) (*Lab, error) {
	l := &Lab{}
	if err := f(l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Device is a device in a namespace.
type Device struct {
	NS   *testnet.NS
	Name string
}

// Links are both ends of the nodes' links.
func (l *Lab) Links() []Device {
	return []Device{{l.hosts[0], "eth0"}, {l.hosts[1], "eth0"}, {l.bridge, "port1"}, {l.bridge, "port2"}}
}

// Limits makes both limits: Same paths are one veth pair, Cross paths are routed.
func Limits() (*Lab, error) {
	return build(func(l *Lab) error {
		if err := l.pair(); err != nil {
			return err
		}
		return l.routed()
	})
}

// pair is a bare veth pair.
func (l *Lab) pair() error {
	a, err := l.ns("a")
	if err != nil {
		return err
	}
	b, err := l.ns("b")
	if err != nil {
		return err
	}
	if err := testnet.Veth(a, "eth0", b, "eth0", 1500); err != nil {
		return err
	}
	l.Same4 = load.Path{From: a, To: b, Addr: netip.MustParseAddr("10.9.0.2")}
	l.Same6 = load.Path{From: a, To: b, Addr: netip.MustParseAddr("fd09::2")}
	if err := run(a, "ip addr add 10.9.0.1/24 dev eth0\nip addr add fd09::1/64 dev eth0 nodad"); err != nil {
		return err
	}
	return run(b, "ip addr add 10.9.0.2/24 dev eth0\nip addr add fd09::2/64 dev eth0 nodad")
}

// nodes makes two nodes on a bridge: 172.18.0.N and fd18::N.
func (l *Lab) nodes() (nodes [2]*testnet.NS, err error) {
	bridge, err := l.ns("bridge")
	if err != nil {
		return nodes, err
	}
	l.bridge = bridge
	if err := run(bridge, "ip link add br0 type bridge\nip link set br0 up"); err != nil {
		return nodes, err
	}
	for i := range nodes {
		if nodes[i], err = l.ns(fmt.Sprint("node", i+1)); err != nil {
			return nodes, err
		}
		l.hosts[i] = nodes[i]
		port := fmt.Sprint("port", i+1)
		if err := testnet.Veth(bridge, port, nodes[i], "eth0", 1500); err != nil {
			return nodes, err
		}
		if err := run(bridge, "ip link set "+port+" master br0"); err != nil {
			return nodes, err
		}
		if err := sysctls(nodes[i], "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"); err != nil {
			return nodes, err
		}
		if err := run(nodes[i], fmt.Sprintf(`
			ip addr add 172.18.0.%[1]d/24 dev eth0
			ip addr add fd18::%[1]d/64 dev eth0 nodad`, i+1)); err != nil {
			return nodes, err
		}
	}
	return nodes, nil
}

// outside makes a host on the nodes' bridge: 172.18.0.254.
func (l *Lab) outside() (*testnet.NS, error) {
	o, err := l.ns("outside")
	if err != nil {
		return nil, err
	}
	if err := testnet.Veth(l.bridge, "outside", o, "eth0", 1500); err != nil {
		return nil, err
	}
	// It stays with the way through the first node.
	if err := sysctls(o, "net/ipv4/conf/all/accept_redirects=0", "net/ipv4/conf/eth0/accept_redirects=0"); err != nil {
		return nil, err
	}
	return o, errors.Join(run(l.bridge, "ip link set outside master br0"), run(o, "ip addr add 172.18.0.254/24 dev eth0"))
}

// pod makes a namespace whose eth0 is joined to the node's device host.
func (l *Lab) pod(node *testnet.NS, host, a4, a6, gw4, gw6 string, mtu int) (*testnet.NS, error) {
	p, err := l.ns("pod")
	if err != nil {
		return nil, err
	}
	if err := testnet.Veth(node, host, p, "eth0", mtu); err != nil {
		return nil, err
	}
	return p, run(p, fmt.Sprintf(`
		ip addr add %s/24 dev eth0
		ip addr add %s/64 dev eth0 nodad
		ip route add default via %s
		ip route add default via %s`, a4, a6, gw4, gw6))
}

// routed is a pod on each node and plain routes between: no overlay, no firewall.
func (l *Lab) routed() error {
	nodes, err := l.nodes()
	if err != nil {
		return err
	}
	var pods [2]*testnet.NS
	for i, n := range nodes {
		at, other := i+1, 2-i
		if pods[i], err = l.pod(n, "pod", fmt.Sprintf("10.9.%d.2", at), fmt.Sprintf("fd09:%d::2", at),
			fmt.Sprintf("10.9.%d.1", at), fmt.Sprintf("fd09:%d::1", at), 1500); err != nil {
			return err
		}
		if err := run(n, fmt.Sprintf(`
			ip addr add 10.9.%[1]d.1/24 dev pod
			ip addr add fd09:%[1]d::1/64 dev pod nodad
			ip route add 10.9.%[2]d.0/24 via 172.18.0.%[2]d
			ip route add fd09:%[2]d::/64 via fd18::%[2]d`, at, other)); err != nil {
			return err
		}
	}
	l.Cross4 = load.Path{From: pods[0], To: pods[1], Addr: netip.MustParseAddr("10.9.2.2")}
	l.Cross6 = load.Path{From: pods[0], To: pods[1], Addr: netip.MustParseAddr("fd09:2::2")}
	outside, err := l.outside()
	if err != nil {
		return err
	}
	l.Outside4 = load.Path{From: outside, To: pods[1], Addr: l.Cross4.Addr}
	l.Near4 = load.Path{From: outside, To: pods[0], Addr: netip.MustParseAddr("10.9.1.2")}
	l.Direct4 = load.Path{From: outside, To: pods[1], Addr: netip.MustParseAddr("10.9.2.3")}
	if err := run(pods[1], "ip addr add 10.9.2.3/24 dev eth0"); err != nil {
		return err
	}
	return run(outside, "ip route add 10.9.0.0/16 via 172.18.0.1\nip route add 10.9.2.3/32 via 172.18.0.2")
}
