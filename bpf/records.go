package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Record is one packet that was dropped, or rejected.
type Record struct {
	Time    time.Time
	Reason  string // as in [Counter]
	IfIndex uint32 // of the device whose program dropped it
	Length  int    // bytes, from the IP header
	Packet  Packet // as it was at that time

	// Of what a policy dropped; Set is 0 if none did.
	Set      RuleSet
	Rule     uint16 // index of the rule in the set; RuleNone: no rule lets it pass
	Ingress  bool   // what the local end is sent; else what it sends
	Local    netip.AddrPort
	Remote   netip.AddrPort // the other end as policies see it: a backend, not its Service
	Protocol Protocol
}

// Records reads what the programs tell of the packets that they drop. They tell of some
// 1000 a second, and count those left out.
type Records struct {
	reader *ringbuf.Reader
	lost   *ebpf.Map
	port   uint16 // of the overlay
	boot   time.Time
	raw    ringbuf.Record
	batch  []Record
	waits  bool // without a deadline: the last look, a part of time long, found nothing
	found  bool // a record since that look began
	once   sync.Once
}

// recordsEvery is longer than a part of time in src/record.h (2^27 ns, and a tick of the
// coarse clock): only the first record of each wakes the reader up. If there was none for
// so long, then no other of the same part can follow, and the next one will wake it up.
const recordsEvery = 150 * time.Millisecond

// recordsPause is how long records gather once the ring is empty: one by one, in a flood of
// drops, each would cost a system call.
const recordsPause = 20 * time.Millisecond

// batchMost is how many records are read at once: as many as a part of time has.
const batchMost = 134

// Records opens the reader. There is to be one at a time, and it is used by one goroutine.
func (d *Datapath) Records() (*Records, error) {
	r, err := ringbuf.NewReader(d.maps[weftMapRecords])
	if err != nil {
		return nil, fmt.Errorf("open records of drops: %w", err)
	}
	return &Records{
		reader: r, lost: d.maps[weftMapRecordsLost], port: d.config.Port, boot: time.Now().Add(-uptime()),
		waits: true,
	}, nil
}

// Read waits for records and returns all that there are, batchMost at most; they are valid
// until the next call. Its error is that of ctx, if that is done.
func (r *Records) Read(ctx context.Context) ([]Record, error) {
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	r.batch = r.batch[:0]
	for len(r.batch) < batchMost {
		if !r.waits && r.reader.AvailableBytes() == 0 {
			if len(r.batch) > 0 {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(recordsPause):
			}
		}
		err := r.reader.ReadInto(&r.raw)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded): // there is no more at this moment
			r.look(!r.found)
			continue
		case err != nil:
			return nil, fmt.Errorf("read records of drops: %w", err)
		}
		if r.waits { // what follows soon comes without a word
			r.look(false)
		}
		r.found = true
		record, err := r.parse(r.raw.RawSample)
		if err != nil {
			return nil, err
		}
		r.batch = append(r.batch, record)
	}
	return r.batch, nil
}

// look begins another look at the ring, which ends after recordsEvery, or by a record that
// wakes the reader up.
func (r *Records) look(wait bool) {
	r.waits, r.found = wait, false
	var deadline time.Time
	if !wait {
		deadline = time.Now().Add(recordsEvery)
	}
	r.reader.SetDeadline(deadline)
}

// Lost is how many packets were dropped without a record since the programs were loaded.
func (r *Records) Lost() uint64 {
	var perCPU []uint64
	if err := r.lost.Lookup(uint32(0), &perCPU); err != nil {
		return 0 // it is an array, and has this row
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// Close ends the reader; a Read that waits returns an error.
func (r *Records) Close() (err error) {
	r.once.Do(func() { err = r.reader.Close() })
	return err
}

func (r *Records) parse(b []byte) (Record, error) {
	var in weftRecord
	// As the kernel has it: package binary would look at each byte of the head by reflection.
	if own := unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)); copy(own, b) < len(own) {
		return Record{}, fmt.Errorf("read record of a drop: it has %d bytes, want %d", len(b), len(own))
	}
	out := Record{
		Time: r.boot.Add(time.Duration(in.Time)), IfIndex: in.Ifindex, Length: int(in.Size),
		Packet: parsePacket(in.Head[:min(int(in.Len), len(in.Head))], r.port),
	}
	if int(in.Reason) < len(reasons) {
		out.Reason = reasons[in.Reason]
	}
	if by := in.By; by.Set != 0 {
		out.Set, out.Rule, out.Ingress, out.Protocol = RuleSet(by.Set), by.Rule, by.Ingress != 0, Protocol(by.Proto)
		out.Local = netip.AddrPortFrom(addrFrom(by.Local), by.Lport)
		out.Remote = netip.AddrPortFrom(addrFrom(by.Remote), by.Rport)
	}
	return out, nil
}
