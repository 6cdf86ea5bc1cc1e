package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// story is what is told, act by act.
type story struct {
	c   *cluster.Cluster
	all []*cluster.Pod // two on each node, in order

	shop     []net.Listener // of the Service's backends
	shopPods string         // their objects
}

const picture = `
      node-1                   node-2                   node-3
 ┌───────────────┐        ┌───────────────┐        ┌───────────────┐
 │ pod-1a pod-1b │        │ pod-2a pod-2b │        │ pod-3a pod-3b │
 │   │ veth  │   │        │   │       │   │        │   │       │   │
 │  eBPF ── eBPF │        │  eBPF ── eBPF │        │  eBPF ── eBPF │
 │      eth0     │        │      eth0     │        │      eth0     │
 └───────┼───────┘        └───────┼───────┘        └───────┼───────┘
         └───── VXLAN, UDP 8872 ──┴──── a bridge ──────────┴──── outside
`

// title is bold on a terminal.
func title(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if _, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS); err == nil {
		text = "\033[1m" + text + "\033[0m"
	}
	fmt.Println("\n" + text)
}

func table(f func(w *tabwriter.Writer)) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	f(w)
	w.Flush()
}

func (s *story) nodes(context.Context) error {
	title("Three nodes, each a network namespace of this machine")
	fmt.Print(picture)
	table(func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "  NODE\tADDRESSES\tPOD CIDRS")
		for _, n := range s.c.Nodes {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", n.Name, join(n.Addrs), join(n.PodCIDRs))
		}
	})
	return nil
}

func join[T fmt.Stringer](v []T) string {
	var all []string
	for _, x := range v {
		all = append(all, x.String())
	}
	return strings.Join(all, ", ")
}

func (s *story) daemons(ctx context.Context) error {
	begin := time.Now()
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.c.Start(ready); err != nil {
		return err
	}
	title("weftd runs on each: ready after %d ms", time.Since(begin).Milliseconds())
	fmt.Println("  They know each other from three YAML files of Node objects; no server, no lease.")
	return nil
}

func (s *story) pods(ctx context.Context) error {
	title("Pods, by CNI ADD through libcni")
	var err error
	table(func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "  POD\tNODE\tIPV4\tIPV6\tADD")
		for _, n := range s.c.Nodes {
			for _, letter := range []string{"a", "b"} {
				begin := time.Now()
				var p *cluster.Pod
				if p, err = n.AddPod(ctx, fmt.Sprintf("pod-%d%s", n.Number, letter)); err != nil {
					return
				}
				s.all = append(s.all, p)
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%d ms\n", p.Name, n.Name, p.IP4, p.IP6, time.Since(begin).Milliseconds())
			}
		}
	})
	return err
}

// talk asks from each pod each other one, in both families, over TCP and UDP, and
// looks whose address the question comes from.
func (s *story) talk(ctx context.Context) error {
	title("Every pod asks every other one: TCP and UDP, IPv4 and IPv6")
	count := map[string]int{}
	for _, to := range s.all {
		for i, addr := range to.Addrs() {
			server, err := traffic.Serve(to.NS, netip.AddrPortFrom(addr, 0))
			if err != nil {
				return err
			}
			at := netip.AddrPortFrom(addr, uint16(server.Port()))
			for _, from := range s.all {
				if from == to {
					continue
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				for _, ask := range []func(*testnet.NS, netip.AddrPort, time.Duration) (netip.Addr, error){traffic.Ask, traffic.AskUDP} {
					seen, err := ask(from.NS, at, 3*time.Second)
					if err != nil {
						return fmt.Errorf("%s to %s: %w", from.Name, to.Name, err)
					}
					if seen != from.Addrs()[i] {
						return fmt.Errorf("%s to %s: source seen is %s, want %s", from.Name, to.Name, seen, from.Addrs()[i])
					}
					if from.Node == to.Node {
						count["same"]++
					} else {
						count["cross"]++
					}
				}
			}
			server.Close()
		}
	}
	fmt.Printf("  %d of %d on the same node, %d of %d between nodes; each saw the pod's own address\n",
		count["same"], count["same"], count["cross"], count["cross"])

	p := s.all[0]
	for i, outside := range []netip.Addr{cluster.Outside4, cluster.Outside6} {
		server, err := traffic.Serve(s.c.Outside, netip.AddrPortFrom(outside, 0))
		if err != nil {
			return err
		}
		seen, err := traffic.Ask(p.NS, netip.AddrPortFrom(outside, uint16(server.Port())), 3*time.Second)
		server.Close()
		if err != nil {
			return err
		}
		fmt.Printf("  %s asks %s outside, which sees the node: %s\n", p.Addrs()[i], outside, seen)
	}
	return nil
}

// kill ends all daemons without notice while packets flow.
func (s *story) kill(ctx context.Context) error {
	title("kill -9 of all three daemons, and new ones, while packets flow")
	var streams []*traffic.Stream
	from := s.all[0]
	for i, family := range []string{"IPv4", "IPv6"} {
		for _, to := range []*cluster.Pod{s.all[1], s.all[2]} {
			way := "same node"
			if to.Node != from.Node {
				way = "other node"
			}
			st, err := traffic.Start(family+", "+way, from.NS, to.NS, to.Addrs()[i])
			if err != nil {
				return err
			}
			streams = append(streams, st)
		}
	}
	var failed error
	for _, n := range s.c.Nodes {
		failed = errors.Join(failed, n.Kill())
	}
	if failed == nil {
		ready, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		failed = s.c.Start(ready)
	}
	table(func(w *tabwriter.Writer) {
		for _, st := range streams {
			r := st.Stop()
			fmt.Fprintf(w, "  %s\t%d datagrams, %d lost\tTCP: %d KiB, %s\n", st.Name, r.Sent, r.Lost, r.TCPBytes>>10,
				map[bool]string{true: "unbroken", false: fmt.Sprint(r.Err)}[r.Err == nil])
			if r.Lost > 0 || r.Err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %s, %v", st.Name, r, r.Err))
			}
		}
	})
	return failed
}
