package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

const (
	chainPort  = 8086     // of the node, which portmap leads to the pod's 8080
	chainRate  = 20000000 // bits per second that bandwidth lets in
	chainBurst = 2000000  // bits
	backlog    = "517"    // what tuning sets
)

// chain is what is put behind Weft: the CNI project's plugins, between two that note when
// they are called, and with what. The runtime gives the pods' own limits without a burst
// that a test could use up, so the limit stands here. It is one for what comes in: for what
// goes out, bandwidth makes a qdisc of which a device has one only, and Weft's is there.
var chain = fmt.Sprintf(`[
	{"type": "weft-e2e-note", "who": "first"},
	{"type": "portmap", "capabilities": {"portMappings": true}},
	{"type": "bandwidth", "capabilities": {"bandwidth": true}, "ingressRate": %d, "ingressBurst": %d},
	{"type": "tuning", "sysctl": {"net.core.somaxconn": "%s"}},
	{"type": "weft-e2e-note", "who": "last"}]`, chainRate, chainBurst, backlog)

// note is a plugin that notes, for each ADD and DEL, what there is of the container at that
// moment: a device of Weft's, a limit on it, rules of portmap. The last one keeps the result
// of the plugins before it.
const note = `#!/bin/sh
conf=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]}'; exit ;;
ADD | DEL) ;;
*) exit ;;
esac
who=$(echo "$conf" | jq -r .who)
device=$(ip -o link | grep "weft:$CNI_CONTAINERID/" | sed 's/^[0-9]*: //; s/@.*//')
[ -n "$device" ] && has=device
[ -n "$device" ] && tc qdisc show dev "$device" | grep -q tbf && has="$has limit"
{ iptables-save -t nat; ip6tables-save -t nat; } | grep -q "$CNI_CONTAINERID" && has="$has rules"
mkdir -p /run/weft-e2e-chain
echo "$who $CNI_COMMAND: $has" >> /run/weft-e2e-chain/$CNI_CONTAINERID
if [ $CNI_COMMAND = ADD ]; then
	[ $who = last ] && echo "$conf" | jq .prevResult > /run/weft-e2e-chain/$CNI_CONTAINERID.result
	echo "$conf" | jq .prevResult
fi
`

// unchain takes from a node what stays when the last pod of the chain is gone: the plugins,
// and chains and tables that portmap makes once.
const unchain = `
	cd /opt/cni/bin
	rm -f weft-e2e-note; for f in $(cat /run/weft-e2e-brought 2>/dev/null); do rm -f $f; done
	for t in iptables ip6tables; do
		$t -t nat -S | grep -e '^-A.*CNI-' | sed 's/^-A/-D/' | while read -r rule; do echo "$rule" | xargs $t -t nat; done
		$t -t nat -S | sed -n 's/^-N \(CNI-.*\)/\1/p' | while read -r name; do $t -t nat -X $name; done
	done
	for f in ip ip6; do grep -q "^table $f nat$" /run/weft-e2e-tables || nft delete table $f nat 2>/dev/null || true; done
	rm -rf /run/weft-e2e-chain /run/weft-e2e-brought /run/weft-e2e-tables /run/cni/tuning; rmdir /run/cni 2>/dev/null || true`

// chained puts the CNI project's portmap, bandwidth and tuning behind Weft. They get its
// result, are asked to delete before it, do what they are for, fail their checks if that is
// taken away, and leave nothing.
func chained(ctx context.Context, c *cluster.Cluster) (err error) {
	node := c.Nodes[len(c.Nodes)-1]
	nodeBefore, err := digestOf(ctx, c, node)
	if err != nil {
		return err
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		// The configuration first: without its binaries, no pod could start.
		err = errors.Join(err, install(ctx, c), everywhere(ctx, c, unchain))
		if err == nil {
			err = within(ctx, time.Minute, node+" is as it was without the chain", func(ctx context.Context) error {
				now, err := digestOf(ctx, c, node)
				if err != nil {
					return err
				}
				return now.since(nodeBefore)
			})
		}
	}()
	if err := bringPlugins(ctx, c); err != nil {
		return err
	}
	if err := install(ctx, c, "cniChain="+chain); err != nil {
		return err
	}
	before, err := look(ctx, c, node)
	if err != nil {
		return err
	}
	const ns = "chained"
	remove, err := namespace(ctx, c, ns)
	p := links{c: c, node: node}
	if err == nil {
		err = apply(ctx, c, chainedPods(ns, c.Nodes[0], node))
	}
	if err == nil {
		err = kubectl(ctx, c, "wait", "--namespace="+ns, "pods", "--all", "--for=condition=Ready", "--timeout=2m")
	}
	if err == nil {
		err = p.play(ctx, ns)
	}
	if err = errors.Join(err, remove()); err != nil {
		return err
	}
	// A pod that has no time to end is gone from the API before the runtime asks for DEL.
	if err := within(ctx, settled, "the runtime asks for DEL", p.order); err != nil {
		return err
	}
	return within(ctx, settled, "nothing of the pods is left", func(ctx context.Context) error {
		now, err := look(ctx, c, node)
		if err != nil {
			return err
		}
		rules, err := shell(ctx, c, node, "{ iptables-save; ip6tables-save; } | grep -e CNI-DN -e "+p.id+" || true")
		if err == nil && rules != "" {
			err = fmt.Errorf("rules of portmap are left:\n%s", rules)
		}
		// portmap puts its jump before Weft's, which goes back to the top: a repair.
		const chains = "table chains "
		return errors.Join(err, now.but(chains).since(before.but(chains)))
	})
}

