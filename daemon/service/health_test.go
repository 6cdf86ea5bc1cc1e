package service

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// freePort returns a port that is free on both loopback addresses, and stays so: the kernel
// gives it to nobody who lets it choose (ip(7), ip_local_port_range).
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 20 {
		port := 15_000 + rand.N(uint16(15_000))
		l4, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l6, err := net.Listen("tcp", fmt.Sprintf("[::1]:%d", port))
		_ = l4.Close()
		if err == nil {
			_ = l6.Close()
			return port
		}
	}
	t.Fatal("found no free port")
	return 0
}

type answer struct {
	status int
	weight string
	body   any
}

// ask does one health check on a connection of its own.
func ask(addr string, port uint16) (answer, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + net.JoinHostPort(addr, fmt.Sprint(port)) + "/healthz")
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, weight: resp.Header.Get("X-Load-Balancing-Endpoint-Weight")}
	return a, json.Unmarshal(text, &a.body)
}

func wantAnswer(t *testing.T, addr string, port uint16, status, local int, healthy bool) {
	t.Helper()
	got, err := ask(addr, port)
	want := answer{status: status, weight: fmt.Sprint(local), body: map[string]any{
		"service":        map[string]any{"namespace": "shop", "name": "web"},
		"localEndpoints": float64(local), "serviceProxyHealthy": healthy,
	}}
	if d := cmp.Diff(got, want, cmp.AllowUnexported(answer{})); err != nil || d != "" {
		t.Errorf("answer at %s (-got +want), error %v:\n%s", addr, err, d)
	}
}

func wantProblems(t *testing.T, got []string, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := range got {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		t.Errorf("got problems %q, want %q", got, want)
	}
}

func TestHealthServer(t *testing.T) {
	loopback := ips("127.0.0.1", "::1")
	port, other := freePort(t), freePort(t)
	var ill atomic.Bool
	h := HealthServer{Healthy: func() bool { return !ill.Load() }}
	defer h.Close()
	web := func(port uint16, local int) map[string]Health {
		return map[string]Health{"shop/web": {"shop", "web", port, local}}
	}

	wantProblems(t, h.Set(loopback, web(port, 2)))
	wantAnswer(t, "127.0.0.1", port, 200, 2, true)
	wantAnswer(t, "::1", port, 200, 2, true)

	wantProblems(t, h.Set(loopback, web(port, 0)))
	wantAnswer(t, "::1", port, 503, 0, true)

	wantProblems(t, h.Set(loopback, web(port, 1)))
	ill.Store(true)
	wantAnswer(t, "127.0.0.1", port, 503, 1, false)
	ill.Store(false)

	// Another port, one address less: what is gone is closed.
	wantProblems(t, h.Set(loopback[:1], web(other, 3)))
	wantAnswer(t, "127.0.0.1", other, 200, 3, true)
	for _, at := range []netip.AddrPort{netip.AddrPortFrom(loopback[0], port), netip.AddrPortFrom(loopback[1], other)} {
		if a, err := ask(at.Addr().String(), at.Port()); err == nil {
			t.Errorf("got an answer at %s: %+v, want none", at, a)
		}
	}
	h.Close()
	if a, err := ask("127.0.0.1", other); err == nil {
		t.Errorf("got an answer after Close: %+v, want none", a)
	}
}

func TestHealthServerTriesABusyPortAgain(t *testing.T) {
	port := freePort(t)
	busy, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	var h HealthServer
	defer h.Close()
	want := map[string]Health{"shop/web": {"shop", "web", port, 1}}
	wantProblems(t, h.Set(ips("127.0.0.1", "::1"), want),
		fmt.Sprintf("health check port %d of shop/web: listen tcp 127.0.0.1:%d: bind: address already in use", port, port))
	wantAnswer(t, "::1", port, 200, 1, true) // the other address is not held up
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, h.Set(ips("127.0.0.1", "::1"), want))
	wantAnswer(t, "127.0.0.1", port, 200, 1, true)
}

func TestHealthServerTwoServicesOnePort(t *testing.T) {
	port := freePort(t)
	var h HealthServer
	defer h.Close()
	wantProblems(t, h.Set(ips("127.0.0.1"), map[string]Health{
		"shop/web":  {"shop", "web", port, 1},
		"shop/zone": {"shop", "zone", port, 0},
	}), fmt.Sprintf("health check port %d of shop/zone: it is that of shop/web", port))
	wantAnswer(t, "127.0.0.1", port, 200, 1, true)
}

// More connections than a listener may have wait for one that ends; silent ones are
// ended, so that nobody can keep the load balancer out.
func TestHealthServerBoundsConnections(t *testing.T) {
	port := freePort(t)
	var h HealthServer
	defer h.Close()
	wantProblems(t, h.Set(ips("127.0.0.1"), map[string]Health{"shop/web": {"shop", "web", port, 1}}))
	var silent []net.Conn
	for range healthConns {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	late, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := io.WriteString(late, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = late.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := late.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes on a connection too many", n)
	}
	_ = silent[7].Close()
	_ = late.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, len("HTTP/1.0 200 OK"))
	if _, err := io.ReadFull(late, got); err != nil || string(got) != "HTTP/1.0 200 OK" {
		t.Errorf("got %q, error %v, want an answer when another connection ends", got, err)
	}
}
