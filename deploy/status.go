package deploy

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/internal/api"
)

// Status is what `weft status` shows of a cluster.
type Status struct {
	Server    string       `json:"server"`
	Namespace string       `json:"namespace"`
	Installed bool         `json:"installed"` // there is a DaemonSet
	Ready     bool         `json:"ready"`     // all nodes are
	Nodes     []NodeStatus `json:"nodes"`
}

// NodeStatus is one node of a cluster.
type NodeStatus struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"` // for pods: Weft is, and so says the kubelet
	// Why the node is not ready, and why its daemon could not be asked.
	Why     string `json:"why,omitempty"`
	NoReply string `json:"noReply,omitempty"`
	Kubelet string `json:"kubelet"` // version
	Pod     string `json:"pod,omitempty"`
	// Daemon is what the node's daemon says; nil if it could not be asked.
	Daemon *api.Status `json:"daemon,omitempty"`
}

// Status asks the API server, and through it the daemon of each node.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	v, err := c.look(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("ask %s: %w", c.Server(), err)
	}
	states := v.states()
	answers := c.ask(ctx, states)
	s := Status{Server: c.Server(), Namespace: c.Namespace, Installed: v.daemons != nil, Ready: v.daemons != nil, Nodes: []NodeStatus{}}
	kubelets := map[string]corev1.NodeSystemInfo{}
	for _, n := range v.nodes {
		kubelets[n.Name] = n.Status.NodeInfo
	}
	for i, state := range states {
		n := NodeStatus{Name: state.node, Ready: state.ready, Why: state.why, Kubelet: kubelets[state.node].KubeletVersion}
		if state.pod != nil {
			n.Pod = state.pod.Name
		}
		if a := answers[i]; a.err == nil {
			n.Daemon = &a.status
			if !a.status.Ready { // it knows before the kubelet's probe has asked
				n.Ready = false
				if n.Why == "" {
					n.Why = "its daemon is not ready"
				}
			}
		} else if state.running() {
			n.NoReply = a.err.Error()
		}
		s.Ready = s.Ready && n.Ready
		s.Nodes = append(s.Nodes, n)
	}
	return s, nil
}
