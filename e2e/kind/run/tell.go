package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// tell shows what the cluster and Weft say of themselves, after something has failed.
func tell(ctx context.Context, c *cluster.Cluster, weft bool) {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	show := func(what string, args ...string) {
		fmt.Printf("\n== %s\n", what)
		cmd := c.Kubectl(ctx, args...)
		if args[0] == "weft" {
			cmd = c.Weft(ctx, args[1:]...)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("%s(%v)\n", out, err)
		} else {
			os.Stdout.Write(out)
		}
	}
	show("nodes", "get", "nodes", "-o", "wide")
	show("pods", "get", "pods", "--all-namespaces", "-o", "wide")
	if weft {
		show("weft status", "weft", "status", "--cluster")
		show("the end of what Weft's pods said", "logs", "--namespace=kube-system", "--selector=app.kubernetes.io/name=weft",
			"--all-containers", "--prefix", "--tail=20")
	}
	fmt.Println()
}
