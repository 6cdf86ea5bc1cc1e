package overlay

import "fmt"

// PortRange is a range of ports, with both ends.
type PortRange struct{ First, Last uint16 }

// String is the range as iptables prints it.
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// MasqueradeFirst is the first of the node's ports that pods' traffic may come from. Below
// are node ports, by default 30000 to 32767, and what the node's own programs serve.
const MasqueradeFirst = 32768

const (
	// masqueradeGrain: the range begins and ends at multiples of it, if it can. Node ports
	// are of one range, mostly, and come one by one; so the chain changes a few times only.
	masqueradeGrain = 1024
	portsEnd        = 1 << 16
)

// MasqueradePorts are the node's ports that pods' traffic is to come from as it leaves the
// cluster: the longest range from [MasqueradeFirst] on in which none is taken. The kernel
// would take any port from 1024 on, and what answers to one at which the node serves a
// Service, or a host port, would be taken for a question to that. taken is sorted; if it is
// everything, it is of no account. It is pure.
func MasqueradePorts(taken []uint16) PortRange {
	best := PortRange{}
	from := MasqueradeFirst
	for i := range len(taken) + 1 {
		end := portsEnd // the first port behind
		if i < len(taken) {
			end = int(taken[i])
		}
		if end-from > int(best.Last)-int(best.First)+1 || best == (PortRange{}) && end > from {
			best = PortRange{uint16(from), uint16(end - 1)}
		}
		from = max(from, end+1)
	}
	if best == (PortRange{}) {
		return PortRange{MasqueradeFirst, portsEnd - 1}
	}
	first := (int(best.First) + masqueradeGrain - 1) / masqueradeGrain * masqueradeGrain
	end := (int(best.Last) + 1) / masqueradeGrain * masqueradeGrain
	if first < end {
		best = PortRange{uint16(first), uint16(end - 1)}
	}
	return best
}
