package overlay

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/reconcile"
)

// testDevices makes a veth pair, an external VXLAN device like ours, and
// gateway addresses, and returns the indexes of veth and VXLAN device.
func testDevices(t *testing.T) (veth, vxlan int) {
	t.Helper()
	newNetns(t)
	sh(t, `
		ip link add weft0 type veth peer name p0
		ip link add weft-vxlan type vxlan external dstport 8872
		ip link set weft0 addrgenmode none
		ip link set p0 addrgenmode none
		ip link set weft-vxlan addrgenmode none
		ip link set weft0 up
		ip link set p0 up
		ip link set weft-vxlan arp off up
		ip addr add 10.244.1.1/32 dev weft-vxlan
		ip addr add fd00:244:1::1/128 dev weft-vxlan nodad
		ip addr add 192.0.2.1/24 dev weft0
		ip addr add 2001:db8::1/64 dev weft0 nodad`)
	awaitLocal(t, "fd00:244:1::1", "2001:db8::1")
	return ifindex(t, "weft0"), ifindex(t, "weft-vxlan")
}

// awaitLocal waits until the kernel takes IPv6 addresses as its own: it makes their routes
// a moment after them, in a worker.
func awaitLocal(t *testing.T, addrs ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		local, missing := sh(t, "ip -6 route show table local"), 0
		for _, a := range addrs {
			if !strings.Contains(local, "local "+a+" ") {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("local routes are %s, want %v", local, addrs)
		}
	}
}

func dst(s string) RouteKey { return RouteKey{Dst: netip.MustParsePrefix(s)} }

// testRoutes is one of each kind that we write.
func testRoutes(veth, vxlan int) map[RouteKey]Route {
	gw4, gw6 := addr("10.244.1.1"), addr("fd00:244:1::1")
	own4, own6 := dst("10.244.1.0/24"), dst("fd00:244:1::/64")
	own4.Metric, own6.Metric = MetricUnreachable, MetricUnreachable
	return map[RouteKey]Route{
		dst("10.244.1.5/32"):     {LinkIndex: veth, Src: gw4},
		dst("fd00:244:1::5/128"): {LinkIndex: veth, Src: gw6},
		dst("10.244.2.0/24"):     {LinkIndex: vxlan, Gateway: addr("10.244.2.1"), OnLink: true, Src: gw4, MTU: 1450},
		dst("fd00:244:2::/64"):   {LinkIndex: vxlan, Gateway: linkLocal(NodeMAC(addr("192.0.2.2"))), OnLink: true, Src: gw6, MTU: 1450},
		dst("10.244.3.0/24"):     {LinkIndex: veth, Gateway: addr("192.0.2.3"), OnLink: true, Src: gw4, MTU: 1500},
		dst("fd00:244:3::/64"):   {LinkIndex: veth, Gateway: addr("2001:db8::3"), OnLink: true, Src: gw6, MTU: 1500},
		dst("fd00:244:4::/64"):   {LinkIndex: veth, Gateway: addr("fe80::4"), OnLink: true, Src: gw6, MTU: 1500},
		dst("10.244.5.0/24"):     {LinkIndex: veth, Gateway: addr("2001:db8::5"), OnLink: true, Src: gw4, MTU: 1500},
		own4:                     {Unreachable: true},
		own6:                     {Unreachable: true},
		dst("10.244.66.0/24"):    {Unreachable: true},
		dst("fd00:244:66::/64"):  {Unreachable: true},
	}
}

const foreignRoutes = `
	ip route add 198.51.100.0/24 via 192.0.2.254
	ip route add 10.244.9.0/24 dev weft0 metric 50
	ip route add fd00:244:9::/64 dev weft0
	ip route add 10.244.10.0/24 dev weft0 proto 87 table 100
	ip -6 route add fd00:244:10::/64 dev weft0 proto 87 table 100
	ip route add unreachable 10.99.0.0/16`

