package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// balancerPool has addresses on the nodes' link, of both families.
const balancerPool = `[{"name": "lan", "addresses": ["172.18.0.64/28", "fd18::64:0/124"]}]`

// The user's own example: both microservices have addresses of a pool, which a client
// outside reaches; replicas get the same share of it; and they see the client with DSR, and
// with the policy Local.
func TestExampleIsReachedFromOutside(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../examples").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	c := start(t, cluster.Spec{Nodes: 3, Flags: []string{"--load-balancer-default", "--load-balancer-pools", balancerPool}})
	all := []*microservice{readExample(t, "user-service"), readExample(t, "order-service")}
	pods := ""
	for _, m := range all {
		pods += m.run(t, program, c.Nodes)
	}
	for _, outer := range []outerWay{{corev1.ServiceExternalTrafficPolicyCluster, ""}, {corev1.ServiceExternalTrafficPolicyCluster, "dsr"}, {corev1.ServiceExternalTrafficPolicyLocal, ""}} {
		text := pods
		for _, m := range all {
			text += m.serviceObject(t, outer)
		}
		if err := c.WriteObject("example", text); err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			for at, by := range balanced(t, c, m.name, outer) {
				askExample(t, c, m, outer, at, by)
			}
		}
	}
}

// balanced waits until all nodes serve a Service at an address of each family from the pool,
// as it is asked for, and know who announces it.
func balanced(t *testing.T, c *cluster.Cluster, name string, outer outerWay) map[netip.Addr]*cluster.Node {
	t.Helper()
	var of map[netip.Addr]*cluster.Node
	testnet.Until(t, 30*time.Second, func() error {
		of = map[netip.Addr]*cluster.Node{}
		families := map[bool]bool{}
		for _, n := range c.Nodes {
			list, err := n.Client().Services(t.Context(), "default/"+name)
			if err != nil {
				return err
			}
			shown, want := fronts(list), outer.backends()
			if len(shown) != 2 {
				return fmt.Errorf("%s: places %v of %s, want two of a load balancer", n.Name, list, name)
			}
			for _, f := range shown {
				at := netip.MustParseAddr(f.Addr)
				if f.Policy != outer.shown() || f.Total != want || f.Ready != want {
					return fmt.Errorf("%s: %s at %s: policy %q, %d of %d ready", n.Name, name, at, f.Policy, f.Ready, f.Total)
				}
				for _, x := range c.Nodes {
					if x.Name == f.Announcer {
						if of[at] != nil && of[at] != x {
							return fmt.Errorf("%s is announced by %s and %s", at, x.Name, of[at].Name)
						}
						of[at] = x
					}
				}
				if of[at] == nil {
					return fmt.Errorf("%s: %s is announced by %q", n.Name, at, f.Announcer)
				}
				families[at.Is4()] = true
			}
		}
		if len(of) != 2 || len(families) != 2 {
			return fmt.Errorf("addresses %v of %s, want one of each family", of, name)
		}
		return nil
	})
	for at := range of {
		if !netip.MustParsePrefix("172.18.0.64/28").Contains(at) && !netip.MustParsePrefix("fd18::64:0/124").Contains(at) {
			t.Errorf("%s of %s is not of the pool", at, name)
		}
	}
	return of
}

const (
	// questions are asked of each address.
	questions = 600
	// deviations is how far the share of a replica may be from a third, in standard deviations
	// of as many throws of a fair die of three sides. Which backend a connection gets is a hash
	// of its ports and addresses, so counts are binomial. Of a fair choice a share is beyond 6
	// deviations once in 500 million; with 600 questions that is 131 to 269, so a replica that
	// gets half or double its share is seen nearly always.
	deviations = 6
)

// askExample asks a microservice at an address that a node announces.
func askExample(t *testing.T, c *cluster.Cluster, m *microservice, outer outerWay, at netip.Addr, by *cluster.Node) {
	t.Helper()
	what := fmt.Sprintf("%s at %s (%s)", m.name, at, outer.shown())
	client4, client6 := cluster.HostAddrs(254)
	client := map[bool]netip.Addr{true: client4, false: client6}[at.Is4()].String()
	n := questions
	if outer.policy == corev1.ServiceExternalTrafficPolicyLocal {
		n = 50
	}
	count, users := map[string]int{}, map[string]int{}
	for _, a := range ask(t, c, at, n) {
		count[a.Pod]++
		want := client
		if outer.policy == corev1.ServiceExternalTrafficPolicyCluster && outer.forwarding == "" && a.Node != by.Name {
			want = gatewayOf(by, at.Is4()).String()
		}
		if a.Service != m.name || a.Client != want {
			t.Errorf("%s: %s of %s saw the client as %s, want %s of %s", what, a.Pod, a.Service, a.Client, want, m.name)
		}
		if outer.policy == corev1.ServiceExternalTrafficPolicyLocal && a.Node != by.Name {
			t.Errorf("%s: %s answered, %s was asked", what, a.Node, by.Name)
		}
		if m.name == "order-service" && a.User == nil {
			t.Errorf("%s: no answer of user-service in it", what)
		} else if a.User != nil {
			users[a.User.Pod]++
		}
	}
	t.Logf("%s, announced by %s: %v; %v", what, by.Name, count, users)
	even := func(whose string, count map[string]int) {
		off := deviations * math.Sqrt(float64(n)*1/3*2/3)
		for i := range 3 {
			pod := fmt.Sprintf("%s-%d", whose, i+1)
			if got := float64(count[pod]); math.Abs(got-float64(n)/3) > off {
				t.Errorf("%s: %v of %d were for %s, want %d within %.0f", what, got, n, pod, n/3, off)
			}
		}
	}
	if outer.policy == corev1.ServiceExternalTrafficPolicyCluster {
		even(m.name, count)
		if m.name == "order-service" {
			even("user-service", users)
		}
	}
}

// ask asks so many questions from outside, each on a connection of its own, a few at a time.
func ask(t *testing.T, c *cluster.Cluster, at netip.Addr, n int) []exampleAnswer {
	t.Helper()
	const atOnce = 4
	var mu sync.Mutex
	var got []exampleAnswer
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			for range (n + atOnce - 1 - i) / atOnce {
				a, err := askOne(c, at)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got = append(got, a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return got
}

func askOne(c *cluster.Cluster, at netip.Addr) (a exampleAnswer, err error) {
	conn, err := traffic.Dial(c.Outside, "tcp", netip.AddrPortFrom(at, 80), 10*time.Second)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return a, err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\nHost: example\r\n\r\n"); err != nil {
		return a, fmt.Errorf("ask %s: %w", at, err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		return a, fmt.Errorf("answer of %s: %w", at, err)
	}
	head, body, _ := strings.Cut(string(b), "\r\n\r\n")
	if status, _, _ := strings.Cut(head, "\r\n"); !strings.Contains(status, fmt.Sprint(http.StatusOK)) {
		return a, fmt.Errorf("%s answers %s", at, b)
	}
	return a, a.read(body)
}
