package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// soon is how long a change of Services may take, with the reading of the folder.
const soon = time.Second

// kernelRows is the rows of a pinned map, as bytes.
func (m *machine) kernelRows(name string) (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(m.cfg.BPFDir, "*", name))
	if err != nil || len(paths) != 1 {
		return nil, fmt.Errorf("pins of %s: %v, %v", name, paths, err)
	}
	pinned, err := ebpf.LoadPinnedMap(paths[0], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer pinned.Close()
	rows := map[string]string{}
	var k, v []byte
	it := pinned.Iterate()
	for it.Next(&k, &v) {
		rows[string(k)] = string(v)
	}
	return rows, it.Err()
}

// inKernel says whether a map has a row, with an address in its key or value.
func (m *machine) inKernel(name string, a netip.Addr) (bool, error) {
	rows, err := m.kernelRows(name)
	for k, v := range rows {
		if strings.Contains(k, string(a.AsSlice())) || strings.Contains(v, string(a.AsSlice())) {
			return true, err
		}
	}
	return false, err
}

// served waits until addresses are in a map, or are not.
func (m *machine) served(within time.Duration, name string, want bool, addrs ...string) {
	m.lab.t.Helper()
	testnet.Until(m.lab.t, within, func() error {
		for _, a := range addrs {
			if there, err := m.inKernel(name, addr(a)); err != nil || there != want {
				return fmt.Errorf("%s in map %s: %v, want %v; %v", a, name, there, want, err)
			}
		}
		return nil
	})
}

// file writes a file of objects in one step; an empty one is removed.
func (l *lab) file(name, text string) {
	l.t.Helper()
	path := filepath.Join(l.dir, "objects", name)
	if text == "" {
		l.must(os.Remove(path))
		return
	}
	l.must(os.WriteFile(path+".tmp", []byte(text), 0o644))
	l.must(os.Rename(path+".tmp", path))
}

func serviceText(name, ip string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec: {type: NodePort, clusterIP: %s, ports: [{port: 80, nodePort: 30080}]}
`, name, ip)
}

func sliceText(service string, ips ...string) string {
	text := fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
`, service)
	for _, ip := range ips {
		text += fmt.Sprintf("- {addresses: [%s]}\n", ip)
	}
	return text
}

