package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// prompt is how soon the other nodes must follow a change of a Node.
const prompt = 5 * time.Second

// rejoin is a node that leaves the cluster, and comes back with other pod prefixes.
func rejoin(ctx context.Context, c *cluster.Cluster) error {
	return withoutLast(ctx, c, "rejoined", "a node leaves and rejoins", func(node string, others []string) error {
		var before []traces
		for _, other := range others {
			t, err := look(ctx, c, other)
			if err != nil {
				return err
			}
			before = append(before, t.ofPeers())
		}
		former, err := leaveCluster(ctx, c, node, others)
		var now []netip.Prefix
		if err == nil {
			now, err = admit(ctx, c, node, former)
		}
		known := routes(ctx, c, others, now, true)
		defer known.stop()
		_, started := shell(context.WithoutCancel(ctx), c, node, "systemctl start kubelet")
		if err := errors.Join(err, started); err != nil {
			return err
		}
		if err := comeBack(ctx, c, node, known, now); err != nil {
			return err
		}
		for i, other := range others {
			err := within(ctx, settled, other+" has as much of its peers as before", func(ctx context.Context) error {
				t, err := look(ctx, c, other)
				if err != nil {
					return err
				}
				return t.ofPeers().tally().since(before[i].tally())
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// ofPeers is what a node has of other nodes. It may have pods that it had not before: those
// of the node that has left.
func (t traces) ofPeers() traces {
	return slices.DeleteFunc(slices.Clone(t), func(line string) bool {
		return (!strings.HasPrefix(line, "route ") || !strings.Contains(line, " via ")) && !strings.HasPrefix(line, "table peers ")
	})
}

// leaveCluster takes a node out of the cluster as one does who will not see it again.
func leaveCluster(ctx context.Context, c *cluster.Cluster, node string, others []string) (former []netip.Prefix, err error) {
	if former, err = prefixesOf(ctx, c, node); err != nil {
		return nil, err
	}
	if _, err := shell(ctx, c, node, "systemctl stop kubelet"); err != nil {
		return nil, err
	}
	gone := routes(ctx, c, others, former, false)
	began := time.Now()
	deleted := kubectl(ctx, c, "delete", "node", node)
	if err := errors.Join(deleted, gone.since(began, node+" has left")); err != nil {
		return nil, err
	}
	return former, kubectl(ctx, c, "delete", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+node, "--force", "--grace-period=0")
}

// admit makes the Node with other prefixes. Its kubelet finds it, and says its addresses.
// Left alone, Kubernetes would give the node the prefixes that have just become free.
func admit(ctx context.Context, c *cluster.Cluster, node string, former []netip.Prefix) (now []netip.Prefix, err error) {
	var texts []string
	for _, p := range former {
		b := p.Addr().AsSlice()
		b[p.Bits()/8-1] ^= 0x40 // far from those of three nodes, and back the next time
		addr, _ := netip.AddrFromSlice(b)
		now = append(now, netip.PrefixFrom(addr, p.Bits()))
		texts = append(texts, fmt.Sprintf("%q", now[len(now)-1]))
	}
	return now, apply(ctx, c, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s}
spec: {podCIDR: %s, podCIDRs: [%s]}
`, node, texts[0], strings.Join(texts, ", ")))
}

// comeBack waits until the node, whose kubelet has just started, is in the cluster again with
// other prefixes, that all know, and that its pods have.
func comeBack(ctx context.Context, c *cluster.Cluster, node string, known *sightings, now []netip.Prefix) error {
	if err := kubectl(ctx, c, "wait", "--for=jsonpath={.status.addresses}", "node", node, "--timeout=2m"); err != nil {
		return err
	}
	if err := known.since(time.Now(), node+" has rejoined"); err != nil {
		return err
	}
	err := within(ctx, 3*time.Minute, node+"'s own daemon goes by the new prefixes", func(ctx context.Context) error {
		s, err := statusOf(ctx, c, node)
		if err != nil {
			return err
		}
		var pools []string
		for _, p := range s.Pools {
			pools = append(pools, p.Prefix)
		}
		if got, want := fmt.Sprint(pools), fmt.Sprint(now); got != want {
			return fmt.Errorf("its pools are %s, want %s", got, want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return kubectl(ctx, c, "wait", "--for=condition=Ready", "node", node, "--timeout=2m")
}

// prefixesOf is a Node's pod prefixes.
func prefixesOf(ctx context.Context, c *cluster.Cluster, node string) ([]netip.Prefix, error) {
	var n struct {
		Spec struct {
			PodCIDRs []netip.Prefix `json:"podCIDRs"`
		} `json:"spec"`
	}
	return n.Spec.PodCIDRs, get(ctx, c, &n, "node", node)
}

// sightings are when each of some nodes saw something.
type sightings struct {
	c    *cluster.Cluster
	stop context.CancelFunc
	said chan sighting
	left int
}

type sighting struct {
	at  string // nanoseconds since 1970
	err error
}

// routes looks on some nodes, from now on, when they have routes to prefixes, or none any
// more.
func routes(ctx context.Context, c *cluster.Cluster, nodes []string, prefixes []netip.Prefix, want bool) *sightings {
	ctx, stop := context.WithTimeout(ctx, 3*time.Minute)
	s := &sightings{c, stop, make(chan sighting, len(nodes)*len(prefixes)), len(nodes) * len(prefixes)}
	test := "while"
	if want {
		test = "until"
	}
	for _, node := range nodes {
		for _, p := range prefixes {
			family := "-4"
			if p.Addr().Is6() {
				family = "-6"
			}
			go func() {
				at, err := shell(ctx, c, node, fmt.Sprintf("%s ip %s -o route show table all proto 87 | grep -qF '%s via '; do sleep 0.05; done; date +%%s%%N", test, family, p))
				s.said <- sighting{strings.TrimSpace(at), err}
			}()
		}
	}
	return s
}

// since waits for all, and says how long after the beginning the last one was. It is an error
// if that is too late.
func (s *sightings) since(began time.Time, what string) error {
	defer s.stop()
	var errs []error
	took := time.Duration(0)
	for range s.left {
		seen := <-s.said
		nanos, err := strconv.ParseInt(seen.at, 10, 64)
		if seen.err != nil {
			err = seen.err
		}
		errs = append(errs, err)
		took = max(took, time.Unix(0, nanos).Sub(began))
	}
	err := errors.Join(errs...)
	if err == nil && took > prompt {
		err = fmt.Errorf("it took them %s, want at most %s", took, prompt)
	}
	if err != nil {
		return fmt.Errorf("%s, and the others follow: %w", what, err)
	}
	s.c.Say("%s: the others have followed after %s", what, took.Round(time.Millisecond))
	return nil
}
