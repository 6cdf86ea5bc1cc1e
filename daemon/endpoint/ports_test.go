package endpoint

import (
	"context"
	"errors"
	"testing"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
)

func TestHostPortsAreToldInTime(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	a.PodUID, a.PortMappings = "u1", []api.PortMapping{{HostPort: 8080, ContainerPort: 80}}
	owner := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	var told []Ports
	n.ports = func(p Ports) error {
		if _, leased := n.IPAM.Get(owner); !leased {
			t.Errorf("told %+v when the address is another's to have", p)
		}
		told = append(told, p)
		return nil
	}
	last := func(what string, mappings int) {
		t.Helper()
		if len(told) == 0 {
			t.Fatalf("%s: not told", what)
		}
		p := told[len(told)-1]
		if len(p.Mappings) != mappings || p.ContainerID != a.ContainerID || p.IfName != a.IfName {
			t.Errorf("%s: told %+v, want %d ports", what, p, mappings)
		}
		if mappings > 0 && (len(p.Addrs) != 2 || p.PodUID != "u1" || p.PodName != a.PodName || p.PodNamespace != a.PodNamespace) {
			t.Errorf("%s: told of %+v", what, p)
		}
		told = nil
	}
	ctx := context.Background()
	n.mustAdd(a)
	last("add", 1)

	n.reset()
	n.start(pools...)
	if err := n.Restore(ctx); err != nil {
		t.Fatal(err)
	}
	last("restart", 1)

	serve := n.ports
	n.ports = func(Ports) error { return errors.New("the map cannot be written") }
	wantCode(t, n.Del(ctx, a), api.CodeTryAgain)
	if _, leased := n.IPAM.Get(owner); !leased {
		t.Error("its address is released while others are sent there")
	}
	n.ports = serve
	if err := n.Del(ctx, a); err != nil {
		t.Fatal(err)
	}
	last("del", 0)

	n.ports = func(p Ports) error {
		if len(p.Mappings) > 0 {
			return errors.New("the map is full")
		}
		return nil
	}
	b := attach(t)
	b.PortMappings = a.PortMappings
	_, err := n.Add(ctx, b)
	wantCode(t, err, api.CodeTryAgain)
	if left := n.IPAM.Leases(); len(left) != 0 {
		t.Errorf("an ADD that failed leaves %v", left)
	}
}

// The device may go while no daemon runs; what makes it anew must not forget the ports.
func TestHostPortsOutliveTheirDevice(t *testing.T) {
	n := newNode(t)
	alive, dead := attach(t), attach(t)
	served := map[string]int{}
	n.ports = func(p Ports) error {
		served[p.ContainerID] = len(p.Mappings)
		return nil
	}
	for _, a := range []*api.Attach{&alive, &dead} {
		a.PortMappings = []api.PortMapping{{HostPort: 8080, ContainerPort: 80}}
		n.mustAdd(*a)
		run(t, "ip link del "+hostName(ownerOfAttach(*a)))
	}
	endNetns(t, dead.Netns)
	clear(served)
	n.restart()
	if err := n.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), alive); err != nil {
		t.Fatalf("the pod was not repaired: %v", err)
	}
	if served[alive.ContainerID] != 1 || served[dead.ContainerID] != 0 {
		t.Errorf("host ports by container: %v, want those of %s alone", served, alive.ContainerID)
	}
}
