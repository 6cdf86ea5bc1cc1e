package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

const buyersOnly = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: buyers-only, namespace: default}
spec:
  podSelector: {matchLabels: {app: shop}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: buyer}}}]
    ports: [{port: 8080}]
`

// policy lets one pod into the shop and keeps another out, and asks Weft why.
func (s *story) policy(ctx context.Context) error {
	title("A NetworkPolicy: only pods with the label role=buyer reach the shop")
	shop, buyer, other := s.all[1], s.all[0], s.all[2]
	l, err := sayName(shop)
	if err != nil {
		return err
	}
	defer l.Close()
	text := fmt.Sprintf("%s---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {app: shop}}\nspec: {nodeName: %s}\n",
		shopService, shop.Name, shop.Node.Name)
	for _, p := range []struct {
		pod  *cluster.Pod
		role string
	}{{buyer, "buyer"}, {other, "guest"}} {
		text += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {role: %s}}\nspec: {nodeName: %s}\n",
			p.pod.Name, p.role, p.pod.Node.Name)
	}
	if err := s.c.WriteObject("shop", text); err != nil {
		return err
	}
	until := func(what string, f func() error) (time.Duration, error) {
		begin := time.Now()
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := testnet.Wait(wait, f); err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
		return time.Since(begin), nil
	}
	const soon = 100 * time.Millisecond // a lost SYN is sent again after a second
	served := func(p *cluster.Pod) func() error {
		return func() error {
			_, err := answersWithin(p, soon)
			return err
		}
	}
	kept := func() error {
		if name, err := answersWithin(other, soon); err == nil {
			return fmt.Errorf("%s still answers %s", name, other.Name)
		}
		return nil
	}
	for _, p := range []*cluster.Pod{buyer, other} {
		if _, err := until("before the policy", served(p)); err != nil {
			return err
		}
	}
	fmt.Printf("  before it, %s and %s both do\n", buyer.Name, other.Name)
	if err := s.c.WriteObject("policy", buyersOnly); err != nil {
		return err
	}
	if _, err := until("after the policy", kept); err != nil {
		return err
	}
	if _, err := until("after the policy", served(buyer)); err != nil {
		return err
	}
	fmt.Printf("  with it, %s (buyer) is served, %s (guest) is not; %s says why:\n", buyer.Name, other.Name, shop.Node.Name)
	for _, args := range [][]string{
		{"drops"},
		{"explain", buyer.IP4.String(), shop.IP4.String() + ":8080"},
		{"explain", other.IP4.String(), shop.IP4.String() + ":8080"},
	} {
		if err := s.weft(ctx, shop.Node, args...); err != nil {
			return err
		}
	}
	if err := s.c.WriteObject("shop", strings.ReplaceAll(text, "role: guest", "role: buyer")); err != nil {
		return err
	}
	took, err := until("after the label", served(other))
	if err != nil {
		return err
	}
	fmt.Printf("  %s gets the label, and is served after %d ms\n", other.Name, took.Milliseconds())
	return s.c.DeleteObject("policy")
}

// weft runs the CLI on a node and shows the last lines of what it says.
func (s *story) weft(ctx context.Context, n *cluster.Node, args ...string) error {
	const most = 6
	out, err := exec.CommandContext(ctx, filepath.Join(place, "bin", "weft"), append(args, "--socket", n.Socket())...).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return errors.Join(fmt.Errorf("weft %s: %w", strings.Join(args, " "), err), errors.New(string(out)))
	}
	fmt.Printf("    $ weft %s\n", strings.Join(args, " "))
	for _, line := range lines[max(0, len(lines)-most):] {
		fmt.Printf("      %s\n", line)
	}
	return nil
}
