package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/echo"
	"github.com/weftnet/weft/e2e/kind/proc"
)

const (
	askRate = 1000 // per second, of all nodes' clients together
	askMost = 8    // under way at a time, of each
)

var services = []string{"order-service", "user-service"}

// busy is the example, asked by a pod of each node, by name.
type busy struct {
	c        *cluster.Cluster
	ns       string
	clients  []pod
	replicas int
}

// example installs the example and asks it all the time, while its replicas are scaled and
// killed. Requests are spread evenly; none fails, except those on connections of killed ones.
func example(ctx context.Context, c *cluster.Cluster) (err error) {
	b := &busy{c: c, ns: "example", replicas: 3}
	remove, err := namespace(ctx, c, b.ns)
	defer func() { err = errors.Join(err, remove()) }()
	if err == nil {
		err = apply(ctx, c, echoes(b.ns))
	}
	if err == nil {
		err = kubectl(ctx, c, "apply", "--namespace="+b.ns, "--filename="+c.File(cluster.Example))
	}
	if err == nil {
		err = errors.Join(b.settled(ctx), rolledOut(ctx, c, b.ns, "daemonset/echo"))
	}
	if err != nil {
		return err
	}
	if b.clients, err = podsOf(ctx, c, "--namespace="+b.ns, "--selector=app=echo"); err != nil {
		return err
	}
	if err := b.otherWays(ctx); err != nil {
		return err
	}
	return b.play(ctx)
}

