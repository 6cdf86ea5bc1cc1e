package bpf

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/reconcile"
)

// SilenceLimit is how long after a daemon's last [Datapath.Beat] the programs still answer
// for the addresses that it announced (SILENCE_LIMIT in src/announce.h).
const SilenceLimit = 15 * time.Second

// Announced is a load balancer's address that this node may announce: the row of the map
// `announced`, keyed by address.
type Announced struct {
	IfIndex uint32  // the address's link
	MAC     [6]byte // of that device: what questions are answered with
	On      bool    // this node answers; else it could, if those before it did not
}

// Claim is somebody else who says that an announced address is its own.
type Claim struct {
	MAC [6]byte
	Age time.Duration
}

// Announced is the table of addresses that this node announces or may. IPv4 addresses are
// keyed unmapped. Its Set returns [ErrFull] if there is no room.
func (d *Datapath) Announced() reconcile.Target[netip.Addr, Announced] {
	return table[weftAddr, weftAnnounced, netip.Addr, Announced]{d, weftMapAnnounced, toAddr, addrFrom,
		func(a Announced) weftAnnounced {
			v := weftAnnounced{Ifindex: a.IfIndex}
			v.Mac.B = a.MAC
			if a.On {
				v.Flags = announcedOn
			}
			return v
		},
		func(v weftAnnounced) Announced {
			return Announced{IfIndex: v.Ifindex, MAC: v.Mac.B, On: v.Flags&announcedOn != 0}
		},
	}
}

// announcedOn is ANNOUNCED_ON in src/announce.h.
const announcedOn = 1 << 0

// Beat is the daemon's sign of life: for [SilenceLimit] from now on what it wrote into the
// table of announced addresses counts.
func (d *Datapath) Beat() error {
	now, err := bootTime()
	if err != nil {
		return err
	}
	return d.beatAt(now)
}

func (d *Datapath) beatAt(boot time.Duration) error {
	at := uint64(boot)
	if err := d.maps[weftMapHeartbeat].Put(uint32(0), &at); err != nil {
		return fmt.Errorf("write map %s: %w", weftMapHeartbeat, err)
	}
	return nil
}

// Silence is how long ago the last [Datapath.Beat] was, of this daemon or a former one;
// false: there was none since the machine started.
func (d *Datapath) Silence() (time.Duration, bool, error) {
	var at uint64
	if err := d.maps[weftMapHeartbeat].Lookup(uint32(0), &at); err != nil {
		return 0, false, fmt.Errorf("read map %s: %w", weftMapHeartbeat, err)
	}
	now, err := bootTime()
	if err != nil || at == 0 {
		return 0, false, err
	}
	return max(0, now-time.Duration(at)), true, nil
}

// Claims is who else has said of which announced addresses that they are its own.
func (d *Datapath) Claims() (map[netip.Addr]Claim, error) {
	now, err := bootTime()
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]Claim{}
	err = scan(d, weftMapClaims, func(k *weftAddr, v *weftClaim) {
		out[addrFrom(*k)] = Claim{MAC: v.Mac.B, Age: max(0, now-time.Duration(v.At))}
	})
	return out, err
}

// bootTime is the clock of signs of life (CLOCK_BOOTTIME): it goes on while the machine
// sleeps.
func bootTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
