package daemon

import (
	"net/netip"

	"github.com/weftnet/weft/internal/api"
)

// announcedBy is the node that announces an address, as far as this one knows: with a
// question mark if only those that stand next to it ask. Empty: nobody, or it is none of
// ours.
func (a *announcer) announcedBy(at netip.Addr) string {
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.places[at]
	if !ok {
		return ""
	}
	name, sure := a.machine.Announcer(at)
	if name == "" {
		name = p.first
	}
	if name == "" || sure {
		return name
	}
	return name + "?"
}

// announcements is what `weft status` and the metrics tell.
func (a *announcer) announcements() (s api.Announcements, takeovers uint64) {
	if a == nil {
		return s, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Addresses, s.Dead = len(a.places), a.machine.Dead()
	for _, on := range a.machine.Held() {
		if on {
			s.Own++
		}
	}
	return s, a.machine.Takeovers()
}

// showAnnouncers fills in who announces the addresses of Services.
func (a *announcer) showAnnouncers(list []api.Service) {
	for _, s := range list {
		for i := range s.Fronts {
			f := &s.Fronts[i]
			if at, err := netip.ParseAddr(f.Addr); err == nil && f.Kind == "LB" {
				f.Announcer = a.announcedBy(at)
			}
		}
	}
}
