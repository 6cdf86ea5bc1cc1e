package daemon

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told is the cells of a table of docs/status.md, a line each.
func told(t *testing.T, heading string) []string {
	t.Helper()
	b, err := os.ReadFile("../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/status.md has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var rows []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| `") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	return rows
}

// sources is the text of files without tests.
func sources(t *testing.T, patterns ...string) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no file %s: %v", pattern, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	return all.String()
}

func TestEveryMetricIsDocumented(t *testing.T) {
	text := sources(t, "*.go")
	var want []string
	for _, m := range regexp.MustCompile(`desc\("([a-z_]+)", "([^"]+)"((?:, "[a-z]+")*)\)`).FindAllStringSubmatch(text, -1) {
		want = append(want, "| `weft_"+m[1]+"` | "+strings.TrimPrefix(strings.ReplaceAll(m[3], `"`, ""), ", ")+" | "+m[2]+" |")
	}
	labels := map[string]string{"weft_cni_calls_total": "verb, code", "weft_cni_duration_seconds": "verb"}
	for _, m := range regexp.MustCompile(`Name: "(weft_[a-z_]+)", Help: "([^"]+)"`).FindAllStringSubmatch(text, -1) {
		want = append(want, "| `"+m[1]+"` | "+labels[m[1]]+" | "+m[2]+" |")
	}
	slices.Sort(want)
	if all := strings.Count(text, " = desc(") + strings.Count(text, `Name: "weft_`); len(want) != all {
		t.Fatalf("%d metrics are read of %d: the test knows a form less", len(want), all)
	}
	got := told(t, "Metrics")
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-code +docs/status.md):\n%s", diff)
	}
}

func TestEveryProblemIsDocumented(t *testing.T) {
	text := sources(t, "problems.go", "source/source.go", "source/kube/source.go")
	var want, got []string
	for _, m := range regexp.MustCompile(`(?m)^\s[pP]roblem\w+\s*=\s*"([a-z-]+)"`).FindAllStringSubmatch(text, -1) {
		want = append(want, m[1])
	}
	slices.Sort(want)
	for _, row := range told(t, "Problems") {
		got = append(got, strings.Split(row, "`")[1])
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 40 {
		t.Errorf("%d problems (-code +docs/status.md):\n%s", len(want), diff)
	}
	elsewhere := sources(t, "*.go", "*/*.go", "*/*/*.go")
	if n := strings.Count(elsewhere, `What: "`); n > 0 {
		t.Errorf("%d problems have no constant: the test does not know them", n)
	}
}
