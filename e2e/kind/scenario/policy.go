package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// talkPolicy lets nobody reach the talkers but pods with the label may.
const talkPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: few, namespace: %s}
spec:
  podSelector: {matchLabels: {app: talker}}
  ingress: [{from: [{podSelector: {matchLabels: {may: talk}}}]}]
`

// policed lets a policy cut off the pods of all nodes from each other, and lets one through
// again by a label; each node says which policy it was. That the kubelet reaches them shows
// in their readiness.
func policed(ctx context.Context, c *cluster.Cluster) (err error) {
	const ns = "policed"
	remove := func() error {
		return kubectl(context.WithoutCancel(ctx), c, "delete", "namespace", ns, "--ignore-not-found", "--timeout=2m")
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := apply(ctx, c, talkers(ns)); err != nil {
		return err
	}
	if err := rolledOut(ctx, c, ns, "daemonset/talker"); err != nil {
		return err
	}
	pods, err := podsOf(ctx, c, "--namespace="+ns)
	if err != nil {
		return err
	}
	if err := apply(ctx, c, fmt.Sprintf(talkPolicy, ns)); err != nil {
		return err
	}
	for i, from := range pods {
		if err := allReach(ctx, c, ns, from, pods[i:i+1], true); err != nil { // a pod always reaches itself
			return err
		}
		if err := allReach(ctx, c, ns, from, append(append([]pod{}, pods[:i]...), pods[i+1:]...), false); err != nil {
			return err
		}
	}
	for _, to := range pods {
		err := within(ctx, 10*time.Second, "the node says which policy dropped what was sent to "+to.Metadata.Name, func(ctx context.Context) error {
			var drops []struct {
				Reason   string   `json:"reason"`
				Policies []string `json:"policies"`
				Dst      struct {
					Pod string `json:"pod"`
				} `json:"dst"`
			}
			if err := weft(ctx, c, to.Spec.NodeName, &drops, "drops"); err != nil {
				return err
			}
			for _, d := range drops {
				if d.Reason == "policy-ingress" && d.Dst.Pod == ns+"/"+to.Metadata.Name && len(d.Policies) == 1 && d.Policies[0] == "NetworkPolicy "+ns+"/few" {
					return nil
				}
			}
			return fmt.Errorf("none of %d drops is of it", len(drops))
		})
		if err != nil {
			return err
		}
	}
	if err := kubectl(ctx, c, "label", "--namespace="+ns, "pod", pods[0].Metadata.Name, "may=talk"); err != nil {
		return err
	}
	if err := allReach(ctx, c, ns, pods[0], pods, true); err != nil {
		return err
	}
	if err := allReach(ctx, c, ns, pods[1], pods[2:], false); err != nil {
		return err
	}
	if err := rolledOut(ctx, c, ns, "daemonset/talker"); err != nil {
		return fmt.Errorf("the kubelet does not reach the pods: %w", err)
	}
	if err := kubectl(ctx, c, "delete", "--namespace="+ns, "networkpolicy", "few"); err != nil {
		return err
	}
	for _, from := range pods {
		if err := allReach(ctx, c, ns, from, pods, true); err != nil {
			return err
		}
	}
	return nil
}

// allReach waits until a pod reaches all of these, or none, at each of their addresses.
func allReach(ctx context.Context, c *cluster.Cluster, ns string, from pod, to []pod, want bool) error {
	for _, p := range to {
		for _, ip := range p.addresses() {
			at := net.JoinHostPort(ip, strconv.Itoa(talkPort))
			what := fmt.Sprintf("pod %s reaches %s: %t", from.Metadata.Name, p.Metadata.Name, want)
			err := within(ctx, 20*time.Second, what, func(ctx context.Context) error {
				err := proc.Run(c.Kubectl(ctx, "exec", "--namespace="+ns, from.Metadata.Name, "--",
					"curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "2", "http://"+at+"/hostname"))
				if want {
					return err
				}
				if err == nil || !strings.Contains(err.Error(), "exit code 28") { // curl's for no answer in time
					return fmt.Errorf("it ends with %v, want no answer", err)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
