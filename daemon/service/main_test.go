package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// text shows rows as a person thinks of them: each place with its backends in the order
// of slots, then what is alive and what else there is.
func (r Rows) text(t testing.TB) string {
	t.Helper()
	var lines []string
	for at, f := range r.Frontends {
		line := at.String()
		if at.Protocol == 0 {
			if f != (bpf.Frontend{}) {
				t.Errorf("got %+v at %s, want nothing in the row of an address", f, at)
			}
			lines = append(lines, line+" rejects other ports")
			continue
		}
		line += " inside " + r.setText(t, f.Inside)
		if f.Outside != 0 {
			line += " outside " + r.setText(t, f.Outside)
		}
		if f.Host != 0 {
			line += " host " + r.setText(t, f.Host)
		}
		switch f.Flags {
		case 0:
		case bpf.FrontendPass:
			line += " passed on"
		case bpf.FrontendHostPort:
			line += " host port"
		default:
			t.Errorf("got flags %#x at %s", f.Flags, at)
		}
		if f.Ranges != 0 {
			var from []string
			for p := range r.Ranges {
				if p.Ranges == f.Ranges {
					from = append(from, p.Prefix.String())
				}
			}
			slices.Sort(from)
			line += " from " + fmt.Sprint(from)
		}
		if f.Affinity != 0 {
			line += fmt.Sprintf(" affinity %d", f.Affinity)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	var alive []string
	for at := range r.Alive {
		alive = append(alive, at.String())
	}
	slices.Sort(alive)
	if len(alive) > 0 {
		lines = append(lines, "alive "+strings.Join(alive, " "))
	}
	if r.Health != nil {
		lines = append(lines, fmt.Sprintf("health %+v", *r.Health))
	}
	for _, p := range r.Problems {
		lines = append(lines, "problem "+p)
	}
	return strings.Join(lines, "\n")
}

// setText shows a set: what it chooses from, or what it does without backends.
func (r Rows) setText(t testing.TB, id bpf.SetID) string {
	t.Helper()
	s, ok := r.Sets[id]
	if !ok {
		return "NO SUCH SET"
	}
	if s.Count == 0 {
		return map[uint32]string{0: "reject", bpf.SetDrop: "drop"}[s.Flags]
	}
	var to []string
	for i := range s.Count {
		b := r.Backends[bpf.Slot{Set: id, Slot: i}]
		to = append(to, netip.AddrPortFrom(b.Addr, b.Port).String())
	}
	if s.Maglev != 0 {
		to = append(to, fmt.Sprintf("maglev %d", s.Maglev))
	}
	return fmt.Sprint(to)
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func ips(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, ip(a))
	}
	return out
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// hints is an endpoint's, to be filled.
func hints(e *source.SliceEndpoint) *source.Hints {
	if e.Hints == nil {
		e.Hints = &source.Hints{}
	}
	return e.Hints
}

// slice makes an EndpointSlice. ports: "name protocol number, …". An endpoint is
// "address node [unready|leaving|dying] [zones=…] [nodes=…] [uid=…]".
func slice(t testing.TB, ports string, ends ...string) *source.EndpointSlice {
	t.Helper()
	s := &source.EndpointSlice{Namespace: "shop", Name: "s", Service: "web"}
	protocols := map[string]source.Protocol{"TCP": source.TCP, "UDP": source.UDP, "SCTP": source.SCTP}
	for p := range strings.SplitSeq(ports, ", ") {
		f := strings.Fields(p)
		n, err := strconv.ParseUint(f[2], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		s.Ports = append(s.Ports, source.SlicePort{Name: f[0], Protocol: protocols[f[1]], Port: uint16(n)})
	}
	for _, line := range ends {
		f := strings.Fields(line)
		e := source.SliceEndpoint{IP: ip(f[0]), Node: f[1], Ready: true, Serving: true, TargetUID: "uid of " + f[0]}
		s.IPv6 = e.IP.Is6()
		for _, word := range f[2:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "unready":
				e.Ready, e.Serving = false, false
			case "leaving":
				e.Ready, e.Terminating = false, true
			case "dying":
				e.Ready, e.Serving, e.Terminating = false, false, true
			case "zones":
				hints(&e).ForZones = strings.Split(value, ",")
			case "nodes":
				hints(&e).ForNodes = strings.Split(value, ",")
			case "uid":
				e.TargetUID = value
			default:
				t.Fatalf("%q is no word of an endpoint", word)
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}
