package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

// connected is a connection between two pods: its two ends.
type connected struct{ opener, other net.Conn }

// connect opens a TCP connection from one pod to an address of another.
func (l *lab) connect(from, to *pod, a netip.Addr) (c connected) {
	l.t.Helper()
	accepted := make(chan net.Conn, 1)
	var listener net.Listener
	l.must(to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		return err
	}))
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- conn
	}()
	l.must(from.Do(func() (err error) {
		c.opener, err = net.DialTimeout("tcp", listener.Addr().String(), soon)
		return err
	}))
	l.t.Cleanup(func() { c.opener.Close() })
	c.other = <-accepted
	if c.other == nil {
		l.t.Fatal("the connection was not accepted")
	}
	l.t.Cleanup(func() { c.other.Close() })
	return c
}

// passes says whether what one end sends comes out of the other.
func passes(from, to net.Conn, within time.Duration) error {
	if _, err := from.Write([]byte("weft")); err != nil {
		return err
	}
	_ = to.SetReadDeadline(time.Now().Add(within))
	_, err := to.Read(make([]byte, 4))
	return err
}

func TestOpenConnectionsAreJudgedByWhoOpenedThem(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	for _, m := range []*machine{a, b} {
		m.usual()
		m.start()
	}
	a.ready()
	b.ready()
	l.file("namespace.yaml", defaultNamespace)
	web := a.attach(labelled("web", map[string]string{"app": "web"}))
	near := a.attach(labelled("near", nil))
	far := b.attach(labelled("far", nil))
	var opened, suffered []connected
	for _, p := range []*pod{near, far} {
		l.reach(converge, p.NS, web)
		for i := range p.addrs {
			opened = append(opened, l.connect(web, p, p.addrs[i]))
			suffered = append(suffered, l.connect(p, web, web.addrs[i]))
		}
	}
	l.file("policy.yaml", flat(denyText("none", "web")))
	testnet.Until(t, soon, func() error {
		if ask(near.NS, web.addrs[0]) == nil {
			return fmt.Errorf("the policy is not in force")
		}
		return nil
	})
	// The other end speaks first: nothing but what was taken up tells that it may.
	for i, c := range opened {
		if err := passes(c.other, c.opener, soon); err != nil {
			t.Errorf("connection %d that the isolated pod has opened: %v", i, err)
		}
		if err := passes(c.opener, c.other, soon); err != nil {
			t.Errorf("connection %d that the isolated pod has opened, its way: %v", i, err)
		}
	}
	for i, c := range suffered {
		if err := passes(c.opener, c.other, 100*time.Millisecond); err == nil {
			t.Errorf("connection %d that was opened to the isolated pod goes on", i)
		}
	}
}
