package bpf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/internal/crash"
)

// Verdicts of the programs (TCX_* in include/uapi/linux/bpf.h).
const (
	verdictNext     = 0xffffffff
	verdictRedirect = 7
)

// SelfTest runs the programs in this kernel on test packets (PROG_TEST_RUN), before
// traffic depends on them. A copy of two of them with maps of its own carries a
// packet of each inner and outer family through encapsulation and back, unless the same
// programs have done so since the machine started; the loaded
// programs themselves must let pass what is not theirs. It changes no map of ours
// and no counter.
func (d *Datapath) SelfTest() error {
	if err := d.passes(); err != nil || exists(d.tested()) {
		return err
	}
	config := d.config
	config.Netfilter = false // then nothing would be carried into a pod
	spec, err := specs(Options{Config: config, MaxEndpoints: 2, MaxPeers: 2, MaxSockets: 2, MaxFlows: 2, MaxBriefFlows: 2,
		MaxClasses: 2, MaxRules: 2, MaxAllowed: 2, MaxAllowedNew: 2})
	if err != nil {
		return err
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return name != string(FromPod) && name != string(FromUplink)
	})
	c, err := loadCollection(spec, nil)
	if err != nil {
		return fmt.Errorf("self-test: load programs: %w", err)
	}
	defer c.Close()
	t := &Datapath{config: config, maps: c.Maps, programs: map[Program]*ebpf.Program{}, maxRows: 2}
	for name, p := range c.Programs {
		t.programs[Program(name)] = p
	}
	var errs []error
	for _, outer := range []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.MustParseAddr("2001:db8::1")} {
		for _, inner := range []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, 0}), netip.MustParseAddr("100::")} {
			if err := t.roundTrip(outer, inner); err != nil {
				errs = append(errs, fmt.Errorf("self-test: %s in %s: %w", inner, outer, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.setTested()
	return nil
}

// tested is an empty folder that is there when these programs have passed the test in this kernel:
// a restart need not load them twice. What is on a bpffs is gone when the machine starts again.
func (d *Datapath) tested() string {
	h := sha256.Sum256(_WeftBytes)
	return d.pin("tested-" + hex.EncodeToString(h[:])[:12])
}

func (d *Datapath) setTested() {
	others, err := filepath.Glob(d.pin("tested-*"))
	for _, other := range others {
		err = errors.Join(err, os.Remove(other))
	}
	if err = errors.Join(err, mkdir(d.tested())); err != nil {
		d.log.Warn("the self-test is done again at the next start", "err", err)
	}
	crash.Point("bpf mkdir")
}

// passes checks that the loaded programs leave alone what is not theirs.
func (d *Datapath) passes() error {
	other := testPacket(netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 2}))
	got, _, err := d.try(FromUplink, other)
	if err == nil && got != verdictNext {
		err = fmt.Errorf("verdict %d for a packet that is not ours", int32(got))
	}
	if err != nil {
		return fmt.Errorf("self-test: %s: %w", FromUplink, err)
	}
	return nil
}

// roundTrip sends a packet from inner.1 to inner.2 over outer, as if this node were
// both ends of the tunnel.
func (d *Datapath) roundTrip(outer, inner netip.Addr) error {
	src := inner.Next()
	dst := src.Next()
	pod := Endpoint{IfIndex: 1, MAC: [6]byte{2}} // lo, which PROG_TEST_RUN uses
	peer := Peer{Remote: outer, Local: outer, NextHop: outer, LinkIndex: 1, MTU: 1400}
	host := netip.PrefixFrom(dst, dst.BitLen())
	if err := d.Endpoints().Set(src, pod); err != nil {
		return err
	}
	if err := d.Peers().Set(host, peer); err != nil {
		return err
	}
	sent := testPacket(src, dst)
	verdict, wire, err := d.try(FromPod, sent)
	if err != nil || verdict != verdictRedirect {
		return errors.Join(err, fmt.Errorf("%s: verdict %d, counters %s", FromPod, int32(verdict), d.raised()))
	}
	// Now the other node: there, src is the peer's and dst is a pod.
	if err := errors.Join(d.Peers().Delete(host), d.Endpoints().Delete(src)); err != nil {
		return err
	}
	if err := d.Endpoints().Set(dst, pod); err != nil {
		return err
	}
	if err := d.Peers().Set(netip.PrefixFrom(src, src.BitLen()), peer); err != nil {
		return err
	}
	verdict, got, err := d.try(FromUplink, wire)
	if err != nil || verdict != verdictRedirect {
		return errors.Join(err, fmt.Errorf("%s: verdict %d, counters %s", FromUplink, int32(verdict), d.raised()))
	}
	// The payload is the last 8 bytes; the headers are the packet tests' matter.
	if !bytes.HasSuffix(got, sent[len(sent)-8:]) || len(got) != len(sent) {
		return fmt.Errorf("sent % x, got % x", sent, got)
	}
	return errors.Join(d.Endpoints().Delete(dst), d.Peers().Delete(netip.PrefixFrom(src, src.BitLen())))
}

// raised lists the counters that are not zero.
func (d *Datapath) raised() string {
	cs, err := d.Counters()
	if err != nil {
		return err.Error()
	}
	text := "none"
	for _, c := range cs {
		if c.Count > 0 {
			text = fmt.Sprintf("%s %s %d", c.Kind, c.Reason, c.Count)
		}
	}
	return text
}

func (d *Datapath) try(p Program, in []byte) (uint32, []byte, error) {
	o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+128)}
	verdict, err := d.programs[p].Run(&o)
	return verdict, o.DataOut, err
}

// testPacket is a frame from MAC 02:00:… to no MAC, with a UDP datagram of 8 bytes.
func testPacket(src, dst netip.Addr) []byte {
	body := []byte{0, 9, 0, 9, 0, 16, 0, 0, 'w', 'e', 'f', 't', 't', 'e', 's', 't'}
	b := append(make([]byte, 6), 2, 0, 0, 0, 0, 0)
	if src.Is6() {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(body)), 17, 64)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		return append(b, body...)
	}
	b = append(b, 8, 0, 0x45, 0, 0, byte(20+len(body)), 0, 0, 0, 0, 64, 17, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[24:], ^uint16(sum>>16+sum))
	return append(b, body...)
}
