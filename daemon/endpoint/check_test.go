package endpoint

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
)

// damages is every single thing that ADD makes, how to damage it, and what CHECK
// must say of it. HOST and ADDR4, ADDR6 stand for the pod's own.
var damages = []struct {
	name    string
	host    string // a command on the node
	pod     string // a command in the pod
	do      func(n *node, a api.Attach, addrs []netip.Addr)
	finding string
}{
	{name: "interface deleted", pod: "ip link del eth0", finding: "interface eth0 is missing"},
	{name: "interface down", pod: "ip link set eth0 down", finding: "interface eth0 is down"},
	{name: "interface renamed", pod: "ip link set eth0 name eth7", finding: "interface eth0 is missing"},
	{name: "lo down", pod: "ip link set lo down", finding: "interface lo is down"},
	{name: "pod mtu", pod: "ip link set eth0 mtu 1300", finding: "mtu of eth0 is 1300, not 1450"},
	{name: "pod mac", pod: "ip link set eth0 address 02:00:00:00:00:99", finding: "mac of eth0 is 02:00:00:00:00:99"},
	{name: "ipv4 address", pod: "ip addr del ADDR4/32 dev eth0", finding: "address ADDR4 is missing on eth0"},
	{name: "ipv6 address", pod: "ip addr del ADDR6/128 dev eth0", finding: "address ADDR6 is missing on eth0"},
	{name: "ipv4 default route", pod: "ip route del default", finding: "default route via " + gateway4 + " dev eth0 is missing"},
	{name: "ipv6 default route", pod: "ip -6 route del default", finding: "default route via " + gateway6 + " dev eth0 is missing"},
	{name: "route mtu", pod: "ip route change default via " + gateway4 + " dev eth0 proto static mtu 1300", finding: "mtu of default route via " + gateway4 + " is 1300"},
	{name: "ipv4 gateway route", pod: "ip route del " + gateway4 + " dev eth0", finding: "route to gateway " + gateway4},
	{name: "ipv6 gateway route", pod: "ip -6 route del " + gateway6 + " dev eth0", finding: "route to gateway " + gateway6},
	{name: "ipv4 neighbour", pod: "ip neigh del " + gateway4 + " dev eth0", finding: "neighbour of gateway " + gateway4},
	{name: "ipv6 neighbour", pod: "ip neigh del " + gateway6 + " dev eth0", finding: "neighbour of gateway " + gateway6},
	{name: "neighbour's mac", pod: "ip neigh replace " + gateway4 + " lladdr 02:00:00:00:00:01 dev eth0 nud permanent", finding: "neighbour of gateway " + gateway4},
	{name: "router advertisements", pod: "sysctl -q -w net.ipv6.conf.eth0.accept_ra=1", finding: "sysctl net/ipv6/conf/eth0/accept_ra is 1, not 0"},
	{name: "host device renamed", host: "ip link set HOST name foreign0", finding: "host device HOST is missing"},
	{name: "host device down", host: "ip link set HOST down", finding: "host device HOST is down"},
	{name: "host alias", host: "ip link set HOST alias x", finding: `alias of HOST is "x"`},
	{name: "host mtu", host: "ip link set HOST mtu 1400", finding: "mtu of HOST is 1400"},
	{name: "host mac", host: "ip link set HOST address 02:00:00:00:00:98", finding: "mac of HOST is 02:00:00:00:00:98"},
	{name: "host router advertisements", host: "sysctl -q -w net.ipv6.conf.HOST.accept_ra=2", finding: "sysctl net/ipv6/conf/HOST/accept_ra is 2, not 0"},
	{name: "host path filter", host: "sysctl -q -w net.ipv4.conf.HOST.rp_filter=1", finding: "sysctl net/ipv4/conf/HOST/rp_filter is 1, not 0"},
	{name: "host forwarding", host: "sysctl -q -w net.ipv4.conf.HOST.forwarding=0", finding: "sysctl net/ipv4/conf/HOST/forwarding is 0, not 1"},
	{name: "host device enslaved", host: "ip link add foreign-br1 type bridge\nip link set HOST master foreign-br1",
		finding: "host device HOST is in another device"},
	{name: "host ipv4 route", host: "ip route del ADDR4 dev HOST", finding: "host route to ADDR4 dev HOST is missing"},
	{name: "host ipv6 route", host: "ip -6 route del ADDR6 dev HOST", finding: "host route to ADDR6 dev HOST is missing"},
	{name: "host ipv4 neighbour", host: "ip neigh del ADDR4 dev HOST", finding: "host neighbour of ADDR4 on HOST is missing"},
	{name: "host ipv6 neighbour", host: "ip neigh del ADDR6 dev HOST", finding: "host neighbour of ADDR6 on HOST is missing"},
	{name: "what the pod may receive", host: "tc qdisc del dev HOST root", finding: "bandwidth limit of what the pod receives is missing on HOST"},
	{name: "what the pod may send", host: "tc qdisc del dev IFB root", finding: "bandwidth limit of what the pod sends is missing on IFB"},
	{name: "burst of what the pod may receive", host: "tc qdisc change dev HOST root handle 1: tbf rate 80mbit burst 200 limit 300",
		finding: "bandwidth limit of what the pod receives is missing on HOST"},
	{name: "burst of what the pod may send", host: "tc qdisc change dev IFB root handle 1: tbf rate 40mbit burst 100mb limit 100mb",
		finding: "bandwidth limit of what the pod sends is missing on IFB"},
	{name: "peak rate of what the pod may send", host: "tc qdisc change dev IFB root handle 1: tbf rate 40mbit burst 131072 limit 262144 peakrate 41mbit mtu 200",
		finding: "bandwidth limit of what the pod sends is missing on IFB"},
	{name: "another queue in the place of a limit", host: "tc qdisc delete dev HOST root\ntc qdisc add dev HOST root handle 1: pfifo",
		finding: "bandwidth limit of what the pod receives is missing on HOST"},
	{name: "ifb", host: "ip link del IFB", finding: "device IFB, which limits what the pod sends, is missing"},
	{name: "ifb down", host: "ip link set IFB down", finding: "device IFB, which limits what the pod sends, is missing or changed"},
	{name: "redirection", host: "tc qdisc del dev HOST clsact", finding: "redirection of HOST to IFB is missing"},
	{name: "bpf row", finding: "bpf endpoint row of ADDR4 is missing",
		do: func(n *node, _ api.Attach, addrs []netip.Addr) { _ = n.rows.Delete(addrs[0]) }},
	{name: "bpf row's mac", finding: "bpf endpoint row of ADDR6 is {",
		do: func(n *node, _ api.Attach, addrs []netip.Addr) {
			row, _, _ := n.rows.Get(addrs[1])
			row.MAC[5]++
			_ = n.rows.Set(addrs[1], row)
		}},
	{name: "bpf program", finding: "bpf program from_pod is not attached to HOST",
		do: func(n *node, _ api.Attach, _ []netip.Addr) {
			for h := range n.link.m {
				_ = n.link.Delete(h)
			}
		}},
}

