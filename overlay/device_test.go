package overlay

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testDevice() DeviceSpec {
	return DeviceSpec{MAC: NodeMAC(netip.MustParseAddr("192.0.2.1")), MTU: 1450, Port: DefaultPort}
}

func checkDevice(t *testing.T, d *Device, want map[string]DeviceSpec) {
	t.Helper()
	got, err := d.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Fatalf("got - want +\n%s", d)
	}
}

func TestDeviceIsMadeRepairedAndDeleted(t *testing.T) {
	newNetns(t)
	d, want := NewDevice(DeviceName), testDevice()
	rows := map[string]DeviceSpec{DeviceName: want}
	checkDevice(t, d, map[string]DeviceSpec{})
	for range 2 {
		if err := d.Set(DeviceName, want); err != nil {
			t.Fatal(err)
		}
		checkDevice(t, d, rows)
	}
	out := sh(t, "ip -d link show dev weft-vxlan")
	for _, s := range []string{"NOARP", "UP", "external", "dstport 8872", "nolearning", "udp6zerocsumtx", "udp6zerocsumrx", "addrgenmode none", "alias weft:overlay", "mtu 1450"} {
		if !strings.Contains(out, s) {
			t.Errorf("ip shows no %s:\n%s", s, out)
		}
	}
	if out := sh(t, "ip addr show dev weft-vxlan"); strings.Contains(out, "inet") {
		t.Errorf("the kernel gave it an address:\n%s", out)
	}
	// Both outer families at once: one socket each.
	if out := sh(t, "cat /proc/thread-self/net/udp /proc/thread-self/net/udp6"); strings.Count(out, ":22A8 ") != 2 {
		t.Errorf("want an IPv4 and an IPv6 socket of port 8872, got\n%s", out)
	}

	damage := []struct {
		name, cmds string
		anew       bool
	}{
		{"MAC", "ip link set weft-vxlan address 02:00:00:00:00:01", false},
		{"MTU", "ip link set weft-vxlan mtu 1300", false},
		{"down", "ip link set weft-vxlan down", false},
		{"ARP", "ip link set weft-vxlan arp on", false},
		{"addrgenmode", "ip link set weft-vxlan addrgenmode eui64", false},
		{"in a bridge", "ip link add br0 type bridge\nip link set weft-vxlan master br0", false},
		{"deleted", "ip link del weft-vxlan", true},
		{"renamed", "ip link set weft-vxlan down\nip link set weft-vxlan name x\nip link set x up", true},
		{"port", "ip link del weft-vxlan\nip link add weft-vxlan type vxlan external dstport 4789\nip link set weft-vxlan alias weft:overlay", true},
		{"VNI in place of external", "ip link del weft-vxlan\nip link add weft-vxlan type vxlan id 87 dstport 8872\nip link set weft-vxlan alias weft:overlay", true},
		{"type", "ip link del weft-vxlan\nip link add weft-vxlan type bridge\nip link set weft-vxlan alias weft:overlay", true},
		{"checksums", "ip link del weft-vxlan\nip link add weft-vxlan type vxlan external dstport 8872\nip link set weft-vxlan alias weft:overlay", true},
	}
	for _, tt := range damage {
		was := ifindex(t, DeviceName)
		sh(t, tt.cmds)
		got, err := d.Dump()
		if err != nil {
			t.Fatal(err)
		}
		if got[DeviceName] == want {
			t.Errorf("%s: not seen", tt.name)
		}
		if err := d.Set(DeviceName, want); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		checkDevice(t, d, rows)
		if now := ifindex(t, DeviceName); (now != was) != tt.anew {
			t.Errorf("%s: device %d became %d, want a new one: %v", tt.name, was, now, tt.anew)
		}
	}
	for range 2 {
		if err := d.Delete(DeviceName); err != nil {
			t.Fatal(err)
		}
		checkDevice(t, d, map[string]DeviceSpec{})
	}
	if _, err := net.InterfaceByName(DeviceName); err == nil {
		t.Error("it is still there")
	}
}

func TestDeviceMadeWithoutAliasIsOurs(t *testing.T) {
	newNetns(t)
	want := testDevice()
	d := NewDevice(DeviceName)
	if _, err := d.create(want); err != nil { // and then we died
		t.Fatal(err)
	}
	odd := want
	odd.Odd = true
	checkDevice(t, d, map[string]DeviceSpec{DeviceName: odd})
	if err := d.Set(DeviceName, want); err != nil {
		t.Fatal(err)
	}
	checkDevice(t, d, map[string]DeviceSpec{DeviceName: want})
}

func TestForeignDeviceIsLeftAlone(t *testing.T) {
	for _, typ := range []string{"bridge", "vxlan id 87 dstport 8872", "vxlan external dstport 8872"} {
		t.Run(typ, func(t *testing.T) {
			newNetns(t)
			sh(t, "ip link add weft-vxlan type "+typ)
			was := ifindex(t, DeviceName)
			d := NewDevice(DeviceName)
			checkDevice(t, d, map[string]DeviceSpec{})
			if err := d.Set(DeviceName, testDevice()); !errors.Is(err, ErrForeign) {
				t.Errorf("got %v, want ErrForeign", err)
			}
			if err := d.Delete(DeviceName); err != nil {
				t.Error(err)
			}
			if now := ifindex(t, DeviceName); now != was {
				t.Errorf("device %d became %d", was, now)
			}
		})
	}
}

func TestDevicePortInUseIsSaid(t *testing.T) {
	newNetns(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: DefaultPort})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d := NewDevice(DeviceName)
	if err := d.Set(DeviceName, testDevice()); err == nil || !strings.Contains(err.Error(), "UDP port 8872") {
		t.Errorf("got %v, want an error that names the port", err)
	}
	conn.Close()
	if err := d.Set(DeviceName, testDevice()); err != nil {
		t.Error(err)
	}
	sh(t, "ip link del weft-vxlan\nip link add other type vxlan external dstport 8872 udp6zerocsumrx udp6zerocsumtx nolearning")
	if err := d.Set(DeviceName, testDevice()); err == nil || !strings.Contains(err.Error(), "UDP port 8872") {
		t.Errorf("got %v, want an error that names the port", err)
	}
}
