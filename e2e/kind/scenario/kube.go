package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/internal/testnet"
)

// system is where Weft is installed.
const system = "kube-system"

// apply creates or changes objects.
func apply(ctx context.Context, c *cluster.Cluster, yaml string) error {
	cmd := c.Kubectl(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	return proc.Run(cmd)
}

// kubectl runs kubectl, whose output nobody wants.
func kubectl(ctx context.Context, c *cluster.Cluster, args ...string) error {
	return proc.Run(c.Kubectl(ctx, args...))
}

// get reads objects of the API.
func get(ctx context.Context, c *cluster.Cluster, into any, args ...string) error {
	out, err := proc.Output(c.Kubectl(ctx, append([]string{"get", "-o", "json"}, args...)...))
	if err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	return nil
}

// namespace makes a namespace. remove removes it with all that is in it, and waits until
// that is gone.
func namespace(ctx context.Context, c *cluster.Cluster, name string) (remove func() error, err error) {
	return func() error {
			return kubectl(context.WithoutCancel(ctx), c, "delete", "namespace", name, "--ignore-not-found", "--timeout=3m")
		}, apply(ctx, c, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %s}
`, name))
}

// rolledOut waits until all pods of a workload are ready, and none of a former version is
// left.
func rolledOut(ctx context.Context, c *cluster.Cluster, namespace, workload string) error {
	return kubectl(ctx, c, "rollout", "status", "--namespace="+namespace, workload, "--timeout=4m")
}

// pod is what scenarios read of a Pod.
type pod struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp *string           `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		NodeName    string `json:"nodeName"`
		HostNetwork bool   `json:"hostNetwork"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		PodIPs []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
		ContainerStatuses []struct {
			Ready        bool `json:"ready"`
			RestartCount int  `json:"restartCount"`
			State        struct {
				Running *struct{} `json:"running"`
			} `json:"state"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

// ready says whether all containers are.
func (p pod) ready() bool {
	for _, s := range p.Status.ContainerStatuses {
		if !s.Ready {
			return false
		}
	}
	return p.Metadata.DeletionTimestamp == nil && len(p.Status.ContainerStatuses) > 0
}

// addresses are the pod's.
func (p pod) addresses() []string {
	var out []string
	for _, ip := range p.Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out
}

// podsOf lists pods; args choose which.
func podsOf(ctx context.Context, c *cluster.Cluster, args ...string) ([]pod, error) {
	var list struct {
		Items []pod `json:"items"`
	}
	return list.Items, get(ctx, c, &list, append([]string{"pods"}, args...)...)
}

// within calls f until it returns nil, for so long at most, and says in the error what was
// waited for.
func within(ctx context.Context, d time.Duration, what string, f func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, d)
	defer stop()
	var last error
	err := testnet.Wait(ctx, func() error {
		if err := f(ctx); err == nil || ctx.Err() == nil {
			last = err // what the end of the time cut short says nothing
			return err
		}
		return ctx.Err()
	})
	if err != nil {
		if last == nil {
			last = errors.New("the first look was not over then")
		}
		return fmt.Errorf("%s: not within %s: %w", what, d, last)
	}
	return nil
}