func TestServicesAreInTheKernel(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	l.file("web.yaml", serviceText("web", "10.96.0.10"))
	l.file("web-ends.yaml", sliceText("web", "10.87.1.201", "10.87.2.202"))
	a.start()
	a.ready()
	a.served(0, "frontends", true, "10.96.0.10", "192.0.2.1")
	a.served(0, "backends", true, "10.87.1.201", "10.87.2.202")
	a.served(0, "alive", true, "10.87.1.201", "10.87.2.202")
	if rows, err := a.kernelRows("sets"); err != nil || len(rows) != 1 {
		t.Errorf("sets: %v, %v", rows, err)
	}

	l.file("web-ends.yaml", sliceText("web", "10.87.2.202", "10.87.2.203"))
	a.served(soon, "backends", true, "10.87.2.203")
	a.served(soon, "backends", false, "10.87.1.201")
	a.served(soon, "alive", false, "10.87.1.201")

	t.Run("a restart keeps the rows", func(t *testing.T) {
		before := map[string]map[string]string{}
		names := []string{"alive", "backends", "maglev", "sets", "frontends"}
		for _, name := range names {
			rows, err := a.kernelRows(name)
			l.must(err)
			before[name] = rows
		}
		ended := make(chan struct{})
		lost := make(chan error, 1)
		go func() {
			defer close(lost)
			for {
				for _, name := range names {
					if rows, err := a.kernelRows(name); err != nil || !maps.Equal(rows, before[name]) {
						lost <- fmt.Errorf("map %s has %d rows, had %d (%v)", name, len(rows), len(before[name]), err)
						return
					}
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		}()
		a.stop(syscall.SIGKILL)
		a.start()
		a.ready()
		close(ended)
		if err := <-lost; err != nil {
			t.Error(err)
		}
	})
	t.Run("a change while there is no daemon", func(t *testing.T) {
		a.stop(syscall.SIGKILL)
		l.file("web-ends.yaml", sliceText("web", "10.87.2.204"))
		a.start()
		a.ready()
		a.served(0, "backends", true, "10.87.2.204")
		a.served(soon, "backends", false, "10.87.2.202", "10.87.2.203")
	})
	t.Run("shown", func(t *testing.T) {
		list, err := a.client().Services(context.Background(), "web")
		l.must(err)
		if len(list) != 1 || len(list[0].Fronts) != 2 || len(list[0].Backends) != 1 || list[0].Backends[0].State != "ready" {
			t.Errorf("got %+v", list)
		}
		var refused *api.Error
		if _, err := a.client().Services(context.Background(), "default/nothing"); !errors.As(err, &refused) || !strings.Contains(refused.Msg, "default/nothing") {
			t.Errorf("an unknown name: %v", err)
		}
	})
	t.Run("the API server's own", func(t *testing.T) {
		l.file("api.yaml", strings.ReplaceAll(serviceText("kubernetes", "10.96.0.1"), "30080", "30081"))
		l.file("api-ends.yaml", sliceText("kubernetes", "192.0.2.200"))
		a.served(soon, "backends", true, "192.0.2.200")
		l.file("api-ends.yaml", sliceText("kubernetes"))
		kept := func() {
			a.until("kept", func(s api.Status) bool { return s.Ready && problem(s, problemService) })
			a.served(0, "backends", true, "192.0.2.200")
			a.served(0, "alive", true, "192.0.2.200")
		}
		kept()
		a.stop(syscall.SIGKILL)
		a.start()
		kept()
		l.file("api-ends.yaml", sliceText("kubernetes", "192.0.2.201"))
		a.served(soon, "backends", false, "192.0.2.200")
		a.ready()
	})
	t.Run("deleted", func(t *testing.T) {
		l.file("web.yaml", "")
		a.served(soon, "frontends", false, "10.96.0.10")
		a.served(soon, "backends", false, "10.87.2.204")
		l.file("api.yaml", "")
		l.file("web-ends.yaml", "")
		l.file("api-ends.yaml", "")
		testnet.Until(t, soon, func() error {
			for _, name := range []string{"alive", "backends", "maglev", "sets", "frontends"} {
				if rows, err := a.kernelRows(name); err != nil || len(rows) > 0 {
					return fmt.Errorf("map %s: %d rows are left, %v", name, len(rows), err)
				}
			}
			return nil
		})
	})
}

// Of Services that others serve the kernel knows where they are, and nobody is told of them.
func TestServicesCanBeLeftToOthers(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	l.file("web.yaml", serviceText("web", "10.96.0.10")+"---\n"+sliceText("web", "10.87.1.201"))
	a.start()
	a.ready()
	a.served(0, "frontends", true, "10.96.0.10", "192.0.2.1")
	a.stop(syscall.SIGKILL)
	a.cfg.Services = false
	a.start()
	a.ready()
	a.served(soon, "frontends", false, "192.0.2.1")
	a.served(soon, "backends", false, "10.87.1.201")
	a.served(soon, "alive", false, "10.87.1.201")
	a.served(0, "frontends", true, "10.96.0.10")
	l.file("more.yaml", serviceText("more", "10.96.0.11"))
	a.served(soon, "frontends", true, "10.96.0.10", "10.96.0.11")
	l.file("more.yaml", "")
	a.served(soon, "frontends", false, "10.96.0.11")
	a.until("no problem", func(s api.Status) bool { return !problem(s, problemService) })
	if page, err := a.client().FindServices(context.Background(), api.ServiceQuery{Limit: 9}); err != nil || page.Found != 0 {
		t.Errorf("found: %+v, %v", page, err)
	}
	list, err := a.client().Services(context.Background(), "")
	if err != nil || len(list) != 0 {
		t.Errorf("shown: %v, %v", list, err)
	}
	var refused *api.Error
	if _, err := a.client().Services(context.Background(), "web"); !errors.As(err, &refused) || !strings.Contains(refused.Msg, "services: false") {
		t.Errorf("got %v", err)
	}
}

func TestNodePortsOnSomeAddresses(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.object("10.87.1.0/24", "192.0.2.1 192.0.2.77")
	l.must(a.IP("addr", "add", "192.0.2.77/32", "dev", "up0"))
	a.cfg.NodePortAddresses = "192.0.2.64/26, 2001:db8::/64"
	l.file("web.yaml", serviceText("web", "10.96.0.10")+"---\n"+sliceText("web", "10.87.1.201"))
	a.start()
	a.ready()
	a.served(0, "frontends", true, "192.0.2.77")
	a.served(0, "frontends", false, "192.0.2.1")
	list, err := a.client().Services(context.Background(), "default/web")
	l.must(err)
	if !slices.ContainsFunc(list[0].Fronts, func(f api.ServiceFront) bool { return f.Addr == "192.0.2.77" && f.Kind == "NodePort" }) {
		t.Errorf("shown: %+v", list)
	}
}

func TestHealthChecksAreAnswered(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	text := `apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  ports: [{port: 80, nodePort: 30080}]
---
`
	on := func(node string) string {
		return strings.ReplaceAll(sliceText("web", "10.87.1.201"), "]}\n", "], nodeName: "+node+"}\n")
	}
	asked := func(want string) {
		t.Helper()
		testnet.Until(t, 20*time.Second, func() error {
			return a.Do(func() error {
				conn, err := net.Dial("tcp", "192.0.2.1:32000")
				if err != nil {
					return err
				}
				defer conn.Close()
				fmt.Fprint(conn, "GET /healthz HTTP/1.0\r\n\r\n")
				answer, err := io.ReadAll(conn)
				if err == nil && !strings.HasPrefix(string(answer), "HTTP/1.0 "+want) {
					err = fmt.Errorf("answer %.40q, want %s", answer, want)
				}
				return err
			})
		})
	}
	l.file("web.yaml", text+on(a.name()))
	a.start()
	a.ready()
	asked("200 OK")
	l.file("web.yaml", text+on("another"))
	asked("503 Service Unavailable")

	taken := make(chan net.Listener, 1)
	l.must(a.Do(func() error {
		ln, err := net.Listen("tcp", "192.0.2.1:32001")
		taken <- ln
		return err
	}))
	defer (<-taken).Close()
	l.file("web.yaml", strings.ReplaceAll(text, "32000", "32001")+on(a.name()))
	a.until("a port that is taken", func(s api.Status) bool { return problem(s, problemHealthCheck) })
	l.file("web.yaml", "")
	a.until("all well", func(s api.Status) bool { return len(s.Problems) == 0 })
}

func TestPodsReachServices(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	for _, m := range []*machine{a, b} {
		m.usual()
		m.start()
	}
	a.ready()
	b.ready()
	client, near, far := a.attach(), a.attach(), b.attach()
	l.reach(converge, client.NS, far)
	for _, tc := range []struct {
		name string
		to   *pod
	}{{"on its node", near}, {"on another node", far}} {
		text := strings.ReplaceAll(serviceText("echo", "10.96.0.7"), "{port: 80, nodePort: 30080}", "{port: 7, protocol: UDP}")
		ends := strings.ReplaceAll(sliceText("echo", tc.to.addrs[0].String()), "{port: 8080}", "{port: 7, protocol: UDP}")
		l.file("echo.yaml", strings.ReplaceAll(text, "NodePort", "ClusterIP")+"---\n"+ends)
		a.served(soon, "backends", true, tc.to.addrs[0].String())
		testnet.Until(t, soon, func() error {
			if err := ask(client.NS, addr("10.96.0.7")); err != nil {
				return fmt.Errorf("%s: %w", tc.name, err)
			}
			return nil
		})
	}
	l.file("echo.yaml", "")
	a.served(soon, "frontends", false, "10.96.0.7")
	if err := ask(client.NS, addr("10.96.0.7")); err == nil {
		t.Error("a Service that was deleted still answers")
	}
}
