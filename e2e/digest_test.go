package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// assertOneLayout asserts that the pins of other layouts are gone.
func assertOneLayout(t *testing.T, n *cluster.Node) {
	t.Helper()
	testnet.Until(t, 10*time.Second, func() error {
		entries, err := os.ReadDir(n.BPFDir)
		if err != nil {
			return err
		}
		var layouts []string
		for _, e := range entries {
			if e.Name() != "links" && e.Name() != "lasting" && e.Name() != "serving" {
				layouts = append(layouts, e.Name())
			}
		}
		if len(layouts) != 1 {
			return fmt.Errorf("pinned layouts are %v, want one", layouts)
		}
		return nil
	})
}

// noise is what changes by itself: counters, timers, indexes, numbers of programs. What
// is called keep stays.
var noise = regexp.MustCompile(`(?m)^#.*$|^\d+: |@if\d+|\(\d+\)|(prog_id|link_id) \d+|(?P<keep>weft:(from|to)_pod) id \d+|\[\d+:\d+\]|(expires|used|age|preferred_lft|valid_lft) \S+|packets \d+ bytes \d+|# handle \d+|\w+_timer +\S+`)

// digest is the namespace's whole network state as text: links, addresses, routes,
// rules, neighbours, qdiscs, TCX, packet filter, sysctls, and the named files.
func digest(t *testing.T, ns *testnet.NS, files ...string) string {
	t.Helper()
	testnet.Until(t, 10*time.Second, func() error {
		out, err := ns.Output("ip", "-6", "addr", "show", "tentative")
		if err == nil && out != "" {
			err = fmt.Errorf("addresses are tentative still:\n%s", out)
		}
		return err
	})
	var b strings.Builder
	for _, cmd := range [][]string{
		{"ip", "-o", "-d", "link"}, {"ip", "-o", "addr"},
		{"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
		{"ip", "-4", "rule"}, {"ip", "-6", "rule"},
		{"ip", "neigh", "show", "nud", "permanent"},
		{"tc", "qdisc"},
		{"bpftool", "net", "show"},
		{"iptables-save"}, {"ip6tables-save"}, {"nft", "list", "ruleset"},
		{"sysctl", "net.ipv4", "net.ipv6"},
	} {
		out, err := ns.Output(cmd[0], cmd[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		lines := stable(out)
		if !strings.Contains(cmd[0], "tables") && cmd[0] != "nft" {
			slices.Sort(lines) // the order is that of creation
		}
		fmt.Fprintf(&b, "== %s\n%s\n", strings.Join(cmd, " "), strings.Join(lines, "\n"))
	}
	for _, dir := range files {
		fmt.Fprintf(&b, "== %s\n%s\n", dir, tree(t, dir))
	}
	return b.String()
}

// stable drops what changes by itself and what the order of events decides, and
// returns the lines.
func stable(out string) []string {
	lines := strings.Split(noise.ReplaceAllString(out, "${keep}"), "\n")
	keep := lines[:0]
	for _, l := range lines {
		l = strings.TrimRight(l, " \t")
		if l == "" || strings.Contains(l, "random_secret") || strings.Contains(l, "stable_secret") ||
			strings.Contains(l, "nf_conntrack") || strings.HasPrefix(l, "net.ipv4.tcp_fastopen_key") {
			continue
		}
		keep = append(keep, l)
	}
	return keep
}

// tree lists a folder's files with their sizes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		size := info.Size()
		if e.IsDir() {
			size = 0
		}
		lines = append(lines, fmt.Sprintf("%s %s %d", strings.TrimPrefix(path, dir), info.Mode(), size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