func limited(t testing.TB) api.Attach {
	a := attach(t)
	a.Bandwidth = &api.Bandwidth{IngressRate: 80e6, IngressBurst: 1 << 20, EgressRate: 40e6, EgressBurst: 1 << 20}
	return a
}

// fill puts the pod's own names into a command or a finding.
func fill(s string, a api.Attach, addrs []netip.Addr) string {
	o := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	return strings.NewReplacer("HOST", hostName(o), "IFB", ifbName(o), "ADDR4", addrs[0].String(), "ADDR6", addrs[1].String()).Replace(s)
}

func TestCheckNamesEachDamageAndRepairMendsIt(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			n := newNode(t)
			a := limited(t)
			addrs := n.mustAdd(a)
			if err := n.Check(context.Background(), a); err != nil {
				t.Fatalf("check before the damage: %v", err)
			}
			for line := range strings.Lines(d.host) {
				run(t, strings.TrimSpace(fill(line, a, addrs)))
			}
			if d.pod != "" {
				in(t, a.Netns, fill(d.pod, a, addrs))
			}
			if d.do != nil {
				d.do(n, a, addrs)
			}
			err := n.Check(context.Background(), a)
			wantCode(t, err, api.CodeMissing)
			if want := fill(d.finding, a, addrs); !strings.Contains(err.Error(), want) {
				t.Errorf("got %q, want %q in it", err, want)
			}
			o := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
			if err := n.Repair(context.Background(), o); err != nil {
				t.Fatalf("repair: %v", err)
			}
			if err := n.Check(context.Background(), a); err != nil {
				t.Errorf("check after repair: %v", err)
			}
			if got := n.List()[0].State; got != "ok" {
				t.Errorf("state after repair: got %q, want ok", got)
			}
			if err := n.Del(context.Background(), a); err != nil {
				t.Fatal(err)
			}
			n.mustBeClean(a)
		})
	}
}

