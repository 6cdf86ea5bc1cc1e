// Command demo shows Weft at work in under a minute: three nodes as network
// namespaces, the real daemon on each, pods by real CNI calls. `make demo`, as root.
//
// Nothing is left behind, also after Ctrl-C, unless --keep says so; --clean then
// takes it down.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/load"
)

func main() {
	load.Main()
	keep := flag.Bool("keep", false, "leave the cluster up and say how to look around")
	clean := flag.Bool("clean", false, "take down what --keep left")
	flag.Parse()
	if err := run(*keep, *clean); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(keep, clean bool) (err error) {
	if os.Getuid() != 0 {
		return errors.New("network namespaces and BPF need root: sudo make demo")
	}
	if clean {
		return takeDown()
	}
	if _, err := os.Stat(place); err == nil {
		return fmt.Errorf("a demo is up already (%s): take it down with --clean (make demo DOWN=1)", place)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	kept := false
	var undo []func() error
	defer func() {
		if ctx.Err() != nil { // whatever has failed, has failed by that
			err = errors.New("interrupted")
		}
		for i := len(undo) - 1; i >= 0 && !kept; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	undo = append(undo, func() error { return os.RemoveAll(place) })
	if err := cluster.Build(ctx, filepath.Join(place, "bin")); err != nil {
		return err
	}
	begin := time.Now() // of the story, after the build
	c, err := cluster.New(cluster.Spec{
		Nodes: 3, Bin: filepath.Join(place, "bin"), Dir: place, Flags: []string{"--load-balancer-pools", shopPool},
	})
	if err != nil {
		return err
	}
	undo = append(undo, c.Close)
	s := &story{c: c}
	for _, act := range []func(context.Context) error{
		s.nodes, s.daemons, s.pods, s.talk, s.mtu, s.kill, s.speed, s.services, s.outside, s.policy,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	if keep {
		kept = true
		if err := remember(c, s.all); err != nil {
			return err
		}
		s.lookAround()
		return nil
	}
	fmt.Printf("\n%.0f seconds. Everything is taken down again; `make demo KEEP=1` leaves it up.\n", time.Since(begin).Seconds())
	return nil
}
