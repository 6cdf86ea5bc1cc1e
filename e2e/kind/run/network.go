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
	weft      bool // whether it is ours
	kubeProxy bool // whether it wants one
	install   func(context.Context, *cluster.Cluster) error
}

// chosen is the network that the options name. cli: install Weft by its CLI, if it is this
// checkout's.
func (o options) chosen(cli bool) (network, error) {
	if o.network == "reference" {
		return network{"the reference network", false, true, reference.Install}, nil
	}
	manifest, image := o.network, o.image
	name := "Weft by the manifest " + manifest
	if o.network == "weft" {
		manifest, name = filepath.Join(o.checkout, "deploy", "weft.yaml"), "Weft by its manifest"
	}
	if o.network == "weft" && cli {
		name = "Weft by its CLI"
	}
	if image == "" {
		image = filepath.Join(o.checkout, "bin", "weft-image.tar")
	}
	needed := []string{manifest, image}
	for _, name := range cluster.Made {
		needed = append(needed, filepath.Join(o.checkout, name))
	}
	for i, path := range needed {
		var err error
		if needed[i], err = filepath.Abs(path); err != nil {
			return network{}, fmt.Errorf("find what is to be tested: %w", err)
		}
		if _, err := os.Stat(path); err != nil {
			return network{}, fmt.Errorf("find what is to be tested: %w (`make image` makes what is in bin/; -network names a manifest, weft or reference)", err)
		}
	}
	manifest, image = needed[0], needed[1]
	return network{name, true, false, func(ctx context.Context, c *cluster.Cluster) error {
		for _, archive := range []string{image, c.File(cluster.ExampleImage)} {
			if err := c.LoadImage(ctx, archive); err != nil {
				return err
			}
		}
		if o.network == "weft" && cli {
			return proc.Run(c.Weft(ctx, "install"))
		}
		return proc.Run(c.Kubectl(ctx, "apply", "-f", manifest))
	}}, nil
}
