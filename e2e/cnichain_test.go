package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/e2e/cluster"
)

// A cluster of one family gives addresses of that family only, and makes nothing of
// the other.
func TestOneFamily(t *testing.T) {
	for _, tt := range []struct {
		family   cluster.Family
		flush    string
		absent   string // program that lists the other family's chains
		wantAddr string
	}{
		{cluster.V4, "-4", "ip6tables-save", "10.244.1."},
		{cluster.V6, "-6", "iptables-save", "fd00:244:1::"},
	} {
		t.Run(tt.family.String(), func(t *testing.T) {
			t.Parallel()
			c := start(t, cluster.Spec{Pods: tt.family, Outer: tt.family})
			n := c.Nodes[0]
			for _, version := range cniVersions {
				p := newPod(t, n, version)
				add := callPod("ADD", p)
				add.Version = version
				a := call(t, n, add).succeed(t)
				var r struct{ IPs []struct{ Address string } }
				if err := json.Unmarshal(a.Stdout, &r); err != nil {
					t.Fatal(err)
				}
				if len(r.IPs) != 1 || !strings.HasPrefix(r.IPs[0].Address, tt.wantAddr) {
					t.Errorf("version %s: result is\n%s", version, a.Stdout)
				}
				check := callPod("CHECK", p).with("prevResult", a.prev())
				check.Version = version
				if version != "0.3.1" {
					call(t, n, check).succeed(t)
				}
				call(t, n, callPod("DEL", p)).succeed(t)
				freed(t, n, p.ID)
			}
			out, err := n.NS.Output(tt.absent)
			if err != nil || strings.Contains(out, "WEFT") {
				t.Errorf("%s: %v\n%s", tt.absent, err, out)
			}
		})
	}
}

// Behind another plugin in a chain, Weft keeps what that one said and adds its own.
func TestAddInAChain(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	p := newPod(t, n, "p")
	if err := p.NS.IP("link", "add", "net0", "type", "bridge"); err != nil {
		t.Fatal(err)
	}
	prev := map[string]any{
		"cniVersion": "1.1.0",
		"interfaces": []any{map[string]any{"name": "net0", "mac": "02:00:00:00:00:01", "sandbox": p.NS.Path()}},
		"ips":        []any{map[string]any{"address": "192.0.2.9/24", "interface": 0}},
		"dns":        map[string]any{"nameservers": []string{"192.0.2.53"}},
	}
	a := call(t, n, callPod("ADD", p).with("prevResult", prev)).succeed(t)
	var r types100.Result
	if err := json.Unmarshal(a.Stdout, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Interfaces) != 3 || r.Interfaces[0].Name != "net0" || len(r.IPs) != 3 || *r.IPs[0].Interface != 0 ||
		*r.IPs[1].Interface != 2 || r.Interfaces[2].Name != "eth0" || len(r.DNS.Nameservers) != 1 {
		t.Errorf("result is\n%s", a.Stdout)
	}
	call(t, n, callPod("CHECK", p).with("prevResult", a.prev())).succeed(t)
	call(t, n, callPod("DEL", p).with("prevResult", a.prev())).succeed(t)
	freed(t, n, p.ID)
	if err := p.NS.IP("link", "show", "net0"); err != nil {
		t.Errorf("the other plugin's interface: %v", err)
	}
}

// A container may be attached twice, by two interfaces. The routes of the first stay in
// force, so it is the first's addresses that others reach.
func TestTwoInterfaces(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	p := addPod(t, n, "p")
	second := callPod("ADD", p)
	second.IfName = "net1"
	a := call(t, n, second).succeed(t)
	check := second.with("prevResult", a.prev())
	check.Verb = "CHECK"
	call(t, n, check).succeed(t)
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("CHECK of the first after ADD of the second: %v", err)
	}
	second.Verb = "DEL"
	call(t, n, second).succeed(t)
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("CHECK of the first after DEL of the second: %v", err)
	}
	near := addPod(t, n, "near")
	for i := range p.Addrs() {
		answers(t, "first interface", p.NS, near.NS, near.Addrs()[i], p.Addrs()[i])
	}
}
