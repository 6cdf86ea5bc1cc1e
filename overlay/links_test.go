package overlay

import (
	"testing"
)

func TestLinksAndTheAddressesOnThem(t *testing.T) {
	newNetns(t)
	sh(t, `
		ip link add up0 type veth peer name far0
		ip link add up1 type veth peer name far1
		ip link add weft1 type veth peer name far2
		ip link add idle0 type veth peer name far3
		ip link set lo up
		ip link set up0 up
		ip link set up1 up
		ip link set weft1 up
		ip link set idle0 up
		ip link set far0 up
		ip link set far1 up
		ip link set far2 up
		ip link set far3 up
		ip addr add 10.1.0.5/16 dev up0
		ip addr add 10.1.2.5/24 dev up1
		ip addr add 10.9.0.1/32 dev idle0
		ip addr add fd01::5/64 dev up1 nodad
		ip addr add 10.3.0.1/24 dev weft1
		ip route add default via 10.1.0.1
		ip -6 route add default via fd01::1`)
	links, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if l.MAC == [6]byte{} {
			t.Errorf("%s has no MAC", l.Name)
		}
		names = append(names, l.Name)
	}
	if d := diff(names, []string{"up0", "up1"}); d != "" {
		t.Fatalf("links (-got +want):\n%s", d)
	}
	for to, want := range map[string]string{
		"10.1.9.9": "up0", "10.1.2.9": "up1", "192.0.2.1": "up0",
		"fd01::9": "up1", "2001:db8::1": "up1",
	} {
		if got, ok := LinkOf(links, addr(to)); !ok || got.Name != want {
			t.Errorf("%s is on %q, want %s", to, got.Name, want)
		}
	}
	if l, ok := LinkOf(links[:1], addr("2001:db8::1")); ok {
		t.Errorf("an address without a way is on %s", l.Name)
	}
}

func TestLinkName(t *testing.T) {
	for index, want := range map[int]string{1: "lo", 1 << 30: "", 0: ""} {
		if got := LinkName(index); got != want {
			t.Errorf("LinkName(%d): got %q, want %q", index, got, want)
		}
	}
}
