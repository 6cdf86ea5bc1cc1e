package bpf

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// However long drops go on, and whenever they end, none of their records stays in the ring
// until another drop. (One that came without a word after the reader has looked would.)
func TestNoRecordWaitsForAnotherDrop(t *testing.T) {
	t.Parallel()
	d := newUncheckedNode(t, 1, Options{RecordRate: 1 << 20})
	r, err := d.Records()
	must(t, err)
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var read atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			records, err := r.Read(ctx)
			if err != nil {
				return
			}
			read.Add(uint64(len(records)))
		}
	}()
	spoofed := ethernet(noMAC, d.podMAC, ethIPv4, header{src: addr("192.0.2.99"), dst: d.sib4, proto: protoUDP}.packet(udp(1, 2, nil)))
	sent := uint64(0)
	for last := recordsEvery; last < 2*recordsEvery; last += recordsEvery / 16 {
		for end := time.Now().Add(last); time.Now().Before(end); sent++ {
			d.run(t, FromPod, spoofed, 0)
		}
		for deadline := time.Now().Add(2 * time.Second); read.Load()+r.Lost() != sent; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after drops for %s: %d records read and %d lost of %d", last, read.Load(), r.Lost(), sent)
			}
		}
	}
	cancel()
	<-done
}
