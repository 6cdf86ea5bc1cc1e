package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/e2e/kind/reference"
)

// network is what a cluster is given.
type network struct {
	name      string
	kubeProxy bool // whether it wants one
	weft      bool // whether it is ours
	install   func(context.Context, *cluster.Cluster) error
}

// chosen is the network that the options name.
func (o options) chosen() (network, error) {
	if o.network == "reference" {
		return network{"the reference network", true, false, reference.Install}, nil
	}
	manifest, err := filepath.Abs(o.network)
	if err != nil {
		return network{}, fmt.Errorf("find the network's manifest: %w", err)
	}
	if _, err := os.Stat(manifest); err != nil {
		return network{}, fmt.Errorf("the network is neither reference nor a manifest: %w", err)
	}
	image := o.image
	if image != "" {
		if image, err = filepath.Abs(image); err != nil {
			return network{}, fmt.Errorf("find the network's image: %w", err)
		}
	}
	return network{"the network of " + o.network, false, true, func(ctx context.Context, c *cluster.Cluster) error {
		if image != "" {
			if err := c.LoadImage(ctx, image); err != nil {
				return err
			}
		}
		return proc.Run(c.Kubectl(ctx, "apply", "-f", manifest))
	}}, nil
}
