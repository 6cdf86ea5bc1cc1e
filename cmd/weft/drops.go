package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/internal/api"
)

// routine is a reason that every new pod causes, by the router solicitations of its kernel.
const routine = "link-local"

func (c *cli) dropsCommand() *cobra.Command {
	var watch, all bool
	cmd := &cobra.Command{
		Use: "drops", Aliases: []string{"drop"}, Args: cobra.NoArgs,
		Short: "List packets that were dropped lately on this node, and why",
		Long: `List the packets that were dropped or refused lately on this node, the oldest first,
each with its reason; of those that a policy dropped, with the policy and its rule, or
with the policies that isolate the pod ("default deny"). With -w, show what is dropped
from now on.

When very many are dropped, some are not recorded; how many is said. The counters in
weft status and in the metrics have all of them. Those of the reason ` + routine + `, which
every new pod causes, are left out without -a.`,
		Example: `  sudo weft drops
  sudo weft drops -w -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return c.watchDrops(cmd.Context(), all)
			}
			list, err := ask(cmd, c, (*api.Client).Drops)
			if err != nil {
				return err
			}
			shown := []api.Drop{}
			for _, d := range list {
				if all || d.Reason != routine {
					shown = append(shown, d)
				}
			}
			return c.show(shown, func() error {
				for _, d := range shown {
					if err := c.drop(d); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show what is dropped from now on")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show those of the reason "+routine+", too")
	return cmd
}

// watchDrops shows drops as they come, until ctx is done: as text, or JSON, a line each.
func (c *cli) watchDrops(ctx context.Context, all bool) error {
	err := api.NewClient(c.socket).WatchDrops(ctx, c.timeout, func(d api.Drop) error {
		if !all && d.Reason == routine {
			return nil
		}
		if c.format != "json" {
			return c.drop(d)
		}
		b, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		_, err = fmt.Fprintf(c.out, "%s\n", b)
		return err
	})
	if ctx.Err() != nil {
		return nil // that is how one ends it
	}
	return err
}

// drop shows one, in a line; a line before it says how many were left out.
func (c *cli) drop(d api.Drop) error {
	if d.LeftOut > 0 {
		if _, err := fmt.Fprintf(c.out, "… %d more that were not recorded\n", d.LeftOut); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%s  %-16s %s", d.Time.Local().Format("15:04:05.000"), clean(d.Reason), clean(d.Protocol))
	if d.Detail != "" {
		text += " " + clean(d.Detail)
	}
	text += " " + end(d.Src) + " → " + end(d.Dst)
	if d.Backend != nil {
		text += " (" + end(*d.Backend) + ")"
	}
	text += " at " + clean(cmp.Or(d.Device, "?"))
	if d.Why != "" {
		text += ": " + clean(d.Why)
	}
	_, err := fmt.Fprintln(c.out, text)
	return err
}

// end is one end of a packet: the pod or node, if it is known, and the place.
func end(e api.DropEnd) string {
	place := "?"
	switch {
	case e.Addr.IsValid() && e.Port != 0:
		place = netip.AddrPortFrom(e.Addr, e.Port).String()
	case e.Addr.IsValid():
		place = e.Addr.String()
	}
	switch {
	case e.Pod != "":
		return clean(e.Pod) + " " + place
	case e.Node != "":
		return "node " + clean(e.Node) + " " + place
	}
	return place
}
