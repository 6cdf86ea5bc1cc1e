package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

const shop = `apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {selector: {app: shop}, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, "fd00:96::10"], ports: [{port: 80, targetPort: 8080}]}
`

var shopAddr = netip.MustParseAddrPort("10.96.0.10:80")

// services shows a Service with a backend on each node, and the end of one under load.
func (s *story) services(ctx context.Context) (err error) {
	title("A Service over pods on three nodes, from YAML: %s", shopAddr)
	backends := []*cluster.Pod{s.all[1], s.all[3], s.all[5]}
	client := s.all[0]
	for _, p := range backends {
		if err := s.sayName(p); err != nil {
			return err
		}
		s.shopPods += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {app: shop}}\nspec: {nodeName: %s}\n",
			p.Name, p.Node.Name)
	}
	if err := s.c.WriteObject("shop", shop+s.shopPods); err != nil {
		return err
	}
	seen := map[string]bool{}
	all, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := testnet.Wait(all, func() error {
		name, err := whoAnswers(client)
		seen[name] = true
		if err == nil && len(seen) < len(backends) {
			err = errors.New("not all backends answer yet")
		}
		return err
	}); err != nil {
		return err
	}
	const connections = 600
	count := map[string]int{}
	for range connections {
		name, err := whoAnswers(client)
		if err != nil {
			return err
		}
		count[name]++
	}
	fmt.Printf("  %d connections of %s:\n", connections, client.Name)
	table(func(w *tabwriter.Writer) {
		for _, p := range backends {
			fmt.Fprintf(w, "    %s\t%s\t%d\n", p.Name, p.Node.Name, count[p.Name])
		}
	})
	return s.end(ctx, client, backends[2])
}

// end deletes a backend under load.
func (s *story) end(ctx context.Context, client, gone *cluster.Pod) error {
	var mu sync.Mutex
	var last time.Time // when a request began that failed
	done, failed := 0, 0
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				start := time.Now()
				_, err := whoAnswers(client)
				mu.Lock()
				done++
				if err != nil {
					failed++
					last = start
				}
				mu.Unlock()
			}
		})
	}
	begin := time.Now()
	err := gone.Del(ctx)
	s.all = slices.DeleteFunc(s.all, func(p *cluster.Pod) bool { return p == gone })
	select {
	case <-time.After(1500 * time.Millisecond):
	case <-ctx.Done():
	}
	close(stop)
	wg.Wait()
	when := ""
	if failed > 0 {
		when = fmt.Sprintf(", the last of them begun %d ms after DEL was", last.Sub(begin).Milliseconds())
	}
	fmt.Printf("  %s is deleted without notice: of %d requests %d failed%s\n", gone.Name, done, failed, when)
	return err
}

// sayName serves the pod's name on port 8080, and then says what it hears.
func (s *story) sayName(p *cluster.Pod) error {
	for _, a := range p.Addrs() {
		var l net.Listener
		err := p.NS.Do(func() (err error) {
			l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: a.AsSlice(), Port: 8080})
			return err
		})
		if err != nil {
			return err
		}
		s.shop = append(s.shop, l)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if _, err := io.WriteString(conn, p.Name+"\n"); err == nil {
						io.Copy(conn, conn)
					}
				}()
			}
		}()
	}
	return nil
}

func whoAnswers(from *cluster.Pod) (string, error) {
	return whoAnswersAt(from.NS, shopAddr, 2*time.Second)
}

func whoAnswersAt(from *testnet.NS, at netip.AddrPort, timeout time.Duration) (string, error) {
	conn, name, err := visit(from, at, timeout)
	if err != nil {
		return "", err
	}
	return name, conn.Close()
}

// visit opens a connection to a server of sayName; its name has been read.
func visit(from *testnet.NS, at netip.AddrPort, timeout time.Duration) (net.Conn, string, error) {
	conn, err := traffic.Dial(from, "tcp", at, timeout)
	if err != nil {
		return nil, "", err
	}
	conn.SetDeadline(time.Now().Add(timeout))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	return conn, line[:len(line)-1], nil
}
