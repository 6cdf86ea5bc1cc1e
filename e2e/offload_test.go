package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// box stands between a node and the bridge and carries frames by packet sockets. As
// these know nothing of offload, checksums that the sender has left to its device stay
// incomplete: this is a device that promises to complete them and does not.
type box struct {
	drop atomic.Pointer[func(frame []byte) bool]
}

// putBox puts one before a node.
func putBox(t *testing.T, c *cluster.Cluster, n *cluster.Node) *box {
	t.Helper()
	if err := c.Bridge.IP("link", "set", n.Name, "nomaster"); err != nil {
		t.Fatal(err)
	}
	if err := testnet.Veth(c.Bridge, "box", c.Bridge, "boxport", c.Spec.MTU); err != nil {
		t.Fatal(err)
	}
	if err := c.Bridge.IP("link", "set", "boxport", "master", "br0"); err != nil {
		t.Fatal(err)
	}
	b := &box{}
	x, y := packetSocket(t, c.Bridge, n.Name), packetSocket(t, c.Bridge, "box")
	var wg sync.WaitGroup
	t.Cleanup(func() {
		x.Close()
		y.Close()
		wg.Wait()
	})
	wg.Go(func() { b.carry(x, y) })
	wg.Go(func() { b.carry(y, x) })
	return b
}

func (b *box) carry(from, to *os.File) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if drop := b.drop.Load(); drop == nil || !(*drop)(frame[:n]) {
			_, _ = to.Write(frame[:n]) // too long ones are lost, as on a wire
		}
	}
}

// packetSocket gets the frames that a device receives, and sends frames on it.
func packetSocket(t *testing.T, ns *testnet.NS, device string) *os.File {
	t.Helper()
	var f *os.File
	err := ns.Do(func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), device)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// isVXLAN says whether a frame goes to our UDP port.
func isVXLAN(frame []byte) bool {
	const ethernet = 14
	port := ethernet + 20 + 2
	switch {
	case len(frame) < ethernet+40+8:
		return false
	case binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IPV6:
		port = ethernet + 40 + 2
	}
	return binary.BigEndian.Uint16(frame[port:]) == overlay.DefaultPort
}

// metrics reads the daemon's.
func metrics(ctx context.Context, n *cluster.Node) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.Socket())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weftd/metrics", nil)
	if err != nil {
		return "", err
	}
	r, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// weftStatus is what `weft status` prints.
func weftStatus(ctx context.Context, n *cluster.Node) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(n.Bin, "weft"), "--socket", n.Socket(), "status")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// says waits until status and metrics name a problem.
func says(t *testing.T, n *cluster.Node, within time.Duration, metric string, texts ...string) {
	t.Helper()
	begin := time.Now()
	testnet.Until(t, within, func() error {
		status, err := weftStatus(t.Context(), n)
		if err != nil {
			return fmt.Errorf("weft status: %w: %s", err, status)
		}
		for _, text := range texts {
			if !strings.Contains(status, text) {
				return fmt.Errorf("weft status does not say %q:\n%s", text, status)
			}
		}
		m, err := metrics(t.Context(), n)
		if err == nil && !strings.Contains(m, metric) {
			err = fmt.Errorf("no metric %s in:\n%s", metric, m)
		}
		return err
	})
	t.Logf("%s says %s after %s", n.Name, metric, time.Since(begin).Round(10*time.Millisecond))
}

// P7: a device that spoils the checksums of encapsulated packets is found out, and its
// offload is turned off.
func TestBadChecksumOffloadIsTurnedOff(t *testing.T) {
	for _, outer := range []cluster.Family{cluster.V4, cluster.V6} {
		t.Run(outer.String(), func(t *testing.T) {
			t.Parallel()
			c := prepare(t, cluster.Spec{Nodes: 2, Outer: outer})
			n := c.Nodes[0]
			putBox(t, c, n)
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			says(t, n, 30*time.Second, `weft_problems{what="checksum"} 1`, "checksum", c.Nodes[1].Name)
			testnet.Until(t, 10*time.Second, func() error { return offloadIsOff(c) })
			for _, device := range []string{"eth0", overlay.DeviceName} { // somebody turns it on
				if _, err := n.NS.Output("ethtool", "-K", device, "tx", "on"); err != nil {
					t.Fatal(err)
				}
			}
			if offloadIsOff(c) == nil {
				t.Fatal("it cannot be turned on")
			}
			testnet.Until(t, 10*time.Second, func() error { return offloadIsOff(c) })
			a, b := addPod(t, n, "a"), addPod(t, c.Nodes[1], "b")
			for i := range a.Addrs() {
				answers(t, "there", a.NS, b.NS, b.Addrs()[i], a.Addrs()[i])
				answers(t, "back", b.NS, a.NS, a.Addrs()[i], b.Addrs()[i])
				transfer(t, a.NS, b.NS, b.Addrs()[i], 1<<20)
				transfer(t, b.NS, a.NS, a.Addrs()[i], 1<<20)
			}
			m, err := metrics(t.Context(), n)
			if err != nil || !strings.Contains(m, `weft_table_rows{table="offload"} 2`) {
				t.Errorf("metrics do not show two devices with their offload off: %v\n%s", err, m)
			}
			// It stays so over a restart, and the problem goes once all is well.
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			restart(t, n)
			testnet.Until(t, 30*time.Second, func() error {
				status, err := weftStatus(t.Context(), n)
				if err == nil && strings.Contains(status, "checksum") {
					err = fmt.Errorf("the problem stays:\n%s", status)
				}
				return err
			})
			if out, err := n.NS.Output("ethtool", "-k", "eth0"); err != nil || !strings.Contains(out, "tx-checksumming: off") {
				t.Errorf("offload is on again after a restart: %v", err)
			}
		})
	}
}

// offloadIsOff says where it is not.
func offloadIsOff(c *cluster.Cluster) error {
	for _, n := range c.Nodes {
		for _, device := range []string{"eth0", overlay.DeviceName} {
			out, err := n.NS.Output("ethtool", "-k", device)
			if err != nil || !strings.Contains(out, "tx-checksumming: off") {
				return fmt.Errorf("%s of %s: offload is on: %w", device, n.Name, err)
			}
		}
	}
	return nil
}

// P7: something between drops the overlay's port: status names it, and the port.
func TestDroppedPortIsNamed(t *testing.T) {
	t.Parallel()
	c := prepare(t, cluster.Spec{Nodes: 2})
	b := putBox(t, c, c.Nodes[0])
	drop := isVXLAN
	b.drop.Store(&drop)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Nodes {
		says(t, n, 30*time.Second, `weft_problems{what="no-answer"} 1`, "UDP port 8872", c.Nodes[1-i].Name)
	}
	b.drop.Store(nil)
	for _, n := range c.Nodes {
		testnet.Until(t, 30*time.Second, func() error {
			status, err := weftStatus(t.Context(), n)
			if err == nil && strings.Contains(status, "UDP port 8872") {
				err = fmt.Errorf("the problem stays:\n%s", status)
			}
			return err
		})
	}
}
