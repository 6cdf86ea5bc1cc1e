package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// podObject is a Pod in the folder, with a label; its addresses come from its node.
// metadata is more of that, as in a YAML flow mapping.
func podObject(name, node, app, metadata string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, labels: {app: %s}%s}
spec: {nodeName: %s}
`, name, app, metadata, node)
}

// waitBackends waits until a node serves each port of a Service by so many backends.
func waitBackends(t *testing.T, n *cluster.Node, name string, want int) {
	t.Helper()
	waitAddrs(t, n, name, 2*want)
}

// waitAddrs waits until they have so many addresses, of both families together.
func waitAddrs(t *testing.T, n *cluster.Node, name string, want int) {
	t.Helper()
	testnet.Until(t, 10*time.Second, func() error {
		list, err := n.Client().Services(t.Context(), name)
		if err != nil {
			return err
		}
		if len(list) != 1 {
			return fmt.Errorf("%s: got %d Services of the name %s", n.Name, len(list), name)
		}
		addrs := map[string]bool{}
		for _, b := range list[0].Backends {
			addrs[b.Addr] = true
		}
		if len(addrs) != want {
			return fmt.Errorf("%s: %s has backends %v, want %d addresses", n.Name, name, list[0].Backends, want)
		}
		return nil
	})
}

// named is a server that says its name: first thing on a TCP connection, and to each
// datagram. What it then reads from TCP it writes back, until the client ends.
type named struct {
	name string
	tcp  []*net.TCPListener
	udp  []*net.UDPConn
}

func serveNamed(t *testing.T, p *cluster.Pod) *named {
	t.Helper()
	return serveAs(t, p.Name, p.NS, p.Addrs()...)
}

func serveAs(t *testing.T, name string, ns *testnet.NS, addrs ...netip.Addr) *named {
	t.Helper()
	s := &named{name: name}
	for _, a := range addrs {
		err := ns.Do(func() error {
			tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: a.AsSlice(), Port: 8080})
			if err != nil {
				return err
			}
			s.tcp = append(s.tcp, tcp)
			udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.AsSlice(), Port: 8080})
			if err != nil {
				return err
			}
			s.udp = append(s.udp, udp)
			return testnet.Roomy(udp)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range s.tcp {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if _, err := io.WriteString(conn, s.name+"\n"); err == nil {
						io.Copy(conn, conn)
					}
				}()
			}
		}()
	}
	for _, u := range s.udp {
		go func() {
			b := make([]byte, 2048)
			for {
				_, from, err := u.ReadFromUDPAddrPort(b)
				if errors.Is(err, net.ErrClosed) {
					return
				} else if err == nil {
					u.WriteToUDPAddrPort([]byte(s.name), from)
				}
			}
		}()
	}
	t.Cleanup(s.close)
	return s
}

func (s *named) close() {
	for _, l := range s.tcp {
		l.Close()
	}
	for _, u := range s.udp {
		u.Close()
	}
}

// serviceYAML is a Service of both families with a node port; number is the last part of
// its addresses.
func serviceYAML(name, selector, external string, number, nodePort int) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec:
  type: NodePort
  selector: {app: %s}
  clusterIP: 10.96.0.%[4]d
  clusterIPs: [10.96.0.%[4]d, "fd00:96::%[4]d"]
  externalTrafficPolicy: %[3]s
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080, nodePort: %[5]d}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080, nodePort: %[5]d}
`, name, selector, external, number, nodePort)
}
