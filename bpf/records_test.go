package bpf

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// allDrops counts what was dropped or rejected, by reason.
func allDrops(t testing.TB, d *Datapath) (by map[string]uint64, all uint64) {
	t.Helper()
	counters, err := d.Counters()
	must(t, err)
	by = map[string]uint64{}
	for _, c := range counters {
		if c.Kind != "stack" && c.Count > 0 {
			by[c.Reason] = c.Count
			all += c.Count
		}
	}
	return by, all
}

// recordsDrops checks at the end of a test that each drop of it was recorded once, with
// its reason, or counted as left out.
func recordsDrops(t testing.TB, d *Datapath) {
	t.Helper()
	before, _ := allDrops(t, d)
	r, err := d.Records()
	must(t, err)
	t.Cleanup(func() {
		defer r.Close()
		got := map[string]uint64{}
		now, all := allDrops(t, d)
		for _, record := range recordsNow(t, r) {
			got[record.Reason]++
		}
		if len(before) > 0 { // maps of a former datapath
			return
		}
		var sum uint64
		for _, n := range got {
			sum += n
		}
		if lost := r.Lost(); sum+lost != all {
			t.Errorf("%d records and %d left out of %d drops", sum, lost, all)
		} else if lost == 0 && !cmp.Equal(got, now) {
			t.Errorf("records by reason are not the counters (-records +counters):\n%s", cmp.Diff(got, now))
		}
	})
}

// recordsNow is the records that are there now.
func recordsNow(t testing.TB, r *Records) (list []Record) {
	t.Helper()
	r.reader.SetDeadline(time.Now())
	for {
		if err := r.reader.ReadInto(&r.raw); err != nil {
			return list
		}
		got, err := r.parse(r.raw.RawSample)
		must(t, err)
		list = append(list, got)
	}
}

func TestRecordsTellWhatPolicyDropped(t *testing.T) {
	d := newUncheckedNode(t, 1, Options{})
	r, err := d.Records()
	must(t, err)
	defer r.Close()
	const set, index = 4711, 3
	must(t, d.Rules().Set(RuleKey{Set: set}, RuleRow{{Last: 65535, Index: index, Protocol: UDP, Verdict: Deny}}))
	rows, err := d.Endpoints().Dump()
	must(t, err)
	for _, a := range []netip.Addr{d.sib4, d.sib6} {
		e := rows[a]
		e.Ingress = set
		must(t, d.Endpoints().Set(a, e))
	}
	for _, h := range []header{{src: d.pod4, dst: d.sib4, proto: protoUDP}, {src: d.pod6, dst: d.sib6, proto: protoUDP}} {
		body := udp(1000, 2000, []byte("payload"))
		before := time.Now()
		if verdict, _ := d.run(t, FromPod, ethernet(noMAC, d.podMAC, h.ethType(), h.packet(body)), 0); verdict != tcxDrop {
			t.Fatalf("%s to %s: got verdict %d, want a drop", h.src, h.dst, verdict)
		}
		got := recordsNow(t, r)
		if len(got) != 1 {
			t.Fatalf("got %d records of one drop", len(got))
		}
		if off := got[0].Time.Sub(before).Abs(); off > 5*time.Second {
			t.Errorf("the time of the drop is off by %s", off)
		}
		got[0].Time = time.Time{}
		src, dst := netip.AddrPortFrom(h.src, 1000), netip.AddrPortFrom(h.dst, 2000)
		want := Record{
			Reason: "policy-ingress", IfIndex: loopback, Length: len(h.packet(body)),
			Packet: Packet{Src: src, Dst: dst, Protocol: UDP},
			Set:    set, Rule: index, Ingress: true, Local: dst, Remote: src, Protocol: UDP,
		}
		if diff := cmp.Diff(got[0], want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("record (-got +want):\n%s", diff)
		}
	}
}

func TestRecordsAreLimitedAndTheRestIsCounted(t *testing.T) {
	d := newUncheckedNode(t, 1, Options{RecordRate: 80})
	r, err := d.Records()
	must(t, err)
	defer r.Close()
	spoofed := ethernet(noMAC, d.podMAC, ethIPv4, header{src: addr("192.0.2.99"), dst: d.sib4, proto: protoUDP}.packet(udp(1, 2, nil)))
	const sent = 5000
	for range sent {
		d.run(t, FromPod, spoofed, 0)
	}
	got := uint64(len(recordsNow(t, r)))
	if lost := r.Lost(); got+lost != sent || got == 0 || lost == 0 {
		t.Errorf("got %d records and %d left out of %d drops, want some of both and no other", got, lost, sent)
	}
}

func TestProcessorsShareTheLimitOfRecords(t *testing.T) {
	const limit = 10 // in a part of time
	d := newUncheckedNode(t, 1, Options{RecordRate: 80})
	r, err := d.Records()
	must(t, err)
	defer r.Close()
	spoofed := ethernet(noMAC, d.podMAC, ethIPv4, header{src: addr("192.0.2.99"), dst: d.sib4, proto: protoUDP}.packet(udp(1, 2, nil)))
	begin := time.Now()
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for time.Since(begin) < 10*recordsEvery {
				if _, _, err := d.programs[FromPod].Benchmark(spoofed, 1000, nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	parts := uint64(time.Since(begin)>>27) + 2
	got := uint64(len(recordsNow(t, r)))
	_, sent := allDrops(t, d.Datapath) // a run that is interrupted begins anew
	// Those that begin a part at the same time may let some more pass.
	if most := parts * (limit + limit/2); got > most || got+r.Lost() != sent {
		t.Errorf("got %d records and %d left out of %d drops in %d parts of time, want at most %d records", got, r.Lost(), sent, parts, most)
	}
}

func TestReadWaitsForRecords(t *testing.T) {
	d := newUncheckedNode(t, 1, Options{})
	r, err := d.Records()
	must(t, err)
	defer r.Close()
	got := make(chan Record, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		for {
			records, err := r.Read(ctx)
			if err != nil {
				done <- err
				return
			}
			for _, record := range records {
				got <- record
			}
		}
	}()
	frame := func(port int) []byte {
		return ethernet(noMAC, d.podMAC, ethIPv4, header{src: addr("192.0.2.99"), dst: d.sib4, proto: protoUDP}.packet(udp(port, 2, nil)))
	}
	for port := 1; port <= 3; port++ { // one that wakes the reader up, one that does not
		d.run(t, FromPod, frame(port), 0)
		select {
		case record := <-got:
			if record.Packet.Src.Port() != uint16(port) || record.Reason != "spoofed-address" {
				t.Errorf("got %+v, want that of port %d", record, port)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no record of drop %d", port)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v at the end, want that of the context", err)
	}
}
