package main

import (
	"slices"
	"strings"
	"testing"
)

func TestOnlyChoosesClusters(t *testing.T) {
	for _, c := range []struct {
		only string
		want []string // nil: an error that says which there are
	}{
		{"", []string{"dual", "ipv4", "zones"}},
		{"ipv4|zones", []string{"ipv4", "zones"}},
		{"^ipv$", nil},
		{"(", nil},
	} {
		plans, err := options{only: c.only}.chosenOf([]plan{{name: "dual"}, {name: "ipv4"}, {name: "zones"}})
		var got []string
		for _, p := range plans {
			got = append(got, p.name)
		}
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("-only %q: got %v, %v, want %v", c.only, got, err, c.want)
		}
		if c.only == "^ipv$" && !strings.Contains(err.Error(), "dual, ipv4, zones") {
			t.Errorf("got %q, want it to name the clusters", err)
		}
	}
}
