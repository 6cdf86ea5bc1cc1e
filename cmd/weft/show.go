package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// show writes v as JSON, or calls table.
func (c *cli) show(v any, table func() error) error {
	if c.format != "json" {
		return table()
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = fmt.Fprintf(c.out, "%s\n", b)
	return err
}

// rows writes aligned columns; an empty cell becomes "-".
func (c *cli) rows(rows ...[]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cmp.Or(cell, "-"))
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// clean keeps foreign text from steering the terminal or breaking the columns.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// announcements says which of the load balancers' addresses the node announces.
func announcements(a api.Announcements) string {
	text := fmt.Sprintf("%d of %d of load balancers are announced by this node", a.Own, a.Addresses)
	if len(a.Dead) > 0 {
		text += "; no answer from " + strings.Join(a.Dead, ", ")
	}
	return text
}

func (c *cli) status(s api.Status) error {
	state := "ready"
	if !s.Ready {
		state = "NOT READY"
	}
	synced := "synced"
	if !s.Synced {
		synced = "not read yet"
	}
	head := [][]string{
		{"Node", s.Node + " (" + state + ")"},
		{"Daemon", s.Version + ", up " + cmp.Or(c.age(s.Since), "?")},
		{"Source", s.Source + " (" + synced + ")"},
		{"Overlay", fmt.Sprintf("%s, pod MTU %d, map layout %s", s.Overlay, s.MTU, cmp.Or(s.Layout, "-"))},
		{"Peers", fmt.Sprint(s.Peers)},
		{"Pods", fmt.Sprint(s.Pods)},
	}
	if s.Announce.Addresses > 0 {
		head = append(head, []string{"Addresses", announcements(s.Announce)})
	}
	if err := c.rows(head...); err != nil {
		return err
	}
	var problems, pools, counters, tables [][]string
	for _, p := range s.Problems {
		problems = append(problems, []string{p.What, c.age(p.Since), p.Text})
	}
	for _, p := range s.Pools {
		pools = append(pools, []string{p.Prefix.String(), fmt.Sprint(p.Used), fmt.Sprint(p.Cooling), p.Size})
	}
	for _, n := range s.Counters {
		counters = append(counters, []string{n.Kind, n.Reason, fmt.Sprint(n.Count)})
	}
	for _, t := range s.Tables {
		tables = append(tables, []string{t.Name, fmt.Sprint(t.Rows), fmt.Sprint(t.Repairs), t.Error})
	}
	for _, section := range []struct {
		head []string
		rows [][]string
	}{
		{[]string{"PROBLEM", "SINCE", "WHAT TO KNOW"}, problems},
		{[]string{"POOL", "USED", "COOLING", "SIZE"}, pools},
		{[]string{"PACKETS", "REASON", "COUNT"}, counters},
		{[]string{"TABLE", "ROWS", "REPAIRS", "ERROR"}, tables},
	} {
		if len(section.rows) == 0 {
			continue
		}
		fmt.Fprintln(c.out)
		if err := c.rows(append([][]string{section.head}, section.rows...)...); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) endpoints(list []api.Endpoint) error {
	slices.SortFunc(list, func(a, b api.Endpoint) int {
		return cmp.Or(cmp.Compare(a.PodNamespace, b.PodNamespace), cmp.Compare(a.PodName, b.PodName),
			cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
	rows := [][]string{{"POD", "CONTAINER", "INTERFACE", "ADDRESSES", "HOST SIDE", "MTU", "AGE", "STATE"}}
	for _, e := range list {
		pod := e.PodName
		if e.PodNamespace != "" {
			pod = e.PodNamespace + "/" + e.PodName
		}
		rows = append(rows, []string{
			pod, short(e.ContainerID), e.IfName, join(e.IPs, netip.Addr.String), e.HostIf, fmt.Sprint(e.MTU), c.age(e.Since), e.State,
		})
	}
	return c.rows(rows...)
}

func (c *cli) nodes(list []api.Node) error {
	slices.SortFunc(list, func(a, b api.Node) int { return cmp.Compare(a.Name, b.Name) })
	rows := [][]string{{"NODE", "ADDRESS", "POD CIDRS", "VIA", "LINK", "MTU", "REACH", "RTT"}}
	for _, n := range list {
		name, addr, mtu := n.Name, "", ""
		if n.Self {
			name += " (this)"
		}
		if n.Addr.IsValid() {
			addr = n.Addr.String()
		}
		if n.MTU > 0 {
			mtu = fmt.Sprint(n.MTU)
		}
		rows = append(rows, []string{name, addr, join(n.PodCIDRs, netip.Prefix.String), n.Via, n.Link, mtu, n.Reach, n.RTT})
	}
	return c.rows(rows...)
}

func join[T any](list []T, text func(T) string) string {
	var s []string
	for _, v := range list {
		s = append(s, text(v))
	}
	return strings.Join(s, ",")
}

// short is a container ID as runtimes show it.
func short(id string) string {
	if len(id) > 13 {
		return id[:13]
	}
	return id
}

// age is a duration in one unit, as people say it.
func (c *cli) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(c.now().Sub(t), 0)
	switch day := 24 * time.Hour; {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d/day))
	}
}
