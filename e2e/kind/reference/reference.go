// Package reference is the plainest network that a kind cluster can have: the CNI
// project's ptp and host-local on each node, and a route to each other node's pods. With
// kube-proxy it tells whether a test of upstream's can pass on this machine at all.
package reference

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// node is what the network needs of a Node object.
type node struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []netip.Prefix `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

// address is the node's own of the same family as p.
func (n node) address(p netip.Prefix) (netip.Addr, bool) {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == "InternalIP" && ip.Is4() == p.Addr().Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// Install gives the network to a cluster that has kube-proxy. It is an argument for
// [cluster.Cluster.Install].
func Install(ctx context.Context, c *cluster.Cluster) error {
	nodes, err := nodesOf(ctx, c)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		ways, err := n.ways(nodes)
		if err != nil {
			return err
		}
		for _, w := range ways {
			if err := proc.Run(c.Exec(ctx, n.Metadata.Name, "ip", "route", "replace", w.to.String(), "via", w.via.String())); err != nil {
				return err
			}
		}
		// The runtime reads what is renamed to its folder's own file, never half a file.
		cmd := c.Exec(ctx, n.Metadata.Name, "sh", "-c",
			"cd /etc/cni/net.d && cat > .reference && mv .reference "+confName)
		cmd.Stdin = strings.NewReader(conflist(n.Spec.PodCIDRs))
		if err := proc.Run(cmd); err != nil {
			return fmt.Errorf("configure node %s: %w", n.Metadata.Name, err)
		}
	}
	return nil
}

// Remove takes the network away from all nodes, but not from the pods that have it.
func Remove(ctx context.Context, c *cluster.Cluster) error {
	nodes, err := nodesOf(ctx, c)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		ways, err := n.ways(nodes)
		if err != nil {
			return err
		}
		script := "rm -f /etc/cni/net.d/" + confName
		for _, w := range ways {
			family := "-4"
			if w.via.Is6() {
				family = "-6"
			}
			script += fmt.Sprintf("; ip %s route flush %s via %s", family, w.to, w.via)
		}
		if err := proc.Run(c.Exec(ctx, n.Metadata.Name, "sh", "-c", script)); err != nil {
			return fmt.Errorf("remove the network from node %s: %w", n.Metadata.Name, err)
		}
	}
	return nil
}

// confName is the CNI configuration's file.
const confName = "10-reference.conflist"

func nodesOf(ctx context.Context, c *cluster.Cluster) ([]node, error) {
	out, err := proc.Output(c.Kubectl(ctx, "get", "nodes", "-o", "json"))
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	var list struct {
		Items []node `json:"items"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	return list.Items, nil
}

// way leads to another node's pods.
type way struct {
	to  netip.Prefix
	via netip.Addr
}

// ways are those from n to all others.
func (n node) ways(all []node) ([]way, error) {
	var ways []way
	for _, peer := range all {
		if peer.Metadata.Name == n.Metadata.Name {
			continue
		}
		for _, pods := range peer.Spec.PodCIDRs {
			via, ok := peer.address(pods)
			if !ok {
				return nil, fmt.Errorf("node %s has no address of the family of %s", peer.Metadata.Name, pods)
			}
			ways = append(ways, way{pods, via})
		}
	}
	return ways, nil
}

// conflist is a node's CNI configuration.
func conflist(pods []netip.Prefix) string {
	var ranges, routes []string
	for _, p := range pods {
		ranges = append(ranges, fmt.Sprintf(`[{"subnet": %q}]`, p))
		all := "0.0.0.0/0"
		if p.Addr().Is6() {
			all = "::/0"
		}
		routes = append(routes, fmt.Sprintf(`{"dst": %q}`, all))
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "reference", "plugins": [
		{"type": "ptp", "ipMasq": false,
		 "ipam": {"type": "host-local", "ranges": [%s], "routes": [%s]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}
`, strings.Join(ranges, ", "), strings.Join(routes, ", "))
}
