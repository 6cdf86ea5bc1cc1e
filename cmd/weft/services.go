package main

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/weftnet/weft/internal/api"
)

// services shows Services, a line for each place, and the backends where they are there. Who
// announces addresses has a column if there are such.
func (c *cli) services(list []api.Service) error {
	slices.SortStableFunc(list, func(a, b api.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	rows := [][]string{{"NAMESPACE", "NAME", "TYPE", "SERVED AT", "KIND", "READY", "POLICY", "ANNOUNCED BY", "PROBLEM"}}
	backends := [][]string{{"BACKEND", "PROTOCOL", "PORT", "STATE", "FLOWS", "NODE", "ZONE", "POD"}}
	for _, s := range list {
		problem := strings.Join(s.Problems, "; ")
		if len(s.Fronts) == 0 {
			rows = append(rows, []string{s.Namespace, s.Name, s.Type, "", "", "", "", "", problem})
		}
		for i, f := range s.Fronts {
			if i > 0 {
				problem = ""
			}
			at := net.JoinHostPort(f.Addr, fmt.Sprint(f.Port)) + "/" + f.Protocol
			rows = append(rows, []string{
				s.Namespace, s.Name, s.Type, at, f.Kind, fmt.Sprintf("%d/%d", f.Ready, f.Total), f.Policy, f.Announcer, problem,
			})
		}
		for _, b := range s.Backends {
			backends = append(backends, []string{b.Addr, b.Protocol, b.Port, b.State, fmt.Sprint(b.Flows), b.Node, b.Zone, b.Pod})
		}
	}
	const announcedBy = 7
	if !slices.ContainsFunc(rows[1:], func(row []string) bool { return row[announcedBy] != "" }) {
		for i, row := range rows {
			rows[i] = slices.Delete(row, announcedBy, announcedBy+1)
		}
	}
	if err := c.rows(rows...); err != nil || len(backends) == 1 {
		return err
	}
	fmt.Fprintln(c.out)
	return c.rows(backends...)
}