// bringPlugins gives all nodes the plugins that they have not.
func bringPlugins(ctx context.Context, c *cluster.Cluster) error {
	for _, node := range c.Nodes {
		if _, err := shell(ctx, c, node, "nft list tables > /run/weft-e2e-tables; : > /run/weft-e2e-brought"); err != nil {
			return err
		}
		for _, name := range []string{"portmap", "bandwidth", "tuning"} {
			there, err := shell(ctx, c, node, "[ -e /opt/cni/bin/"+name+" ] && echo yes || echo "+name+" >> /run/weft-e2e-brought")
			if err != nil {
				return err
			}
			if there == "" {
				if err := c.Copy(ctx, filepath.Join(c.Plugins(), name), node, "/opt/cni/bin/"+name); err != nil {
					return err
				}
			}
		}
		cmd := c.Exec(ctx, node, "sh", "-ec", "cat > /opt/cni/bin/.note; chmod 755 /opt/cni/bin/.note; mv /opt/cni/bin/.note /opt/cni/bin/weft-e2e-note")
		cmd.Stdin = strings.NewReader(note)
		if err := proc.Run(cmd); err != nil {
			return fmt.Errorf("bring the noting plugin to %s: %w", node, err)
		}
	}
	return nil
}

// chainedPods are a server with a host port, and clients on its node and on another.
func chainedPods(namespace, far, near string) string {
	yaml := ""
	for name, of := range map[string]struct{ node, ports string }{
		"server": {near, fmt.Sprintf("[{containerPort: 8080, hostPort: %d}]", chainPort)},
		"near":   {near, "[]"}, "far": {far, "[]"},
	} {
		yaml += fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: %s
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    ports: %s
`, name, namespace, of.node, build.Tests().Agnhost, of.ports)
	}
	return yaml
}

// links are the links of a chain for one pod, the server's.
type links struct {
	c      *cluster.Cluster
	node   string
	id     string // of the pod's sandbox
	device string // the host's end of its veth
	netns  string
}

func (l *links) play(ctx context.Context, ns string) error {
	pods, err := podsOf(ctx, l.c, "--namespace="+ns, "--field-selector=metadata.name=server")
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("got %d servers, want 1", len(pods))
	}
	if err := l.result(ctx, pods[0]); err != nil {
		return err
	}
	set, err := proc.Output(l.c.Kubectl(ctx, "exec", "--namespace="+ns, "server", "--", "cat", "/proc/sys/net/core/somaxconn"))
	if got := strings.TrimSpace(string(set)); err != nil || got != backlog {
		return fmt.Errorf("tuning: somaxconn in the pod is %q, want %s: %w", got, backlog, err)
	}
	if err := l.hostPort(ctx, ns); err != nil {
		return fmt.Errorf("portmap: %w", err)
	}
	if err := l.limited(ctx, ns, pods[0]); err != nil {
		return fmt.Errorf("bandwidth: %w", err)
	}
	return l.checks(ctx)
}

// result reads what the last plugin got: Weft's interfaces, and the addresses that the API
// shows.
func (l *links) result(ctx context.Context, p pod) error {
	id, err := shell(ctx, l.c, l.node, "crictl pods --quiet --state ready --label io.kubernetes.pod.uid="+p.Metadata.UID)
	if err != nil {
		return err
	}
	l.id = strings.TrimSpace(id)
	text, err := shell(ctx, l.c, l.node, "cat /run/weft-e2e-chain/"+l.id+".result")
	if err != nil {
		return err
	}
	var r struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Address   string
			Interface int
		}
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fmt.Errorf("read the result: %w", err)
	}
	var ips []string
	for _, ip := range r.IPs {
		addr, _, _ := strings.Cut(ip.Address, "/")
		ips = append(ips, addr)
		if ip.Interface >= len(r.Interfaces) || r.Interfaces[ip.Interface].Name != "eth0" || r.Interfaces[ip.Interface].Sandbox == "" {
			return fmt.Errorf("the address %s is not the pod's eth0's in %s", addr, text)
		}
		l.netns = r.Interfaces[ip.Interface].Sandbox
	}
	want := p.addresses()
	slices.Sort(ips)
	slices.Sort(want)
	if !slices.Equal(ips, want) || len(ips) != l.c.Spec.Families() {
		return fmt.Errorf("got addresses %v in the result, %v in the API", ips, want)
	}
	device, err := shell(ctx, l.c, l.node, "ip -o link | grep weft:"+l.id+"/ | sed 's/^[0-9]*: //; s/@.*//'")
	l.device = strings.TrimSpace(device)
	return err
}

// hostPort asks the server by its node's port: from outside, from another node, from a pod.
func (l *links) hostPort(ctx context.Context, ns string) error {
	rules, err := shell(ctx, l.c, l.node, "{ iptables-save -t nat; ip6tables-save -t nat; } | grep -c "+l.id+" || true")
	if err != nil || strings.TrimSpace(rules) == "0" {
		return fmt.Errorf("it has no rules, so another serves the port: %w", err)
	}
	nodes, err := nodePortTargets(ctx, l.c)
	if err != nil {
		return err
	}
	for _, t := range nodes {
		host, _, err := net.SplitHostPort(t.Addr)
		if err != nil || !strings.HasSuffix(t.Name, " "+l.node) {
			continue
		}
		ask := []string{"curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "5", "http://" + net.JoinHostPort(host, strconv.Itoa(chainPort)) + "/hostname"}
		for from, cmd := range map[string]func() ([]byte, error){
			"outside":         func() ([]byte, error) { return proc.Output(l.c.Command(ctx, ask[0], ask[1:]...)) },
			"another node":    func() ([]byte, error) { return proc.Output(l.c.Exec(ctx, l.c.Nodes[0], ask...)) },
			"another's pod":   func() ([]byte, error) { return l.inPod(ctx, ns, "far", ask...) },
			"the node's pods": func() ([]byte, error) { return l.inPod(ctx, ns, "near", ask...) },
		} {
			if out, err := cmd(); err != nil || strings.TrimSpace(string(out)) != "server" {
				return fmt.Errorf("from %s, %s answers %q, want server: %w", from, host, out, err)
			}
		}
	}
	return nil
}

func (l *links) inPod(ctx context.Context, ns, name string, args ...string) ([]byte, error) {
	return proc.Output(l.c.Kubectl(ctx, append([]string{"exec", "--namespace=" + ns, name, "--"}, args...)...))
}

// limited sends to the server from a pod of its node and from one of another. No way leads
// round the limit.
func (l *links) limited(ctx context.Context, ns string, server pod) error {
	const bytes = 4 << 20
	least := time.Duration(float64(bytes*8-chainBurst) / chainRate * 0.9 * float64(time.Second))
	for _, from := range []string{"near", "far"} {
		for _, ip := range server.addresses() {
			script := fmt.Sprintf(`head -c %d /dev/zero > /tmp/f; curl --silent --show-error --globoff --max-time 60 -o /dev/null -w '%%{http_code} %%{time_total}' -F file=@/tmp/f http://%s/upload`,
				bytes, net.JoinHostPort(ip, "8080"))
			out, err := l.inPod(ctx, ns, from, "sh", "-c", script)
			if err != nil {
				return err
			}
			code, took, _ := strings.Cut(string(out), " ")
			seconds, err := strconv.ParseFloat(took, 64)
			if d := time.Duration(seconds * float64(time.Second)); err != nil || code != "201" || d < least {
				return fmt.Errorf("%d bytes from %s to %s: got %q, want 201 after %s at least", bytes, from, ip, out, least)
			}
			l.c.Say("bandwidth behind Weft: %d bytes from %s took %.1fs, %.1f of %d Mbit/s", bytes, from, seconds, bytes*8/seconds/1e6, chainRate/1000000)
		}
	}
	// A machine that is slow enough would keep the limit by itself.
	if out, err := shell(ctx, l.c, l.node, "tc -s qdisc show dev "+l.device+" root | grep -E 'overlimits [1-9]' || true"); err != nil || out == "" {
		return fmt.Errorf("the limit held nothing back: %w", err)
	}
	return nil
}
