package daemon

import (
	"log/slog"
	"testing"
	"time"

	"github.com/weftnet/weft/overlay"
)

// Where a filter keeps the questions from a node by which nodes watch each other, and nothing
// else, the overlay must not be said to be at fault: who believes it looks at the wrong port.
func TestALostNodeIsNoProblemOfTheOverlay(t *testing.T) {
	well := reach{at: time.Now(), result: overlay.ProbeResult{Reachable: true}}
	for _, tc := range []struct {
		name   string
		lost   bool
		result reach
		want   string // the problem of the overlay
		shown  string
	}{
		{"well", false, well, "", "ok"},
		{"lost, but the overlay works", true, well, "", "no answer"},
		{"lost, and no answer through the overlay", true, reach{at: time.Now()}, problemUnreachable, "no answer"},
		{"no answer through the overlay", false, reach{at: time.Now()}, problemUnreachable, "no answer"},
	} {
		n := &node{book: newBook(nil, nil), problems: newProblems(slog.New(slog.DiscardHandler)), services: newServices(Config{}, &tables{}, nil)}
		e := &entry{node: overlay.Node{Name: "b"}}
		n.book.entries["b"] = e
		n.lose(map[string]bool{"b": tc.lost}, false)
		n.learn([]overlay.ProbeTarget{{Name: "b"}}, []reach{tc.result})
		got := ""
		for _, p := range n.problems.all() {
			got += p.What
		}
		if got != tc.want || e.reach.String() != tc.shown {
			t.Errorf("%s: problems %q, shown as %q, want %q, %q", tc.name, got, e.reach, tc.want, tc.shown)
		}
	}
}
