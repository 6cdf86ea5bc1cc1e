package crowd

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// A crowd talks, and what ends its connections is told.
func TestCrowd(t *testing.T) {
	testnet.Require(t)
	ns := testnet.New(t, "crowd")
	at := netip.MustParseAddrPort("127.0.0.1:4000")
	server, err := Serve(ns.Start, at, netip.MustParseAddrPort("[::1]:4000"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	pace := Pace{TCP: 50 * time.Millisecond, UDP: 10 * time.Millisecond, Patience: 5 * time.Second}
	e, err := Hold(ns.Start, pace, Way{at, 100, 2}, Way{netip.MustParseAddrPort("[::1]:4000"), 50, 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	report := func(ask func() (Report, error)) Report {
		t.Helper()
		r, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	testnet.Until(t, 20*time.Second, func() error {
		if r := report(e.Report); r.Open != 150 || r.Least < 3 || r.Sent < 30 || r.Failures > 0 {
			return errors.New("not all have spoken thrice")
		}
		return nil
	})
	server.Close()
	testnet.Until(t, 20*time.Second, func() error {
		if r := report(e.Report); r.Failures < 150 || len(r.Errors) == 0 {
			return errors.New("the end of the server is not told")
		}
		return nil
	})
	if r := report(e.Finish); r.Sent == r.Answered {
		t.Errorf("no datagram of %d is lost without a server", r.Sent)
	}
	if e, err := Hold(ns.Start, pace, Way{at, 1, 0}); err == nil {
		e.Close()
		t.Error("connections to nobody began")
	}
	if _, err := Serve(func(*exec.Cmd) error { return errors.New("no") }, at); err == nil {
		t.Error("an end that was not started serves")
	}
}
