package rival

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/internal/testnet"
)

// FlannelName names the peer in reports.
const FlannelName = "bridge+vxlan+iptables"

// Flannel makes what flannel's VXLAN back end and its CNI plugin make: a bridge with
// the pods, a VXLAN device for each family over the outer network of that family, with
// permanent neighbour and forwarding entries, the chains FLANNEL-POSTRTG and
// FLANNEL-FWD, and bridged packets shown to iptables, as Kubernetes wants it for such a
// network. There is no kube-proxy.
func Flannel() (*Lab, error) {
	return build(func(l *Lab) error {
		_, err := l.flannel()
		return err
	})
}

// flannel makes two nodes with pods, and the paths between these.
func (l *Lab) flannel() (nodes [2]*testnet.NS, err error) {
	if nodes, err = l.nodes(); err != nil {
		return nodes, err
	}
	for i, n := range nodes {
		if err := flannelNode(n, i+1, 2-i); err != nil {
			return nodes, err
		}
	}
	client, err := l.flannelPod(nodes[0], 1, 2)
	if err != nil {
		return nodes, err
	}
	same, err := l.flannelPod(nodes[0], 1, 3)
	if err != nil {
		return nodes, err
	}
	cross, err := l.flannelPod(nodes[1], 2, 2)
	if err != nil {
		return nodes, err
	}
	l.Same4 = load.Path{From: client, To: same, Addr: netip.MustParseAddr("10.244.1.3")}
	l.Same6 = load.Path{From: client, To: same, Addr: netip.MustParseAddr("fd00:244:1::3")}
	l.Cross4 = load.Path{From: client, To: cross, Addr: netip.MustParseAddr("10.244.2.2")}
	l.Cross6 = load.Path{From: client, To: cross, Addr: netip.MustParseAddr("fd00:244:2::2")}
	return nodes, nil
}

func flannelNode(n *testnet.NS, at, other int) error {
	if err := sysctls(n, "net/bridge/bridge-nf-call-iptables=1", "net/bridge/bridge-nf-call-ip6tables=1",
		// So that short connections do not fill its connection table.
		"net/netfilter/nf_conntrack_tcp_timeout_time_wait=5", "net/netfilter/nf_conntrack_tcp_timeout_close=5"); err != nil {
		return err
	}
	err := run(n, fmt.Sprintf(`
		ip link add cni0 mtu 1450 type bridge
		ip link set cni0 up
		ip addr add 10.244.%[1]d.1/24 dev cni0
		ip addr add fd00:244:%[1]d::1/64 dev cni0 nodad
		ip link add flannel.1 mtu 1450 address 0e:f1:00:00:00:0%[1]d type vxlan id 1 local 172.18.0.%[1]d dev eth0 dstport 8472 nolearning
		ip link set flannel.1 up
		ip addr add 10.244.%[1]d.0/32 dev flannel.1
		ip neigh add 10.244.%[2]d.0 lladdr 0e:f1:00:00:00:0%[2]d dev flannel.1 nud permanent
		bridge fdb add 0e:f1:00:00:00:0%[2]d dev flannel.1 dst 172.18.0.%[2]d
		ip route add 10.244.%[2]d.0/24 via 10.244.%[2]d.0 dev flannel.1 onlink
		ip link add flannel-v6.1 mtu 1430 address 0e:f6:00:00:00:0%[1]d type vxlan id 1 local fd18::%[1]d dev eth0 dstport 8472 nolearning
		ip link set flannel-v6.1 up
		ip addr add fd00:244:%[1]d::/128 dev flannel-v6.1 nodad
		ip neigh add fd00:244:%[2]d:: lladdr 0e:f6:00:00:00:0%[2]d dev flannel-v6.1 nud permanent
		bridge fdb add 0e:f6:00:00:00:0%[2]d dev flannel-v6.1 dst fd18::%[2]d
		ip route add fd00:244:%[2]d::/64 via fd00:244:%[2]d:: dev flannel-v6.1 onlink`, at, other))
	if err != nil {
		return err
	}
	for _, f := range []struct{ tool, cluster, pods, multicast string }{
		{"iptables", "10.244.0.0/16", fmt.Sprintf("10.244.%d.0/24", at), "224.0.0.0/4"},
		{"ip6tables", "fd00:244::/32", fmt.Sprintf("fd00:244:%d::/64", at), "ff00::/8"},
	} {
		if err := run(n, fmt.Sprintf(`
			%[1]s -w -t nat -N FLANNEL-POSTRTG
			%[1]s -w -t nat -A POSTROUTING -j FLANNEL-POSTRTG
			%[1]s -w -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
			%[1]s -w -t nat -A FLANNEL-POSTRTG -s %[3]s -d %[2]s -j RETURN
			%[1]s -w -t nat -A FLANNEL-POSTRTG -s %[2]s -d %[3]s -j RETURN
			%[1]s -w -t nat -A FLANNEL-POSTRTG ! -s %[2]s -d %[3]s -j RETURN
			%[1]s -w -t nat -A FLANNEL-POSTRTG -s %[2]s ! -d %[4]s -j MASQUERADE --random-fully
			%[1]s -w -t nat -A FLANNEL-POSTRTG ! -s %[2]s -d %[2]s -j MASQUERADE --random-fully
			%[1]s -w -N FLANNEL-FWD
			%[1]s -w -A FORWARD -j FLANNEL-FWD
			%[1]s -w -A FLANNEL-FWD -s %[2]s -j ACCEPT
			%[1]s -w -A FLANNEL-FWD -d %[2]s -j ACCEPT`, f.tool, f.cluster, f.pods, f.multicast)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) flannelPod(n *testnet.NS, node, number int) (*testnet.NS, error) {
	host := fmt.Sprint("veth", number)
	p, err := l.pod(n, host, fmt.Sprintf("10.244.%d.%d", node, number), fmt.Sprintf("fd00:244:%d::%d", node, number),
		fmt.Sprintf("10.244.%d.1", node), fmt.Sprintf("fd00:244:%d::1", node), 1450)
	if err != nil {
		return nil, err
	}
	// What IPv6 sends to other nodes must fit its own VXLAN device.
	if err := p.IP("-6", "route", "change", "default", "via", fmt.Sprintf("fd00:244:%d::1", node), "dev", "eth0", "mtu", "1430"); err != nil {
		return nil, err
	}
	return p, run(n, "ip link set "+host+" master cni0\nbridge link set dev "+host+" hairpin on")
}
