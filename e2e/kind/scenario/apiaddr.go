package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// servers are the addresses that API servers seem to have. There is one server, on the
// control plane's node, which gets these addresses beside its own; they are what the API
// tells of itself, instead of its own.
type servers struct {
	c     *cluster.Cluster
	spare netip.Addr // the next one that nobody has
	bits  int
	now   []netip.Addr
}

// moved is API servers of which each gets another address, one after the other, and each
// time no daemon sees it happen.
func moved(ctx context.Context, c *cluster.Cluster) (err error) {
	s, err := findSpare(ctx, c)
	if err != nil {
		return err
	}
	restore := func() error { return endpointReconciler(context.WithoutCancel(ctx), c, false) }
	if err := endpointReconciler(ctx, c, true); err != nil {
		return errors.Join(err, restore())
	}
	err = s.moveAll(ctx)
	// The daemons learn the server's own address, and lose the others only then.
	err = errors.Join(err, restore())
	clean := context.WithoutCancel(ctx)
	if err == nil {
		err = known(clean, c, nil)
	}
	for _, addr := range s.now {
		err = errors.Join(err, s.change(clean, "del", addr))
	}
	return errors.Join(err, install(clean, c), allWell(clean, c, 2*time.Minute))
}

func (s *servers) moveAll(ctx context.Context) error {
	for range 3 {
		if err := s.add(ctx); err != nil {
			return err
		}
	}
	if err := s.tell(ctx); err != nil {
		return err
	}
	if err := install(ctx, s.c, "kubeletKubeconfig=", "apiServers="+strings.Join(s.endpoints(), ",")); err != nil {
		return err
	}
	configured := slices.Clone(s.now)
	for _, old := range configured {
		if err := s.unseen(ctx, func() error { return s.replace(ctx, old) }); err != nil {
			return fmt.Errorf("API server %s moves: %w", old, err)
		}
	}
	s.c.Say("API servers %v are %v now: all daemons are well", configured, s.now)
	return s.moveByKubelet(ctx)
}

// moveByKubelet replaces all addresses at once, and tells the new one to the kubelets only.
func (s *servers) moveByKubelet(ctx context.Context) error {
	const file = "/etc/kubernetes/kubelet.conf"
	err := s.unseen(ctx, func() error {
		for _, old := range slices.Clone(s.now) {
			if err := s.change(ctx, "del", old); err != nil {
				return err
			}
		}
		s.now = nil
		if err := errors.Join(s.add(ctx), s.tell(ctx)); err != nil {
			return err
		}
		script := fmt.Sprintf("cp -p %[1]s /kubelet.conf; sed 's#server: .*#server: https://%[2]s#' %[1]s > /kubelet.conf.new; mv /kubelet.conf.new %[1]s", file, s.endpoints()[0])
		return errors.Join(everywhere(ctx, s.c, script), install(ctx, s.c))
	})
	if err != nil {
		err = fmt.Errorf("the kubelets have another API server: %w", err)
	} else {
		s.c.Say("API server %v is known from the kubelet's kubeconfig alone: all daemons are well", s.now)
	}
	return errors.Join(err, everywhere(context.WithoutCancel(ctx), s.c, "[ ! -e /kubelet.conf ] || mv /kubelet.conf "+file))
}

// unseen changes something while there is no daemon, and waits until all are back and know
// the servers of then.
func (s *servers) unseen(ctx context.Context, change func() error) error {
	back, err := daemonsAway(ctx, s.c, s.c.Nodes)
	if err == nil {
		err = change()
	}
	if err := errors.Join(err, back()); err != nil {
		return err
	}
	began := time.Now()
	for _, node := range s.c.Nodes {
		err := within(ctx, 3*time.Minute, node+" is well", func(ctx context.Context) error {
			status, err := statusOf(ctx, s.c, node)
			return errors.Join(err, status.well())
		})
		if err != nil {
			return err
		}
	}
	s.c.Say("API servers are %v: the daemons are well %.1fs after they may run", s.now, time.Since(began).Seconds())
	return known(ctx, s.c, s.endpoints())
}

// replace gives one server another address.
func (s *servers) replace(ctx context.Context, old netip.Addr) error {
	s.now = slices.DeleteFunc(s.now, func(a netip.Addr) bool { return a == old })
	return errors.Join(s.change(ctx, "del", old), s.add(ctx), s.tell(ctx))
}

// add gives the server one more address.
func (s *servers) add(ctx context.Context) error {
	addr := s.spare
	s.spare = addr.Next()
	s.now = append(s.now, addr)
	return s.change(ctx, "add", addr)
}

func (s *servers) change(ctx context.Context, verb string, addr netip.Addr) error {
	flags := ""
	if verb == "add" && addr.Is6() {
		flags = " nodad"
	}
	_, err := shell(ctx, s.c, s.c.Nodes[0], fmt.Sprintf("ip addr %s %s/%d dev eth0%s", verb, addr, s.bits, flags))
	return err
}

