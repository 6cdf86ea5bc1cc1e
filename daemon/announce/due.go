package announce

import "time"

// When [Machine.Step] is due.
const (
	// idle is how long nothing is looked at while nothing is due, youth how long others are likely
	// to yield to a node that has begun to announce an address.
	idle  = 500 * time.Millisecond
	youth = 10 * time.Second
)

// Wait is how long it may take until the next Step; 0: for ever.
func (m *Machine) Wait() time.Duration { return m.wait }

// until says that a step is due at a time, unless that is over.
func (m *Machine) until(now, at time.Time) {
	if at.After(now) && at.Before(m.next) {
		m.next = at
	}
}

// untilNext is how long it takes until something is due. Answers come at once, and are taken up
// when a node is asked next: only what is missing then is waited for.
func (m *Machine) untilNext(now time.Time) time.Duration {
	if len(m.addrs) == 0 {
		return 0
	}
	m.until(now, m.start.Add(settle))
	for name := range m.asked {
		p := m.peers[name]
		if p == nil {
			continue
		}
		m.until(now, p.next)
		for _, r := range p.rounds {
			if !r.answered && p.state != dead {
				m.until(now, r.at.Add(answerWait))
			}
		}
	}
	for _, x := range m.addrs {
		m.until(now, x.until)
		for _, at := range x.due {
			m.until(now, at)
		}
		switch { // others may yield
		case x.on && now.Sub(x.began) < youth:
			m.until(now, now.Add(Every/2))
		case x.on:
			m.until(now, m.moment(now.Add(Every)))
		}
	}
	return m.next.Sub(now)
}

// nextAsk is when a node is asked again. Those that answer are all asked at the same moments, and
// never sooner than each would be alone: questions count that are missed.
func (m *Machine) nextAsk(now time.Time, p *peer, every time.Duration) time.Time {
	if p.missed > 0 && p.state != dead {
		return now.Add(every)
	}
	return m.moment(now.Add(every))
}

// moment is the first moment from a time on at which nodes are asked. Steps are late by a little.
func (m *Machine) moment(at time.Time) time.Time {
	const late = Every / 20
	periods := (at.Sub(m.start) - late + Every - 1) / Every
	return m.start.Add(periods * Every)
}
