package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
)

// shopPool has one address of each family, on the nodes' link. It is the turn of node-3 to
// announce them, which by then has no pod of the shop: those would die with it.
const shopPool = `[{"name": "lan", "addresses": ["172.18.0.105", "fd18::1:1"]}]`

// outside gives the Service addresses for clients outside, and cuts off the node that
// announces them.
func (s *story) outside(ctx context.Context) error {
	title("The shop for the world outside: type LoadBalancer, an address of a pool, direct answers")
	text := strings.Replace(shop, "namespace: default}", "namespace: default, annotations: {weft.dev/forwarding: dsr}}", 1)
	text = strings.Replace(text, "spec: {", "spec: {type: LoadBalancer, loadBalancerClass: weft.dev/l2, ", 1)
	begin := time.Now()
	if err := s.c.WriteObject("shop", text+s.shopPods); err != nil {
		return err
	}
	var at []netip.AddrPort
	var by string
	if err := s.until(ctx, func() (err error) {
		if at, by, err = s.announced(ctx); err == nil {
			_, err = whoAnswersAt(s.c.Outside, at[0], 200*time.Millisecond)
		}
		return err
	}); err != nil {
		return err
	}
	fmt.Printf("  %s are announced by %s, and answer after %d ms\n", join(at), by, time.Since(begin).Milliseconds())
	const connections = 300
	table(func(w *tabwriter.Writer) {
		for _, a := range at {
			count := map[string]int{}
			for range connections {
				name, err := whoAnswersAt(s.c.Outside, a, 2*time.Second)
				if err != nil {
					name = "nobody"
				}
				count[name]++
			}
			fmt.Fprintf(w, "  %d connections from outside to %s:", connections, a)
			for _, p := range s.all {
				if n := count[p.Name]; n > 0 {
					fmt.Fprintf(w, "\t%s %d", p.Name, n)
				}
			}
			if n := count["nobody"]; n > 0 {
				fmt.Fprintf(w, "\tnobody %d", n)
			}
			fmt.Fprintln(w)
		}
	})
	return s.cut(ctx, at[0], by)
}

// announced is where the shop is served for outside, and which node announces that.
func (s *story) announced(ctx context.Context) (at []netip.AddrPort, by string, err error) {
	list, err := s.c.Nodes[0].Client().Services(ctx, "default/shop")
	if err != nil {
		return nil, "", err
	}
	for _, f := range list[0].Fronts {
		if f.Kind == "LB" && f.Announcer != "" && !strings.HasSuffix(f.Announcer, "?") {
			at, by = append(at, netip.AddrPortFrom(netip.MustParseAddr(f.Addr), f.Port)), f.Announcer
		}
	}
	if len(at) != 2 {
		return nil, "", errors.New("not both addresses of the shop are announced yet")
	}
	return at, by, nil
}

// cut cuts the link of the node that announces an address, and watches who is answered.
func (s *story) cut(ctx context.Context, at netip.AddrPort, by string) (err error) {
	open, server, err := visit(s.c.Outside, at, 2*time.Second)
	if err != nil {
		return err
	}
	defer open.Close()
	if err := s.c.Bridge.IP("link", "set", by, "down"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.c.Bridge.IP("link", "set", by, "up")) }()
	begin := time.Now()
	goesOn := make(chan error, 1)
	var goes time.Duration
	go func() {
		err := echoes(open)
		goes = time.Since(begin)
		goesOn <- err
	}()
	if err := s.until(ctx, func() error {
		_, err := whoAnswersAt(s.c.Outside, at, 100*time.Millisecond)
		return err
	}); err != nil {
		return err
	}
	fresh := time.Since(begin)
	if err := <-goesOn; err != nil {
		return fmt.Errorf("a connection to %s after the end of %s: %w", server, by, err)
	}
	fmt.Printf("  the link of %s is cut: a new connection is answered after %d ms, through %s;\n", by, fresh.Milliseconds(), s.successor(ctx, by))
	fmt.Printf("  one that was open, to %s, goes on after %d ms\n", server, goes.Milliseconds())
	return nil
}

// successor is who announces the shop now.
func (s *story) successor(ctx context.Context, gone string) string {
	for _, n := range s.c.Nodes {
		if n.Name == gone {
			continue
		}
		if st, err := n.Client().Status(ctx); err == nil && st.Announce.Own > 0 {
			return n.Name
		}
	}
	return "another node"
}

// echoes says something on a connection and waits until it comes back.
func echoes(conn net.Conn) error {
	const text = "still there"
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	b := make([]byte, len(text))
	n, err := conn.Read(b)
	if err == nil && string(b[:n]) != text {
		err = fmt.Errorf("%q comes back", b[:n])
	}
	return err
}