// foreign returns all routes of the namespace that are not ours.
func foreign(t *testing.T) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(sh(t, "ip -4 route show table all\nip -6 route show table all")) {
		if !strings.Contains(line, "proto 87") || strings.Contains(line, "table 100") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

func TestRoutesSetDumpDelete(t *testing.T) {
	veth, vxlan := testDevices(t)
	sh(t, foreignRoutes)
	before := foreign(t)
	r := NewRoutes()
	defer r.Close()
	rows := testRoutes(veth, vxlan)
	for range 2 { // idempotent
		for k, v := range rows {
			if err := r.Set(k, v); err != nil {
				t.Errorf("%v: %v", k, err)
			}
		}
	}
	got, err := r.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(got, rows); d != "" {
		t.Errorf("dump (-got +want):\n%s", d)
	}
	for k, want := range rows {
		if v, ok, err := r.Get(k); err != nil || !ok || v != want {
			t.Errorf("get %v: got %+v %v %v, want %+v", k, v, ok, err, want)
		}
	}
	if _, ok, err := r.Get(dst("10.244.77.0/24")); ok || err != nil {
		t.Errorf("get an absent one: %v %v", ok, err)
	}
	for k := range rows {
		for range 2 {
			if err := r.Delete(k); err != nil {
				t.Errorf("%v: %v", k, err)
			}
		}
		if _, ok, err := r.Get(k); ok || err != nil {
			t.Errorf("%v is still there after delete (%v)", k, err)
		}
	}
	if got, err := r.Dump(); err != nil || len(got) != 0 {
		t.Errorf("after delete: got %v %v, want none", got, err)
	}
	if d := diff(foreign(t), before); d != "" {
		t.Errorf("foreign routes changed (-got +want):\n%s", d)
	}
}

func TestRoutesDeleteTakesOnlyItsMetric(t *testing.T) {
	testDevices(t)
	for _, p := range []string{"10.244.1.0/24", "fd00:244:1::/64"} {
		r := NewRoutes()
		defer r.Close()
		own := dst(p)
		own.Metric = MetricUnreachable
		if err := errors.Join(r.Set(own, Route{Unreachable: true}), r.Delete(dst(p))); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := r.Get(own); !ok || err != nil {
			t.Errorf("%s: deleting metric 0 took metric %d (%v)", p, uint32(MetricUnreachable), err)
		}
	}
}

func TestRoutesRefuseToReplaceForeignOnes(t *testing.T) {
	veth, vxlan := testDevices(t)
	sh(t, `
		ip route add 10.244.2.0/24 dev weft0
		ip route add unreachable 10.244.66.0/24
		ip route add fd00:244:2::/64 dev weft0`)
	before := foreign(t)
	r := NewRoutes()
	defer r.Close()
	rows := testRoutes(veth, vxlan)
	for _, p := range []string{"10.244.2.0/24", "10.244.66.0/24", "fd00:244:2::/64"} {
		if err := r.Set(dst(p), rows[dst(p)]); !errors.Is(err, ErrForeign) {
			t.Errorf("set %s: got %v, want %v", p, err, ErrForeign)
		}
		if err := r.Delete(dst(p)); err != nil {
			t.Errorf("delete %s: %v", p, err)
		}
	}
	if d := diff(foreign(t), before); d != "" {
		t.Errorf("foreign routes changed (-got +want):\n%s", d)
	}
}

// What has replaced a route of ours is replaced, whatever it is, and though a former daemon made
// ours; but whoever insists keeps its place, and so does who has come when ours was long gone.
func TestRoutesAreTakenBackOnce(t *testing.T) {
	veth, vxlan := testDevices(t)
	rows := testRoutes(veth, vxlan)
	for _, tt := range []struct{ dst, replace string }{
		{"10.244.1.5/32", "ip route replace 10.244.1.5 dev p0 proto static"},
		{"10.244.1.5/32", "ip route replace 10.244.1.5 dev weft0 src 10.244.1.1 proto static"}, // but for the protocol ours
		{"10.244.1.5/32", "ip route replace blackhole 10.244.1.5"},
		{"10.244.2.0/24", "ip route add 10.244.2.0/28 dev p0\nip route replace unreachable 10.244.2.0/24"},
		{"fd00:244:1::5/128", "ip -6 route replace fd00:244:1::5 dev p0 metric 1024 proto static"},
		{"fd00:244:1::5/128", "ip -6 route replace blackhole fd00:244:1::5"},
	} {
		k := dst(tt.dst)
		former, r := NewRoutes(), NewRoutes()
		defer former.Close()
		defer r.Close()
		if err := former.Set(k, rows[k]); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Dump(); err != nil {
			t.Fatal(err)
		}
		refused := func(when string) {
			before := foreign(t)
			if err := r.Set(k, rows[k]); !errors.Is(err, ErrForeign) {
				t.Errorf("%s, %s: got %v, want %v", tt.replace, when, err, ErrForeign)
			}
			if d := diff(foreign(t), before); d != "" {
				t.Errorf("%s, %s: foreign routes changed (-got +want):\n%s", tt.replace, when, d)
			}
		}
		sh(t, tt.replace)
		if err := r.Set(k, rows[k]); err != nil {
			t.Errorf("%s: %v", tt.replace, err)
		}
		if got, ok, err := r.Get(k); !ok || got != rows[k] {
			t.Errorf("%s: got %+v, %v, want ours again", tt.replace, got, err)
		}
		again := tt.replace[strings.LastIndex(tt.replace, "\n")+1:]
		sh(t, again)
		refused("again")
		clear(r.back)
		r.mine[k] = time.Now().Add(-vacant - time.Second)
		refused("long after")
		if _, err := r.Dump(); err != nil || len(r.mine) > 0 {
			t.Errorf("%s: %v are still ours (%v)", tt.replace, r.mine, err)
		}
		sh(t, strings.Replace(strings.Replace(again, "replace", "del", 1), " proto static", "", 1))
	}
}

func TestRoutesRepairDamage(t *testing.T) {
	veth, vxlan := testDevices(t)
	r := NewRoutes()
	defer r.Close()
	rows := testRoutes(veth, vxlan)
	tab := reconcile.New("routes", r)
	tab.AllowPrune()
	tab.Put("self", rows)
	for _, damage := range []struct{ name, script string }{
		{"nothing", ""},
		{"deleted", "ip route del 10.244.2.0/24 proto 87\nip -6 route del fd00:244:2::/64"},
		{"mtu", "ip route replace 10.244.2.0/24 via 10.244.2.1 dev weft-vxlan onlink src 10.244.1.1 proto 87 mtu 9000"},
		{"mtu, IPv6", "ip route replace fd00:244:2::/64 via fe80::9 dev weft-vxlan onlink src fd00:244:1::1 proto 87 mtu 9000"},
		{"next hop", "ip route replace 10.244.3.0/24 via 192.0.2.99 proto 87"},
		{"next hop, IPv6", "ip route replace fd00:244:3::/64 via 2001:db8::99 proto 87"},
		{"device", "ip route replace 10.244.1.5 dev p0 proto 87\nip route replace fd00:244:1::5 dev p0 proto 87"},
		{"type", "ip route replace blackhole 10.244.1.5 proto 87\nip route replace blackhole fd00:244:1::5 proto 87"},
		{"unreachable", "ip route replace unreachable 10.244.1.5 proto 87\nip route replace unreachable fd00:244:1::5 proto 87"},
		{"other metrics", "ip route replace 10.244.1.5 dev weft0 proto 87 src 10.244.1.1 advmss 100\nip route replace fd00:244:1::5 dev weft0 proto 87 src fd00:244:1::1 hoplimit 3"},
		{"locked mtu", "ip route replace 10.244.2.0/24 via 10.244.2.1 dev weft-vxlan onlink src 10.244.1.1 proto 87 mtu lock 1450"},
		{"two next hops", "ip route replace 10.244.3.0/24 proto 87 nexthop via 192.0.2.9 nexthop via 192.0.2.8\nip -6 route replace fd00:244:3::/64 proto 87 nexthop via 2001:db8::9 nexthop via 2001:db8::8"},
		{"appended", "ip route append 10.244.3.0/24 via 192.0.2.9 proto 87\nip -6 route append fd00:244:3::/64 via 2001:db8::9 proto 87"},
		{"scope", "ip route replace 10.244.1.5 dev weft0 scope host src 10.244.1.1 proto 87"},
		{"replaced by others'", "ip route replace 10.244.1.5 dev p0 proto static\nip -6 route replace fd00:244:1::5 dev p0 metric 1024 proto static"},
		{"left over", "ip route add 10.244.8.0/24 dev weft0 proto 87\nip route add blackhole 10.244.7.0/24 proto 87\nip -6 route add fd00:244:8::/64 dev weft0 proto 87 metric 7\nip route add 10.244.6.0/24 dev weft0 proto 87\nip route append 10.244.6.0/24 dev p0 proto 87"},
		{"prefsrc", "ip addr del fd00:244:1::1/128 dev weft-vxlan\nip addr del 10.244.1.1/32 dev weft-vxlan\nip addr add 10.244.1.1/32 dev weft-vxlan\nip addr add fd00:244:1::1/128 dev weft-vxlan nodad"},
		{"device down and up", "ip link set weft0 down\nip link set weft0 up\nip addr replace 2001:db8::1/64 dev weft0 nodad"},
	} {
		// No subtest: it would run outside the namespace.
		sh(t, damage.script)
		for range 2 { // what was appended is seen by the second
			if err := (reconcile.Group{tab}).Sync(true); err != nil {
				t.Errorf("%s: %v", damage.name, err)
			}
		}
		got, err := r.Dump()
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(got, rows); d != "" {
			t.Errorf("%s (-got +want):\n%s", damage.name, d)
		}
	}
}
