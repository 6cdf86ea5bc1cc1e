package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/internal/api"
)

func (c *cli) policyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "policy [POD | NAMESPACE/POD | ADDRESS]", Aliases: []string{"policies", "pol"}, Args: cobra.MaximumNArgs(1),
		Short: "List the policies, or say what applies to a pod of this node",
		Long: `List the network policies of the cluster, and how many pods of this node each is
about. With a pod of this node, say what applies to it, in words.`,
		Example: `  sudo weft policy
  sudo weft policy shop/web-0`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				p, err := ask(cmd, c, (*api.Client).Policies)
				if err != nil {
					return err
				}
				return c.show(p, func() error { return c.policies(p) })
			}
			p, err := ask(cmd, c, func(a *api.Client, ctx context.Context) ([]api.PodPolicy, error) {
				return a.PodPolicy(ctx, args[0])
			})
			if err != nil {
				return err
			}
			return c.show(p, func() error { return c.podPolicies(p) })
		},
	}
}

func (c *cli) policies(list []api.Policy) error {
	rows := [][]string{{"KIND", "NAMESPACE", "NAME", "TIER", "DIRECTIONS", "PODS HERE", "PROBLEM"}}
	for _, p := range list {
		tier := p.Tier
		if tier == "Admin" {
			tier = fmt.Sprintf("%s %d", tier, p.Priority)
		}
		rows = append(rows, []string{
			p.Kind, p.Namespace, p.Name, tier, strings.Join(p.Directions, ","), fmt.Sprint(p.Pods), p.Problem,
		})
	}
	return c.rows(rows...)
}

func (c *cli) podPolicies(list []api.PodPolicy) error {
	var b strings.Builder
	for i, p := range list {
		if i > 0 {
			fmt.Fprintln(&b)
		}
		fmt.Fprintf(&b, "%s  %s  %s\n", clean(podName(p)), clean(p.IfName), clean(join(p.Addrs, netip.Addr.String)))
		fmt.Fprintf(&b, "  ingress %s, egress %s\n", clean(p.Ingress.State), clean(p.Egress.State))
		for _, w := range p.Words {
			fmt.Fprintf(&b, "  %s\n", clean(w))
		}
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func podName(p api.PodPolicy) string {
	if p.Name == "" {
		return short(p.ContainerID)
	}
	return p.Namespace + "/" + p.Name
}

func (c *cli) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain FROM TO[:PORT[/PROTOCOL]]", Args: cobra.ExactArgs(2),
		Short: "Say what policies make of a packet, by asking the live programs",
		Long: `Say what would become of the first packet of a flow, at both ends, and which rule
decides. The programs in the kernel are run on a made packet, so the answer is theirs.

FROM is a pod (NAME or NAMESPACE/NAME) or an address. TO is one, too, or a Service by its
name or address. PROTOCOL is tcp (the default), udp or sctp; without a port it is a ping,
or, of a Service, its only port. The end of a pod that runs on another node is not known
here: the answer says which node to ask.`,
		Example: `  sudo weft explain shop/cart-0 shop/web:80
  sudo weft explain 192.0.2.1 shop/web-0:8080/tcp
  sudo weft explain shop/cart-0 '[fd00::1]:53/udp'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := ask(cmd, c, func(a *api.Client, ctx context.Context) (api.Explanation, error) {
				return a.Explain(ctx, api.ExplainRequest{From: args[0], To: args[1]})
			})
			if err != nil {
				return err
			}
			return c.show(e, func() error { return c.explanation(e) })
		},
	}
}

func (c *cli) explanation(e api.Explanation) error {
	var b strings.Builder
	for i, w := range e.Ways {
		if i > 0 {
			fmt.Fprintln(&b)
		}
		fmt.Fprintf(&b, "%s  %s → %s\n", clean(w.Protocol), end(w.From), end(w.To))
		if w.Service != "" {
			chosen := "it has no backend"
			if w.Backend != nil {
				chosen = "for example its backend " + end(*w.Backend)
			}
			fmt.Fprintf(&b, "  Service %s: %s\n", clean(w.Service), chosen)
		}
		for _, j := range []struct {
			name string
			api.Judgement
		}{{"egress ", w.Egress}, {"ingress", w.Ingress}} {
			verdict := j.Verdict
			if verdict == api.VerdictNone {
				verdict = "passes"
			}
			fmt.Fprintf(&b, "  %s  %s: %s\n", j.name, verdict, clean(j.Why))
		}
		verdict := strings.ToUpper(w.Verdict)
		if w.Reason != "" {
			verdict += " (" + clean(w.Reason) + ")"
		}
		fmt.Fprintf(&b, "  → %s\n", verdict)
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}
