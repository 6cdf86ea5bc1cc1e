package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// outsiders are who asks from outside: of no network of the cluster, because upstream's tests
// take who has an address of the nodes' network for a node.
var outsiders = map[bool]string{true: "192.0.2.1", false: "2001:db8:2::1"} // by whether it is IPv4

// pooled sets pools of the nodes' own network, for Services without a class, too, and a way
// to them for who is outside. The control plane's node may announce, too: upstream's tests
// want each node that takes pods to. All that stays.
func pooled(ctx context.Context, c *cluster.Cluster) error {
	nodes, err := nodeAddresses(ctx, c)
	if err != nil {
		return err
	}
	var ranges []string
	for _, node := range nodes {
		a, err := netip.ParseAddr(node)
		if err != nil {
			return fmt.Errorf("address of a node: %w", err)
		}
		pool := poolBeside(a)
		last := pool.Addr().AsSlice()
		last[len(last)-1] = 0xfb // see beside
		end, _ := netip.AddrFromSlice(last)
		if r := pool.Addr().String() + "-" + end.String(); !slices.Contains(ranges, r) {
			ranges = append(ranges, r)
			if err := proc.Run(c.Command(ctx, "sh", "-ec", wayIn(pool, a))); err != nil {
				return err
			}
		}
	}
	if err := kubectl(ctx, c, "label", "nodes", "--all", "node.kubernetes.io/exclude-from-external-load-balancers-"); err != nil {
		return err
	}
	pools, err := json.Marshal([]any{map[string]any{"name": "nodes", "addresses": ranges}})
	if err != nil {
		return fmt.Errorf("write the pools: %w", err)
	}
	return errors.Join(install(ctx, c, "loadBalancerDefault=true", "loadBalancerPools="+string(pools)), allWell(ctx, c, time.Minute))
}

// wayIn is the shell's commands by which an outsider asks a pool's addresses, on the link of a
// node. They may be repeated.
func wayIn(pool netip.Prefix, node netip.Addr) string {
	return fmt.Sprintf("ip addr replace %s dev lo; ip route replace %s dev $(ip -o route get %s | sed 's/.* dev \\([^ ]*\\).*/\\1/') src %[1]s",
		outsiders[node.Is4()], pool, node)
}

// poolBeside is the last 128 addresses of a node's network, where the engine gives none: its
// networks are of 16 bits, and 64 in IPv6.
func poolBeside(node netip.Addr) netip.Prefix {
	b, network := node.AsSlice(), 8
	if node.Is4() {
		network = 2
	}
	for i := network; i < len(b); i++ {
		b[i] = 0xff
	}
	last, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(last, last.BitLen()-7).Masked()
}

// balanced is a Service of the example, as its status shows it.
type balanced struct {
	c    *cluster.Cluster
	name string
}

const balancedIn = "outside"

// reached installs the example, of LoadBalancer Services without a class, and asks it from
// outside the cluster at the addresses that they get.
func reached(ctx context.Context, c *cluster.Cluster) (err error) {
	remove, err := namespace(ctx, c, balancedIn)
	defer func() { err = errors.Join(err, remove()) }()
	if err == nil {
		err = kubectl(ctx, c, "apply", "--namespace="+balancedIn, "--filename="+c.File(cluster.Example))
	}
	for _, name := range services {
		if err == nil {
			err = rolledOut(ctx, c, balancedIn, "deployment/"+name)
		}
	}
	if err != nil {
		return err
	}
	var taken []string
	for _, name := range services {
		s := balanced{c, name}
		addrs, err := s.granted(ctx, "Allocated", nil)
		if err == nil {
			err = s.spread(ctx, addrs)
		}
		if err != nil {
			return err
		}
		taken = append(taken, addrs...)
	}
	s := balanced{c, services[1]}
	if err := s.wishes(ctx, taken); err != nil {
		return err
	}
	return s.moves(ctx)
}

