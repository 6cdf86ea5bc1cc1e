package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// What is on the wire is standard VXLAN: another program, which knows RFC 7348 and not
// us, decodes flags, VNI and what is inside, over both outer families.
func TestCaptureDecodesAsVXLAN(t *testing.T) {
	t.Parallel()
	testnet.Require(t, "tcpdump")
	for _, tt := range []struct {
		spec  cluster.Spec
		outer string // as tcpdump shows it
	}{
		{cluster.Spec{Nodes: 2}, `172\.18\.0\.1\.\d+ > 172\.18\.0\.2\.8872: .*VXLAN`},
		{cluster.Spec{Nodes: 2, OuterV6First: true}, `fd18::1\.\d+ > fd18::2\.8872: .*VXLAN`},
	} {
		t.Run(tt.outer, func(t *testing.T) {
			t.Parallel()
			c := start(t, tt.spec)
			a, b := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")
			for _, addr := range b.Addrs() {
				text := capture(t, c.Nodes[1].NS, "dst port 8872 and udp[8:1] = 8 or ip6", func() error {
					s, err := traffic.Serve(b.NS, netip.AddrPortFrom(addr, 0))
					if err != nil {
						return err
					}
					defer s.Close()
					_, err = traffic.Ask(a.NS, netip.AddrPortFrom(addr, uint16(s.Port())), 3*time.Second)
					return err
				}, func(text string) bool { return strings.Contains(text, addr.String()) })
				inside := regexp.QuoteMeta(a.Addrs()[0].String())
				if addr.Is6() {
					inside = regexp.QuoteMeta(a.IP6.String())
				}
				for _, want := range []string{
					tt.outer, `VXLAN, flags \[I\] \(0x08\), vni 87`,
					inside + `\.\d+ > ` + regexp.QuoteMeta(addr.String()) + `\.\d+: Flags \[S`,
				} {
					if !regexp.MustCompile(want).MatchString(text) {
						t.Errorf("to %s: want %q in\n%s", addr, want, text)
					}
				}
				for _, bad := range []string{"bad udp cksum", "bad cksum", "malformed", "truncated"} {
					if strings.Contains(text, bad) {
						t.Errorf("to %s: %q in\n%s", addr, bad, text)
					}
				}
			}
		})
	}
}

// capture returns what tcpdump says of the packets that do makes, which it repeats
// until the text is enough.
func capture(t *testing.T, ns *testnet.NS, filter string, do func() error, enough func(string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out lockedText
	cmd := exec.CommandContext(ctx, "tcpdump", "-nlvi", "eth0", "-T", "vxlan", filter)
	cmd.Stdout = &out
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 15*time.Second, func() error {
		if err := do(); err != nil {
			return err
		}
		if !enough(out.String()) {
			return fmt.Errorf("not captured:\n%s", out.String())
		}
		return nil
	})
	cancel()
	cmd.Wait()
	return out.String()
}

// lockedText is what a running program has written.
type lockedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
