package policy

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

var update = flag.Bool("update", false, "write what is got into testdata")

// Each file of testdata has three parts: the cluster as YAML; the pods that are attached
// here, with their addresses; and the rows. Classes are named by letters in the order of
// their first prefix, - is class 0.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := archive(string(b))
			locals := localsOf(t, parts["locals"])
			c, rows := New("node0"), newTable(t)
			c.Update(stateOf(t, parts["cluster.yaml"]), locals, rows)
			got := rowsText(c, rows, locals)
			if *update {
				before, _, _ := strings.Cut(string(b), "-- rows --\n")
				if err := os.WriteFile(file, []byte(before+"-- rows --\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(got, parts["rows"]); d != "" {
				t.Errorf("rows (-got +want):\n%s", d)
			}
		})
	}
}

// archive is the files of a text in which a line "-- name --" begins each.
func archive(text string) map[string]string {
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(n, " --") {
			name = strings.TrimSuffix(n, " --")
			continue
		}
		out[name] += line
	}
	return out
}

// localsOf reads lines of namespace/name and addresses.
func localsOf(t *testing.T, text string) (out []Local) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		namespace, name, _ := strings.Cut(words[0], "/")
		l := Local{Ref: api.Ref{ContainerID: words[0], IfName: "eth0"}, Namespace: namespace, Name: name}
		for _, w := range words[1:] {
			a, err := netip.ParseAddr(w)
			if err != nil {
				t.Fatal(err)
			}
			l.Addrs = append(l.Addrs, a)
		}
		out = append(out, l)
	}
	return out
}

// stateOf is what the source makes of YAML.
func stateOf(t *testing.T, yaml string) source.State {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cluster.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := source.Open("dir:"+dir, source.Options{Node: "node0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	for {
		s := d.Snapshot()
		for _, p := range s.Problems {
			t.Fatalf("the source has a problem: %s", p.Text)
		}
		if s.PoliciesComplete {
			return s
		}
		select {
		case <-d.Changed():
		case <-ctx.Done():
			t.Fatal("the folder was not read")
		}
	}
}

// rowsText is the rows as a person reads them.
func rowsText(c *Compiler, rows *table, locals []Local) string {
	var b strings.Builder
	letters := map[bpf.Class]string{0: "-"}
	for _, p := range slices.SortedFunc(maps.Keys(rows.classes), netip.Prefix.Compare) {
		id := rows.classes[p]
		if letters[id] == "" {
			letters[id] = string(rune('A' + len(letters) - 1))
		}
		fmt.Fprintf(&b, "%s %s\n", p, letters[id])
	}
	for _, l := range locals {
		i, _ := c.Isolation(l.Ref)
		for d, set := range [...]bpf.RuleSet{i.Ingress, i.Egress} {
			fmt.Fprintf(&b, "\n%s/%s %s", l.Namespace, l.Name, direction(d))
			switch set {
			case 0:
				b.WriteString(": open\n")
				continue
			case bpf.RuleSetClosed:
				b.WriteString(": closed\n")
				continue
			}
			fmt.Fprintf(&b, " (%s)\n", c.Attribution(set, bpf.RuleNone))
			for _, id := range slices.SortedFunc(maps.Keys(letters), func(x, y bpf.Class) int { return strings.Compare(letters[x], letters[y]) }) {
				for block := uint32(0); ; block++ {
					row, ok := rows.rules[bpf.RuleKey{Set: set, Class: id, Block: block}]
					if !ok {
						break
					}
					for _, r := range row {
						if r.Verdict != 0 {
							fmt.Fprintf(&b, "  %s[%d] %s\n", letters[id], block, ruleRowText(c, set, r))
						}
					}
				}
			}
		}
	}
	return b.String()
}

func ruleRowText(c *Compiler, set bpf.RuleSet, r bpf.Rule) string {
	verb := "deny"
	if r.Verdict == bpf.Allow {
		verb = "allow"
	}
	ports := fmt.Sprintf("%d-%d", r.First, r.Last)
	if r.First == r.Last {
		ports = fmt.Sprint(r.First)
	}
	protocol := "any"
	if r.Protocol != 0 {
		protocol = r.Protocol.String()
	}
	if r.First == 0 && r.Last == 65535 {
		ports = "all"
	}
	return fmt.Sprintf("%s %s %s: %s", verb, protocol, ports, c.Attribution(set, r.Index))
}
