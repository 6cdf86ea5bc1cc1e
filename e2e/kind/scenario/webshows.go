package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

const browsedIn = "browsed"

// browsed looks at the page of a node: its files, the daemon, all nodes, and a Service that
// has a backend on each.
func browsed(ctx context.Context, c *cluster.Cluster) error {
	return onPage(ctx, c, "ClusterIP", byCtrlC, func(ctx context.Context, b browser, pods []pod) error {
		for path, has := range map[string]string{"/": "<title>Weft</title>", "/app.js": "import ", "/style.css": "{"} {
			if got, err := b.get(ctx, path); err != nil || !strings.Contains(string(got), has) {
				return errors.Join(err, fmt.Errorf("%s of the page is %q, want it to have %q", path, got, has))
			}
		}
		return within(ctx, time.Minute, "the page shows the cluster", func(ctx context.Context) error {
			return errors.Join(b.showsNodes(ctx), b.showsBackends(ctx, pods))
		})
	})
}

// announced has a Service get addresses of a load balancer, and looks on the page who
// announces them: it is who answers for them on the link.
func announced(ctx context.Context, c *cluster.Cluster) error {
	return onPage(ctx, c, "LoadBalancer", byKill, func(ctx context.Context, b browser, _ []pod) error {
		return within(ctx, time.Minute, "the page shows who announces", b.showsAnnouncers)
	})
}

// onPage runs the talkers with a Service of this type, and calls f with the page of the last
// node and the talkers' pods.
func onPage(ctx context.Context, c *cluster.Cluster, typ string, how ending, f func(context.Context, browser, []pod) error) (err error) {
	remove, err := namespace(ctx, c, browsedIn)
	defer func() { err = errors.Join(err, remove()) }()
	if err == nil {
		err = apply(ctx, c, talkers(browsedIn))
	}
	if err == nil {
		err = kubectl(ctx, c, "patch", "service/talkers", "--namespace="+browsedIn, `--patch={"spec":{"type":"`+typ+`"}}`)
	}
	if err == nil {
		err = rolledOut(ctx, c, browsedIn, "daemonset/talker")
	}
	if err != nil {
		return err
	}
	pods, err := podsOf(ctx, c, "--namespace="+browsedIn)
	if err != nil {
		return err
	}
	return browse(ctx, c, c.Nodes[len(c.Nodes)-1], how, func(ctx context.Context, b browser) error { return f(ctx, b, pods) })
}

// showsNodes is nil if the page is of this node's daemon, which is well, and shows all nodes
// with their addresses, the others as ones that answer.
func (b browser) showsNodes(ctx context.Context) error {
	var state struct {
		Daemons []struct {
			Name  string
			Ready bool
		}
		Status status
	}
	var list struct {
		Found int
		Nodes []struct {
			Name, Addr, Reach string
			Self              bool
		}
	}
	if err := errors.Join(b.read(ctx, "/api/state", &state), b.read(ctx, "/api/nodes", &list)); err != nil {
		return err
	}
	if len(state.Daemons) != 1 || state.Daemons[0].Name != b.node || state.Status.well() != nil {
		return fmt.Errorf("the page shows %+v, want %s without problems", state, b.node)
	}
	known, err := nodeAddresses(ctx, b.c)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range list.Nodes {
		names = append(names, n.Name)
		if n.Self != (n.Name == b.node) || !n.Self && n.Reach != "ok" || !slices.Contains(known, n.Addr) {
			return fmt.Errorf("the page shows %+v, want one that answers, at one of %v", n, known)
		}
	}
	if slices.Sort(names); !slices.Equal(names, b.c.Nodes) || list.Found != len(names) {
		return fmt.Errorf("the page shows %d nodes, %v, want %v", list.Found, names, b.c.Nodes)
	}
	return nil
}

// showsBackends is nil if the page shows the talkers' Service, with each address of each of
// the pods as a backend that is ready, and where it is.
func (b browser) showsBackends(ctx context.Context, pods []pod) error {
	want := map[string]string{}
	for _, p := range pods {
		for _, addr := range p.addresses() {
			want[net.JoinHostPort(addr, fmt.Sprint(talkPort))] = p.Metadata.Namespace + "/" + p.Metadata.Name + " on " + p.Spec.NodeName
		}
	}
	var shown struct {
		States   map[string]int
		Backends []struct{ Addr, Pod, Node string }
	}
	if err := b.read(ctx, "/api/service?name="+browsedIn+"/talkers", &shown); err != nil {
		return err
	}
	got := map[string]string{}
	for _, k := range shown.Backends {
		got[k.Addr] = k.Pod + " on " + k.Node
	}
	if !maps.Equal(got, want) || shown.States["ready"] != len(want) {
		return fmt.Errorf("the page shows the backends %v in the states %v, want %v, all ready", got, shown.States, want)
	}
	return nil
}

// showsAnnouncers is nil if the page shows the talkers' Service at an address of a load
// balancer in each family, those of its status, each with the node whose link answers for it
// to who is outside the cluster, and who asks there gets an answer.
func (b browser) showsAnnouncers(ctx context.Context) error {
	var service struct {
		Status struct {
			LoadBalancer struct{ Ingress []struct{ IP string } }
		}
	}
	var page struct {
		Services []struct {
			Name   string
			Fronts []struct{ Addr, Kind, Announcer string }
		}
	}
	if err := errors.Join(get(ctx, b.c, &service, "service", "talkers", "--namespace="+browsedIn),
		b.read(ctx, "/api/services?type=LoadBalancer&text=talkers", &page)); err != nil {
		return err
	}
	announcers := map[string]string{}
	for _, s := range page.Services {
		for _, f := range s.Fronts {
			if f.Kind == "LB" {
				announcers[f.Addr] = f.Announcer
			}
		}
	}
	ingress := service.Status.LoadBalancer.Ingress
	if len(ingress) != b.c.Spec.Families() || len(announcers) != len(ingress) {
		return fmt.Errorf("the page shows %v, the Service's status %v, want the same address of each family", announcers, ingress)
	}
	for _, i := range ingress {
		node, err := answersFor(ctx, b.c, i.IP)
		if err != nil {
			return err
		}
		if announcers[i.IP] != node {
			return fmt.Errorf("the page shows %q as who announces %s, it is %s", announcers[i.IP], i.IP, node)
		}
		b.c.Say("%s announces %s, as the page says", node, i.IP)
	}
	return nil
}

// answersFor is the node whose MAC address is given, outside the cluster, for an address at
// which a Service of HTTP answers.
func answersFor(ctx context.Context, c *cluster.Cluster, addr string) (node string, err error) {
	if err := proc.Run(c.Command(ctx, "curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "2", "--output", "/dev/null",
		"http://"+netip.AddrPortFrom(netip.MustParseAddr(addr), 80).String()+"/hostname")); err != nil {
		return "", err
	}
	out, err := proc.Output(c.Command(ctx, "ip", "-o", "neigh", "show", addr))
	if err != nil {
		return "", err
	}
	for _, node := range c.Nodes {
		mac, err := shell(ctx, c, node, "cat /sys/class/net/eth0/address")
		if err != nil {
			return "", err
		}
		if strings.Contains(string(out), strings.TrimSpace(mac)) {
			return node, nil
		}
	}
	return "", fmt.Errorf("the neighbour %q is none of the nodes", out)
}
