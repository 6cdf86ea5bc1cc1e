package overlay

import (
	"slices"
	"testing"
)

// ports are those from first to last, each of so many.
func ports(first, last, each int) (out []uint16) {
	for p := first; p <= last; p += each {
		out = append(out, uint16(p))
	}
	return out
}

func TestMasqueradePortsAreNobodys(t *testing.T) {
	tests := []struct {
		name  string
		taken []uint16
		want  PortRange
	}{
		{"none taken", nil, PortRange{32768, 65535}},
		{"the usual node ports", ports(30000, 32767, 1), PortRange{32768, 65535}},
		{"a range in the lower half", ports(40000, 42767, 1), PortRange{43008, 65535}},
		{"the same, two ports of it", []uint16{41000, 42700}, PortRange{43008, 65535}},
		{"a range in the upper half", ports(60000, 62767, 1), PortRange{32768, 59391}},
		{"the first and the last port", []uint16{32768, 65535}, PortRange{33792, 64511}},
		{"everywhere, but for less than a grain", ports(32768, 65535, 600), PortRange{32769, 33367}},
		{"all but one", slices.DeleteFunc(ports(32768, 65535, 1), func(p uint16) bool { return p == 50000 }), PortRange{50000, 50000}},
		{"all", ports(32768, 65535, 1), PortRange{32768, 65535}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := MasqueradePorts(tt.taken); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	// As Services come one by one in a range, the chain changes seldom.
	var taken []uint16
	changes, was := 0, MasqueradePorts(nil)
	for i := range 2768 {
		taken = append(taken, uint16(40000+i*1009%2768))
		slices.Sort(taken)
		now := MasqueradePorts(taken)
		if now != was {
			changes++
		}
		was = now
		if slices.ContainsFunc(taken, func(p uint16) bool { return now.First <= p && p <= now.Last }) {
			t.Fatalf("%s has a port that is taken", now)
		}
	}
	if changes > 3 {
		t.Errorf("the range changed %d times, want 3 at most", changes)
	}
}
