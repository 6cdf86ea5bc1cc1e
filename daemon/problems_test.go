package daemon

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProblemsKeepTheirTimeAndAreLoggedOnce(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	p := newProblems(slog.New(slog.NewTextHandler(&out, nil)))
	p.now = func() time.Time { now = now.Add(time.Second); return now }
	logged := func() int {
		n := strings.Count(out.String(), "\n")
		out.Reset()
		return n
	}
	state := func() (list []string) {
		for _, q := range p.all() {
			list = append(list, q.What+" "+q.Text+" "+q.Since.UTC().Format("05"))
		}
		return list
	}
	step := func(name string, want []string, wantLogged int) {
		t.Helper()
		if d := cmp.Diff(want, state()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if got := logged(); got != wantLogged {
			t.Errorf("%s: %d lines logged, want %d", name, got, wantLogged)
		}
	}
	p.set("b", "x", "y")
	step("two", []string{"b x 01", "b y 02"}, 2)
	p.set("b", "x", "y")
	step("same again", []string{"b x 01", "b y 02"}, 0)
	p.set("a", "z")
	p.set("b", "y")
	step("one solved, one new", []string{"a z 03", "b y 02"}, 2)
	p.sum("c", "1 of them")
	p.sum("c", "2 of them")
	step("a sum changes silently", []string{"a z 03", "b y 02", "c 2 of them 04"}, 1)
	p.sum("c", "")
	p.err("a", nil)
	p.set("b")
	step("all solved", nil, 3)
}

func TestFewCountsTheRest(t *testing.T) {
	if got := strings.Join(few(2, []string{"a", "b", "c", "d"}), ","); got != "a,b,and 2 more" {
		t.Errorf("got %q", got)
	}
	if got := few(2, []string{"a", "b"}); len(got) != 2 {
		t.Errorf("got %q", got)
	}
}