func TestCheckNamesWhatOnlyTheRuntimeCanMend(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	a := attach(t)
	wantCode(t, n.Check(ctx, a), api.CodeMissing) // never added
	addrs := n.mustAdd(a)
	elsewhere := a
	elsewhere.Netns = newNetns(t)
	if err := n.Check(ctx, elsewhere); err == nil || !strings.Contains(err.Error(), "not the network namespace that was attached") {
		t.Errorf("other namespace: got %v", err)
	}
	gone := a
	gone.Netns += "-not"
	if err := n.Check(ctx, gone); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("no namespace: got %v", err)
	}
	other := a
	other.PrevResult = []byte(`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"` + addrs[0].String() + `/32","interface":0}]}`)
	if err := n.Check(ctx, other); err == nil || !strings.Contains(err.Error(), "reserved address "+addrs[1].String()+" is not in prevResult") {
		t.Errorf("prevResult without an address: got %v", err)
	}
	o := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	if err := n.IPAM.Release(o); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(ctx, a); err == nil || !strings.Contains(err.Error(), "address reservation of") {
		t.Errorf("no reservation: got %v", err)
	}
}

func TestCheckIgnoresWhatOthersAdd(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	addrs := n.mustAdd(a)
	for _, command := range []string{
		"ip addr add 192.0.2.9/24 dev eth0",
		"ip route add 198.51.100.0/24 via " + gateway4,
		"ip link add other type ifb",
		"tc qdisc add dev eth0 root tbf rate 1gbit burst 1mb latency 50ms",
	} {
		in(t, a.Netns, command)
	}
	host := hostName(ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName})
	run(t, "ip route add 203.0.113.0/24 dev "+host)
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("got %v", err)
	}
	// A foreign queueing discipline on the host's end must see the packets.
	run(t, "tc qdisc add dev "+host+" root tbf rate 1gbit burst 1mb latency 50ms")
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("a moment after a foreign qdisc came: got %v", err)
	}
	if err := n.Repair(context.Background(), ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}); err != nil {
		t.Fatal(err)
	}
	if row, _, _ := n.rows.Get(addrs[0]); row.Flags&bpf.EndpointStack == 0 {
		t.Error("row of a pod with a foreign qdisc does not say that the stack must deliver")
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("with foreign qdisc: got %v", err)
	}
	run(t, "tc qdisc del dev "+host+" root")
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("a moment after it went: got %v", err)
	}
}

func TestStatus(t *testing.T) {
	n := newNode(t)
	if err := n.Status(); err != nil {
		t.Errorf("ready node: got %v", err)
	}
	n.net.Ready = errors.New("node has no pod CIDR")
	wantCode(t, n.Status(), api.CodeNotAvailable)
	_, err := n.Add(context.Background(), attach(t))
	wantCode(t, err, api.CodeTryAgain)
	n.net.Ready = nil
	n.mustAdd(attach(t))
	n.net.Ready = os.ErrDeadlineExceeded
	wantCode(t, n.Status(), api.CodeLimited)
}
