package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// shopPolicy lets only pods of the role cashier reach the shop.
const shopPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cashiers, namespace: default}
spec:
  podSelector: {matchLabels: {app: shop}}
  ingress: [{from: [{podSelector: {matchLabels: {role: cashier}}}], ports: [{port: 8080}]}]
`

// policy cuts off the Service's client and lets it through again, and prints what Weft
// says about it.
func (s *story) policy(ctx context.Context) error {
	client, backend := s.all[0], s.all[1]
	defer func() {
		for _, l := range s.shop {
			l.Close()
		}
	}()
	title("A NetworkPolicy: only cashiers may reach the shop, and %s is none", client.Name)
	for line := range strings.Lines(shopPolicy) {
		fmt.Print("    " + line)
	}
	begin := time.Now()
	if err := s.c.WriteObject("policy", shopPolicy); err != nil {
		return err
	}
	if err := s.until(ctx, func() error {
		if _, err := whoAnswersAt(client.NS, shopAddr, 100*time.Millisecond); err == nil {
			return errors.New("the shop still answers")
		}
		return nil
	}); err != nil {
		return err
	}
	fmt.Printf("  %s gets no answer any more after %d ms\n", client.Name, time.Since(begin).Milliseconds())
	// One to the backend on its own node, so that the drop is to be seen there.
	node, at := backend.Node, netip.AddrPortFrom(backend.IP4, 8080)
	if conn, err := traffic.Dial(client.NS, "tcp", at, 100*time.Millisecond); err == nil {
		conn.Close()
		return fmt.Errorf("%s reaches %s, which the policy forbids", client.Name, backend.Name)
	}
	if err := s.until(ctx, func() error {
		drops, err := node.Client().Drops(ctx)
		if err == nil && !slices.ContainsFunc(drops, func(d api.Drop) bool { return d.Dst.Addr == at.Addr() && len(d.Policies) > 0 }) {
			err = errors.New("the drop is not recorded")
		}
		return err
	}); err != nil {
		return err
	}
	if err := s.weft(node, "drops"); err != nil {
		return err
	}
	if err := s.weft(node, "explain", client.Name, at.String()); err != nil {
		return err
	}
	begin = time.Now()
	object := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {role: cashier}}\nspec: {nodeName: %s}\n",
		client.Name, client.Node.Name)
	if err := s.c.WriteObject("cashier", object); err != nil {
		return err
	}
	if err := s.until(ctx, func() error {
		_, err := whoAnswersAt(client.NS, shopAddr, 100*time.Millisecond)
		return err
	}); err != nil {
		return err
	}
	fmt.Printf("  %s becomes a cashier, by its label, and has its answers after %d ms\n", client.Name, time.Since(begin).Milliseconds())
	return s.weft(node, "explain", client.Name, at.String())
}

// until waits a few seconds at most.
func (s *story) until(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return testnet.Wait(ctx, f)
}

// weft runs the command line tool on a node, and prints what it says: the last lines.
func (s *story) weft(n *cluster.Node, args ...string) error {
	fmt.Printf("  on %s: weft %s\n", n.Name, strings.Join(args, " "))
	cmd := exec.Command(filepath.Join(place, "bin", "weft"), append(slices.Clone(args), "--socket", n.Socket())...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("weft %s: %w", strings.Join(args, " "), err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	for _, line := range lines[max(0, len(lines)-4):] {
		fmt.Println("    " + line)
	}
	return nil
}
