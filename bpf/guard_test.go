package bpf

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Rules of the tests.
var (
	allowAll = Rule{Last: 65535, Index: RuleNone, Verdict: Allow}
	denyAll  = Rule{Last: 65535, Index: 77, Verdict: Deny}
)

func allowPort(p Protocol, port uint16) Rule {
	return Rule{First: port, Last: port, Index: 5, Protocol: p, Verdict: Allow}
}

// rules writes those of a set and class.
func (d *Datapath) rules(t testing.TB, set RuleSet, class Class, rules ...Rule) {
	t.Helper()
	for block := 0; ; block++ {
		var row RuleRow
		n := copy(row[:], rules)
		rules = rules[n:]
		must(t, d.Rules().Set(RuleKey{set, class, uint32(block)}, row))
		if n < len(row) {
			return
		}
	}
}

// class names single addresses.
func (d *Datapath) class(t testing.TB, c Class, of ...netip.Addr) {
	t.Helper()
	for _, a := range of {
		must(t, d.Classes().Set(netip.PrefixFrom(a, a.BitLen()), c))
	}
}

// isolate gives a pod's row its sets, as a daemon does: flows are judged again.
func (d *Datapath) isolate(t testing.TB, a netip.Addr, ingress, egress RuleSet) {
	t.Helper()
	e, ok, err := endpoints{d}.Get(a)
	must(t, err)
	if !ok {
		t.Fatalf("no endpoint %s", a)
	}
	e.Ingress, e.Egress = ingress, egress
	must(t, d.Endpoints().Set(a, e))
	must(t, d.Rejudge())
}

// allowedIn says in which map the row of a pod's flow is, and its flags.
func (d *Datapath) allowedIn(t testing.TB, p Protocol, local, remote netip.AddrPort) (string, uint32) {
	t.Helper()
	k := weftTuple{Src: toAddr(local.Addr()), Dst: toAddr(remote.Addr()), Sport: local.Port(), Dport: remote.Port(), Proto: uint8(p)}
	name, flags := "", uint32(0)
	if row, ok, err := get[weftTuple, weftAllowed](d, weftMapAllowed, k); err != nil {
		t.Fatal(err)
	} else if ok {
		name, flags = weftMapAllowed, row.Flags
	}
	if row, ok, err := d.inAllowedNew(&k); err != nil {
		t.Fatal(err)
	} else if ok {
		name, flags = name+weftMapAllowedNew, row.Flags
	}
	return name, flags
}

// changeAllowedNew changes the sets of `allowed_new`, while no program runs.
func (d *Datapath) changeAllowedNew(t testing.TB, change func(*weftAllowedSet)) {
	t.Helper()
	m := d.maps[weftMapAllowedNew]
	must(t, scan(d, weftMapAllowedNew, func(at *uint32, set *weftAllowedSet) {
		old := *set
		if *at != m.MaxEntries()-1 {
			change(set)
		}
		if *set != old {
			must(t, m.Put(at, set))
		}
	}))
}

// age makes all allowed flows as old as if nothing had passed for so long.
func (d *Datapath) age(t testing.TB, by time.Duration) {
	t.Helper()
	rows := map[weftTuple]weftAllowed{}
	must(t, scan(d, weftMapAllowed, func(k *weftTuple, v *weftAllowed) { rows[*k] = *v }))
	for k, v := range rows {
		v.Seen -= uint32(by / flowTick)
		must(t, d.maps[weftMapAllowed].Put(&k, &v))
	}
	d.changeAllowedNew(t, func(set *weftAllowedSet) {
		for i := range set.Slot {
			if set.Tag[i] != 0 {
				set.Slot[i].Row.Seen -= uint32(by / flowTick)
			}
		}
	})
}

// runFrom runs a program on a packet that came in by a device.
func (d *Datapath) runFrom(t testing.TB, p Program, device uint32, in []byte) (verdict uint32, out []byte) {
	t.Helper()
	o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: skbContext{IngressIfindex: device}}
	verdict, err := d.programs[p].Run(&o)
	if err != nil {
		t.Fatalf("run %s on %d bytes: %v", p, len(in), err)
	}
	return verdict, o.DataOut
}

// deliver gives a packet that came in by a device (0: the node's own) to to_pod.
func (d *Datapath) deliver(t testing.TB, device uint32, packet []byte) uint32 {
	t.Helper()
	verdict, _ := d.runFrom(t, ToPod, device, ethernet(mac{2}, mac{4}, ethType(packet), packet))
	return verdict
}

// uplink is the device that packets of others come in by.
const uplink = 9

// step is a packet and whether it is to pass.
type step struct {
	what   string
	passes bool
	send   func() uint32
}

// walkThrough takes steps in their order; what does not pass is dropped and counted once.
func (d *Datapath) walkThrough(t *testing.T, reason string, steps []step) {
	t.Helper()
	for i, s := range steps {
		before := d.counts(t)["drop "+reason]
		verdict := s.send()
		dropped := d.counts(t)["drop "+reason] - before
		if got := verdict != tcxDrop; got != s.passes || got == (dropped == 1) {
			t.Errorf("step %d, %s: verdict %d and %d drops by %s, want it to pass: %v (counters %v)",
				i, s.what, int32(verdict), dropped, reason, s.passes, d.counts(t))
		}
	}
}

// families runs a test of lanes with both of IP, with a backend here and there.
func families(t *testing.T, f func(t *testing.T, p *lane)) {
	for _, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%v far=%v", v6, far), func(t *testing.T) { f(t, newLane(t, v6, far)) })
		}
	}
}

// there and back are packets between the client and the backend, none of a Service.
func (p *lane) there(t testing.TB, proto Protocol, flags byte) uint32 {
	t.Helper()
	verdict, _ := p.send(t, datagram(proto, p.client, p.backend, 64, flags, load))
	return verdict
}

func (p *lane) back(t testing.TB, proto Protocol, flags byte) uint32 {
	t.Helper()
	verdict, _ := p.answer(t, datagram(proto, p.backend, p.client, 64, flags, load))
	return verdict
}

// load is as long as a header of SCTP, behind the ports.
var load = []byte("some bytes of data")