// granted waits until the Service has one address of each family, those that are wanted if
// any are, for this reason, of which an event tells, too.
func (s balanced) granted(ctx context.Context, reason string, want []string) (got []string, err error) {
	err = within(ctx, 20*time.Second, fmt.Sprintf("%s has addresses: %s", s.name, reason), func(ctx context.Context) error {
		var service struct {
			Status struct {
				LoadBalancer struct {
					Ingress []struct{ IP, IPMode string }
				}
				Conditions []struct{ Type, Status, Reason, Message string }
			}
		}
		if err := get(ctx, s.c, &service, "service", s.name, "--namespace="+balancedIn); err != nil {
			return err
		}
		got = nil
		for _, i := range service.Status.LoadBalancer.Ingress {
			got = append(got, i.IP)
		}
		for _, c := range service.Status.Conditions {
			if len(got) == s.c.Spec.Families() && c.Type == "weft.dev/LoadBalancerAddress" && c.Reason == reason && (want == nil || slices.Equal(got, want)) {
				return nil
			}
		}
		return fmt.Errorf("want %v, its status is %+v", want, service.Status)
	})
	return got, err
}

// ask asks an address of the Service once, from outside.
func (s balanced) ask(ctx context.Context, addr string) (pod string, err error) {
	out, err := proc.Output(s.c.Command(ctx, "curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "1",
		"http://"+netip.AddrPortFrom(netip.MustParseAddr(addr), 80).String()))
	if err != nil {
		return "", err
	}
	var answer struct{ Service, Pod string }
	if err := json.Unmarshal(out, &answer); err != nil || answer.Service != s.name {
		return "", fmt.Errorf("at %s, %s is wanted: got %q: %w", addr, s.name, out, err)
	}
	return answer.Pod, nil
}

// spread asks until each replica has answered at each address. Chance chooses: that 100
// questions miss one of three is one case in 10^17.
func (s balanced) spread(ctx context.Context, addrs []string) error {
	for _, addr := range addrs {
		if err := within(ctx, 10*time.Second, s.name+" answers at "+addr, func(ctx context.Context) error {
			_, err := s.ask(ctx, addr)
			return err
		}); err != nil {
			return err
		}
		got := map[string]int{}
		for range 100 {
			pod, err := s.ask(ctx, addr)
			if err != nil {
				return err
			}
			got[pod]++
		}
		if len(got) != 3 {
			return fmt.Errorf("%s at %s: %v answered, want 3 replicas", s.name, addr, got)
		}
	}
	return nil
}

// beside is an address of the same pool that is not taken.
func beside(addr string, taken []string) string {
	b := netip.MustParseAddr(addr).AsSlice()
	for n := byte(1); ; n++ { // two Services can have two of the next three
		next := slices.Clone(b)
		next[len(next)-1] ^= n
		if a, _ := netip.AddrFromSlice(next); !slices.Contains(taken, a.String()) {
			return a.String()
		}
	}
}

// wishes asks for an address that is in no pool, then for one that is; and has the Service
// be none of a load balancer for a while.
func (s balanced) wishes(ctx context.Context, taken []string) error {
	const wish = "weft.dev/load-balancer-ips="
	had, err := s.granted(ctx, "Allocated", nil)
	if err != nil {
		return err
	}
	in := "--namespace=" + balancedIn
	foreign := outsiders[netip.MustParseAddr(had[0]).Is4()] // in no pool
	if err := kubectl(ctx, s.c, "annotate", in, "service/"+s.name, wish+foreign); err != nil {
		return err
	}
	if _, err := s.granted(ctx, "RequestRefused", had); err != nil {
		return err
	}
	if err := within(ctx, 20*time.Second, "an event tells of the refusal", func(ctx context.Context) error {
		out, err := proc.Output(s.c.Kubectl(ctx, "get", "events", in, "--field-selector=reason=LoadBalancerRequestRefused", "--output=jsonpath={.items[*].message}"))
		if err == nil && !strings.Contains(string(out), foreign+" is in no pool") {
			err = fmt.Errorf("got %q", out)
		}
		return err
	}); err != nil {
		return err
	}
	want := append([]string{beside(had[0], taken)}, had[1:]...)
	if err := s.patched(ctx, "ClusterIP", nil); err != nil {
		return err
	}
	if err := kubectl(ctx, s.c, "annotate", in, "service/"+s.name, "--overwrite", wish+want[0]); err != nil {
		return err
	}
	if err := s.patched(ctx, "LoadBalancer", want); err != nil {
		return err
	}
	return s.spread(ctx, want)
}

