package bpf

import (
	"fmt"
	"testing"
)

// A client connects to an isolated backend itself, from the port of a connection that it has
// to the same through a Service, so that it gets another port there. What the backend answers
// is of that connection, and of no new one of its own.
func TestAnswersOfAnIsolatedBackendToADirectConnection(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			p := newLane(t, v6, false)
			p.rules(t, setIn, 0, allowPort(TCP, servePort))
			p.isolate(t, p.backend.Addr(), setIn, setOut) // it may begin nothing
			p.establish(t, p.client)
			seen, _ := p.ask(t, TCP, p.client, p.backend, syn, nil)
			if seen == p.client {
				t.Fatalf("the backend sees %s twice", seen)
			}
			p.answers(t, TCP, seen, p.client, p.backend, syn|ack, nil)
			p.ask(t, TCP, p.client, p.backend, ack, load)
			p.answers(t, TCP, seen, p.client, p.backend, ack, load)
			p.answers(t, TCP, p.client, p.client, p.vip, ack, load) // the other goes on
		})
	}
}
