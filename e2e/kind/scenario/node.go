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
)

// shell runs a script on a node, also while there is no API server, and returns what it
// says.
func shell(ctx context.Context, c *cluster.Cluster, node, script string) (string, error) {
	out, err := proc.Output(c.Exec(ctx, node, "sh", "-ec", script))
	if err != nil {
		return "", fmt.Errorf("on %s: %w", node, err)
	}
	return string(out), nil
}

// everywhere runs a script on all nodes.
func everywhere(ctx context.Context, c *cluster.Cluster, script string) error {
	var errs []error
	for _, node := range c.Nodes {
		_, err := shell(ctx, c, node, script)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// daemon is a shell's word for the running container of a node's daemon.
const daemon = "$(crictl ps --quiet --state running --label io.kubernetes.pod.namespace=" + system + " --name '^weftd$')"

// weft asks a node's daemon by the CLI in its container, also while there is no API server.
func weft(ctx context.Context, c *cluster.Cluster, node string, into any, args ...string) error {
	out, err := shell(ctx, c, node, "crictl exec "+daemon+" weft --output=json "+strings.Join(args, " "))
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read what weft %s says: %w", args[0], err)
	}
	return nil
}

// status is `weft status`.
type status struct {
	Since    time.Time `json:"since"`
	Ready    bool      `json:"ready"`
	Synced   bool      `json:"synced"`
	Layout   string    `json:"layout"`
	Problems []struct {
		What string `json:"what"`
		Text string `json:"text"`
	} `json:"problems"`
	Pools []struct {
		Prefix  string `json:"prefix"`
		Used    int    `json:"used"`
		Cooling int    `json:"cooling"`
	} `json:"pools"`
	Pods  int `json:"pods"`
	Peers int `json:"peers"`
	Reach []struct {
		State string `json:"state"`
		Nodes int    `json:"nodes"`
	} `json:"reach"`
	Tables []struct {
		Name    string `json:"name"`
		Rows    int    `json:"rows"`
		Repairs uint64 `json:"repairs"`
		Error   string `json:"error"`
	} `json:"tables"`
}

// statusOf is a node's status.
func statusOf(ctx context.Context, c *cluster.Cluster, node string) (status, error) {
	var s status
	return s, weft(ctx, c, node, &s, "status")
}

// well is nil if a node's daemon has nothing to complain of.
func (s status) well() error {
	if !s.Ready || !s.Synced || len(s.Problems) > 0 {
		return fmt.Errorf("got ready %v, synced %v, problems %+v; want none", s.Ready, s.Synced, s.Problems)
	}
	return nil
}

// allWell waits until the daemons of all nodes are.
func allWell(ctx context.Context, c *cluster.Cluster, d time.Duration) error {
	for _, node := range c.Nodes {
		err := within(ctx, d, node+" is well", func(ctx context.Context) error {
			s, err := statusOf(ctx, c, node)
			return errors.Join(err, s.well())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// endpoint is one of `weft endpoints`.
type endpoint struct {
	ContainerID  string   `json:"containerID"`
	PodNamespace string   `json:"podNamespace"`
	PodName      string   `json:"podName"`
	IPs          []string `json:"ips"`
	State        string   `json:"state"`
}

// endpointsOf is a node's pods with addresses of Weft.
func endpointsOf(ctx context.Context, c *cluster.Cluster, node string) ([]endpoint, error) {
	var list []endpoint
	return list, weft(ctx, c, node, &list, "endpoints")
}