// patched changes the Service's type, and waits until it has these addresses, or none.
func (s balanced) patched(ctx context.Context, typ string, want []string) error {
	if err := kubectl(ctx, s.c, "patch", "service", s.name, "--namespace="+balancedIn, "--patch", `{"spec": {"type": "`+typ+`"}}`); err != nil {
		return err
	}
	if want != nil {
		_, err := s.granted(ctx, "Allocated", want)
		return err
	}
	return within(ctx, 20*time.Second, "the addresses of "+s.name+" are taken back", func(ctx context.Context) error {
		out, err := proc.Output(s.c.Kubectl(ctx, "get", "service", s.name, "--namespace="+balancedIn, "--output=jsonpath={.status}"))
		if err == nil && string(out) != `{"loadBalancer":{}}` {
			err = fmt.Errorf("its status is %s", out)
		}
		return err
	})
}

// moves cuts the link of the node that announces the Service's first address. Another one
// does then, and the first one again when it is back.
func (s balanced) moves(ctx context.Context) error {
	addrs, err := s.granted(ctx, "Allocated", nil)
	if err != nil {
		return err
	}
	before, err := s.announcer(ctx, addrs[0], s.c.Nodes[0])
	if err != nil {
		return err
	}
	up, err := s.cut(ctx, before)
	began := time.Now()
	if err == nil {
		// Of the replicas, those of the node that is cut off do not answer.
		err = within(ctx, 20*time.Second, s.name+" answers at "+addrs[0]+" without "+before, func(ctx context.Context) error {
			_, err := s.ask(ctx, addrs[0])
			return err
		})
	}
	if err == nil {
		s.c.Say("%s announced %s; its link cut, another answers after %.1fs", before, addrs[0], time.Since(began).Seconds())
		err = s.without(ctx, addrs[0], began)
	}
	if err := errors.Join(err, up()); err != nil {
		return err
	}
	return errors.Join(
		allWell(ctx, s.c, time.Minute),
		within(ctx, time.Minute, before+" announces "+addrs[0]+" again", func(ctx context.Context) error {
			now, err := s.announcer(ctx, addrs[0], before)
			if err == nil && now != before {
				err = fmt.Errorf("%s does", now)
			}
			return err
		}))
}

// without waits until no replica is asked that is on a node whose link was cut, which
// Kubernetes does not know before 40 seconds have gone.
func (s balanced) without(ctx context.Context, addr string, cut time.Time) error {
	const inARow = 30 // that chance keeps them from one of three replicas is one case in 190,000
	err := within(ctx, 30*time.Second-time.Since(cut), fmt.Sprintf("%s answers at %s %d times in a row", s.name, addr, inARow), func(ctx context.Context) error {
		for range inARow {
			if _, err := s.ask(ctx, addr); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.c.Say("%d questions in a row had an answer %.1fs after the cut", inARow, time.Since(cut).Seconds())
	}
	return err
}

// announcer is the node that announces an address, as another one sees it.
func (s balanced) announcer(ctx context.Context, addr, seenBy string) (name string, err error) {
	err = within(ctx, 20*time.Second, "some node announces "+addr, func(ctx context.Context) error {
		var shown []struct {
			Fronts []struct{ Addr, Announcer string }
		}
		if err := weft(ctx, s.c, seenBy, &shown, "services", balancedIn+"/"+s.name); err != nil {
			return err
		}
		for _, v := range shown {
			for _, f := range v.Fronts {
				if f.Addr == addr && f.Announcer != "" {
					name = strings.TrimSuffix(f.Announcer, "?")
					return nil
				}
			}
		}
		return fmt.Errorf("weft services shows %+v", shown)
	})
	return name, err
}

// cut takes the link of a node away, as if its cable were pulled.
func (s balanced) cut(ctx context.Context, node string) (up func() error, err error) {
	index, err := shell(ctx, s.c, node, "cat /sys/class/net/eth0/iflink")
	if err != nil {
		return func() error { return nil }, err
	}
	set := func(ctx context.Context, to string) error {
		return proc.Run(s.c.Command(ctx, "sh", "-ec",
			"ip link set dev $(ip -o link | sed -n 's/^"+strings.TrimSpace(index)+": \\([^@:]*\\).*/\\1/p') "+to))
	}
	return func() error { return set(context.WithoutCancel(ctx), "up") }, set(ctx, "down")
}