// endpoints are the addresses with the port.
func (s *servers) endpoints() []string {
	var out []string
	for _, a := range s.now {
		out = append(out, net.JoinHostPort(a.String(), "6443"))
	}
	return out
}

// tell lets the API say who its servers are. The server that ends takes the port away, too; and
// one that has no address makes the slice anew, of IPv4, whatever the cluster has.
func (s *servers) tell(ctx context.Context) error {
	family := "IPv4"
	if s.now[0].Is6() {
		family = "IPv6"
	}
	return within(ctx, time.Minute, "the API servers are told", func(ctx context.Context) error {
		text := fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kubernetes
  namespace: default
  labels: {kubernetes.io/service-name: kubernetes}
addressType: %s
ports: [{name: https, port: 6443, protocol: TCP}]
endpoints:
`, family)
		for _, a := range s.now {
			text += fmt.Sprintf("- addresses: [%q]\n", a)
		}
		var there struct {
			AddressType string `json:"addressType"`
		}
		if err := get(ctx, s.c, &there, "endpointslice", "kubernetes", "--namespace=default"); err == nil && there.AddressType != family {
			if err := kubectl(ctx, s.c, "delete", "endpointslice", "kubernetes", "--namespace=default"); err != nil {
				return err
			}
		}
		return apply(ctx, s.c, text)
	})
}

// known waits until all daemons have written down who the API servers are; nil: what the API
// server says of itself.
func known(ctx context.Context, c *cluster.Cluster, want []string) error {
	for _, node := range c.Nodes {
		err := within(ctx, time.Minute, node+" knows the API servers", func(ctx context.Context) error {
			out, err := shell(ctx, c, node, "cat /var/lib/weft/apiservers.json")
			if err != nil {
				return err
			}
			var learnt struct {
				Servers []string `json:"servers"`
			}
			if err := json.Unmarshal([]byte(out), &learnt); err != nil {
				return fmt.Errorf("read the API servers: %w", err)
			}
			want := want
			if want == nil {
				addr, _, err := ownAddress(ctx, c)
				if err != nil {
					return err
				}
				want = []string{net.JoinHostPort(addr.String(), "6443")}
			}
			slices.Sort(learnt.Servers)
			if want = slices.Sorted(slices.Values(want)); !slices.Equal(learnt.Servers, want) {
				return fmt.Errorf("it knows %v, want %v", learnt.Servers, want)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ownAddress is the control plane's, by its Node, and its subnet's size.
func ownAddress(ctx context.Context, c *cluster.Cluster) (addr netip.Addr, bits int, err error) {
	family := "-4"
	if c.Spec.Family == cluster.IPv6 {
		family = "-6"
	}
	// The first address of a scope beyond the link is the node's own.
	out, err := shell(ctx, c, c.Nodes[0], "ip "+family+" -o addr show dev eth0 scope global")
	if err != nil {
		return addr, 0, err
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if words := strings.Fields(line); len(words) > 3 && !strings.Contains(line, "secondary") {
			p, err := netip.ParsePrefix(words[3])
			if err == nil && !isSpare(p) {
				return p.Addr(), p.Bits(), nil
			}
		}
	}
	return addr, 0, fmt.Errorf("%s has no address: %s", c.Nodes[0], out)
}

// spares is where the addresses begin that the scenario takes, in the last two bytes: the
// engine gives the first ones of its subnet to its containers.
const spares = 0xc8

func isSpare(p netip.Prefix) bool {
	b := p.Addr().AsSlice()
	return b[len(b)-2] == spares
}

// findSpare finds addresses in the nodes' subnet that nobody has.
func findSpare(ctx context.Context, c *cluster.Cluster) (*servers, error) {
	own, bits, err := ownAddress(ctx, c)
	if err != nil {
		return nil, err
	}
	b := own.AsSlice()
	b[len(b)-2], b[len(b)-1] = spares, 1
	spare, _ := netip.AddrFromSlice(b)
	if p := netip.PrefixFrom(own, bits); !p.Contains(spare) {
		return nil, fmt.Errorf("find more addresses for the API server: %s is too small", p)
	}
	return &servers{c: c, spare: spare, bits: bits}, nil
}

// endpointReconciler restarts the API server so that it lets others say who the API servers
// are, or does so itself again.
func endpointReconciler(ctx context.Context, c *cluster.Cluster, off bool) error {
	const flag = "- --endpoint-reconciler-type=none"
	start, err := stopAPI(ctx, c)
	if err == nil {
		script := "sed -i '/" + flag + "/d' /kube-apiserver.yaml"
		if off {
			script += "; sed -i 's/^\\( *\\)- kube-apiserver$/&\\n\\1" + flag + "/' /kube-apiserver.yaml"
		}
		_, err = shell(ctx, c, c.Nodes[0], script)
	}
	return errors.Join(err, start())
}
