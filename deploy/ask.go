package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/internal/api"
)

const (
	// atOnce is how many nodes are asked at a time.
	atOnce = 16
	// askFor is how long one node may take to answer.
	askFor = 15 * time.Second
)

// answer is what the daemon of a node says, or why it says nothing.
type answer struct {
	status api.Status
	err    error
}

// ask asks the daemons that run, each through its own pod. The answers have the order of
// the states; one that was not asked has an error.
func (c *Cluster) ask(ctx context.Context, states []nodeState) []answer {
	answers := make([]answer, len(states))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, s := range states {
		if !s.running() {
			answers[i].err = fmt.Errorf("the daemon does not run")
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			answers[i].status, answers[i].err = c.askOne(ctx, s.pod.Name)
			return nil
		})
	}
	_ = group.Wait() // the errors are in the answers
	return answers
}

func (c *Cluster) askOne(ctx context.Context, pod string) (api.Status, error) {
	var s api.Status
	out, err := c.exec(ctx, pod, daemonContainer, "/usr/bin/weft", "status", "-o", "json")
	// `weft status` fails also if all it has to say is that the node is not ready.
	if json.Unmarshal(out, &s) == nil && s.Node != "" {
		return s, nil
	}
	if err == nil {
		err = fmt.Errorf("run weft status in pod %s: it answers %.100q", pod, out)
	}
	return api.Status{}, err
}