func (b *busy) play(ctx context.Context) error {
	a, err := b.while(ctx, func(ctx context.Context) error { return pause(ctx, 8*time.Second) })
	if err == nil {
		err = b.unharmed("with three replicas", a, 0)
	}
	if err == nil {
		err = b.spread(a)
	}
	if err != nil {
		return err
	}
	a, err = b.while(ctx, func(ctx context.Context) error {
		for _, n := range []int{10, 2, 3} {
			if err := b.scale(ctx, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = b.unharmed("scaled from 3 to 10, 2 and 3", a, 0)
	}
	if err != nil {
		return err
	}
	a, err = b.while(ctx, b.kill)
	if err != nil {
		return err
	}
	return b.unharmed("two replicas killed", a, 2*askMost*len(b.clients))
}

// settled waits until all replicas there should be are ready, and no others are left.
func (b *busy) settled(ctx context.Context) error {
	for _, s := range services {
		if err := rolledOut(ctx, b.c, b.ns, "deployment/"+s); err != nil {
			return err
		}
		err := within(ctx, 4*time.Minute, fmt.Sprintf("%s has %d replicas", s, b.replicas), func(ctx context.Context) error {
			pods, err := podsOf(ctx, b.c, "--namespace="+b.ns, "--selector=app="+s)
			if err == nil && len(pods) != b.replicas {
				err = fmt.Errorf("it has %d", len(pods))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *busy) scale(ctx context.Context, n int) error {
	b.replicas = n
	if err := kubectl(ctx, b.c, "scale", "--namespace="+b.ns, "--replicas="+strconv.Itoa(n), "deployment/"+services[0], "deployment/"+services[1]); err != nil {
		return err
	}
	return b.settled(ctx)
}

// kill takes one replica of each service away by force: without the time in which it would
// end by itself.
func (b *busy) kill(ctx context.Context) error {
	for _, s := range services {
		pods, err := podsOf(ctx, b.c, "--namespace="+b.ns, "--selector=app="+s)
		if err != nil {
			return err
		}
		if err := kubectl(ctx, b.c, "delete", "pod", "--namespace="+b.ns, "--force", "--grace-period=0", pods[0].Metadata.Name); err != nil {
			return err
		}
		if err := b.settled(ctx); err != nil {
			return err
		}
	}
	return nil
}

// while asks as long as f takes.
func (b *busy) while(ctx context.Context, f func(context.Context) error) (echo.Answers, error) {
	order, err := json.Marshal(echo.Questions{URL: "http://order-service", Rate: max(1, askRate/len(b.clients)), Most: askMost})
	if err != nil {
		return echo.Answers{}, err
	}
	type said struct {
		out []byte
		err error
	}
	heard := make(chan said, len(b.clients))
	var ends []io.Closer
	for _, p := range b.clients {
		// Not through the API server: kubectl gives up on a stream that is silent for a minute.
		cmd := b.c.Exec(ctx, p.Spec.NodeName, "sh", "-ec", fmt.Sprintf(
			"exec crictl exec --interactive $(crictl ps --quiet --state running --label io.kubernetes.pod.uid=%s) /echo %s", p.Metadata.UID, echo.Ask))
		in, end := io.Pipe()
		cmd.Stdin = in
		ends = append(ends, end)
		go func() {
			out, err := proc.Output(cmd)
			heard <- said{out, errors.Join(err, in.Close())}
		}()
		go func() { _, _ = end.Write(append(order, '\n')) }() // who cannot read says so at the end
	}
	err = f(ctx)
	all := echo.Answers{Order: map[string]int{}, User: map[string]int{}}
	for _, end := range ends {
		err = errors.Join(err, end.Close())
	}
	for range b.clients {
		s := <-heard
		var a echo.Answers
		if s.err == nil {
			s.err = json.Unmarshal(s.out, &a)
		}
		if s.err != nil {
			err = errors.Join(err, fmt.Errorf("ask the example: %w", s.err))
		}
		all.Asked, all.Cut, all.Failed = all.Asked+a.Asked, all.Cut+a.Cut, all.Failed+a.Failed
		all.Took, all.Slowest = max(all.Took, a.Took), max(all.Slowest, a.Slowest)
		all.Errors = append(all.Errors, a.Errors...)
		for pod, n := range a.Order {
			all.Order[pod] += n
		}
		for pod, n := range a.User {
			all.User[pod] += n
		}
	}
	return all, err
}

// unharmed is nil if no request failed but for at most so many connections of the killed.
func (b *busy) unharmed(what string, a echo.Answers, most int) error {
	b.c.Say("the example, %s: %d requests, %.0f per second, the slowest %s; %d failed, %d connections were cut",
		what, a.Asked, float64(a.Asked)/a.Took.Seconds(), a.Slowest.Round(time.Millisecond), a.Failed, a.Cut)
	if a.Asked == 0 || a.Failed > 0 || a.Cut > most {
		return fmt.Errorf("the example, %s: of %d requests %d failed and %d connections were cut, want at most %d cut: %s",
			what, a.Asked, a.Failed, a.Cut, most, strings.Join(a.Errors, "; "))
	}
	return nil
}

// spread is nil if each replica got its part. Chance chooses, so what one gets differs from
// that; six standard deviations are one case in a billion.
func (b *busy) spread(a echo.Answers) error {
	for i, got := range []map[string]int{a.Order, a.User} {
		part := float64(a.Asked) / float64(b.replicas)
		off := 6 * math.Sqrt(part*(1-1/float64(b.replicas)))
		for pod, n := range got {
			if len(got) != b.replicas || math.Abs(float64(n)-part) > off {
				return fmt.Errorf("%s: %s got %d of %v, want %.0f ± %.0f for each of %d", services[i], pod, n, got, part, off, b.replicas)
			}
		}
		b.c.Say("%s: its replicas got %v requests", services[i], slices.Sorted(maps.Values(got)))
	}
	return nil
}

// otherWays asks both services on all nodes' addresses by their node port.
func (b *busy) otherWays(ctx context.Context) error {
	for _, s := range services {
		var service struct {
			Spec struct {
				Type  string `json:"type"`
				Ports []struct {
					NodePort int `json:"nodePort"`
				} `json:"ports"`
			} `json:"spec"`
		}
		if err := get(ctx, b.c, &service, "service", s, "--namespace="+b.ns); err != nil {
			return err
		}
		if service.Spec.Type != "LoadBalancer" || len(service.Spec.Ports) != 1 {
			return fmt.Errorf("%s: got %+v, want a LoadBalancer of one port", s, service.Spec)
		}
		nodes, err := nodeAddresses(ctx, b.c)
		if err != nil {
			return err
		}
		for _, t := range targetsAt("", service.Spec.Ports[0].NodePort, nodes) {
			err := within(ctx, 10*time.Second, s+" answers at "+t.Addr, func(ctx context.Context) error {
				out, err := proc.Output(b.c.Command(ctx, "curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "5", "http://"+t.Addr))
				if err == nil && !strings.Contains(string(out), `"service":"`+s+`"`) {
					err = fmt.Errorf("got %q", out)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// nodeAddresses are those of all nodes.
func nodeAddresses(ctx context.Context, c *cluster.Cluster) ([]string, error) {
	out, err := proc.Output(c.Kubectl(ctx, "get", "nodes", "--output=jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}"))
	return strings.Fields(string(out)), err
}

// pause lets time pass.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
