package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/kind/progress"
)

// dish is a recipe that writes its text, and counts how often.
type dish struct {
	Text string
	From []dish
	Fail bool

	made *[]string
}

func (d dish) Name() string { return "dish-" + d.Text }

func (d dish) Needs() []Recipe {
	var needs []Recipe
	for _, f := range d.From {
		needs = append(needs, f)
	}
	return needs
}

func (d dish) Make(_ context.Context, s *Store, dir string) error {
	*d.made = append(*d.made, d.Text)
	for _, f := range d.From {
		if _, err := os.Stat(filepath.Join(s.Path(f), "text")); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(d.Text), 0o644); err != nil {
		return err
	}
	if d.Fail {
		return errors.New("burnt")
	}
	return nil
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, progress.New(&bytes.Buffer{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // may be closed already
	return s
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), "dish-"), "-")
		names = append(names, name)
	}
	return names
}

func TestAnArtefactIsMadeOnceAfterWhatItNeeds(t *testing.T) {
	var made []string
	flour := dish{Text: "flour", made: &made}
	bread := dish{Text: "bread", From: []dish{flour}, made: &made}
	dir := t.TempDir()
	for range 2 { // the second time, in another run
		s := open(t, dir)
		path, err := s.Get(t.Context(), bread)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(path, "text")); err != nil || string(b) != "bread" {
			t.Errorf("artefact holds %q, %v", b, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"flour", "bread"}, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
}

func TestAnotherRecipeIsAnotherArtefact(t *testing.T) {
	s := open(t, t.TempDir())
	a := dish{Text: "bread", From: []dish{{Text: "flour"}}}
	b := dish{Text: "bread", From: []dish{{Text: "rye"}}}
	if s.Path(a) == s.Path(b) {
		t.Errorf("both have the path %s", s.Path(a))
	}
}

func TestWhatFailedOrWasKilledLeavesNoArtefact(t *testing.T) {
	var made []string
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Get(t.Context(), dish{Text: "toast", Fail: true, made: &made}); err == nil || !strings.Contains(err.Error(), "burnt") {
		t.Errorf("Get = %v, want the recipe's error", err)
	}
	// A killed run's half-made artefact.
	if err := os.MkdirAll(filepath.Join(dir, "tmp", "dish-soup-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if got := names(t, filepath.Join(dir, "made")); len(got) > 0 {
		t.Errorf("made holds %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "tmp")); !os.IsNotExist(err) {
		t.Errorf("tmp is still there: %v", err)
	}
}

func TestTidyKeepsWhatTheGivenRecipesNeed(t *testing.T) {
	var made []string
	flour := dish{Text: "flour", made: &made}
	bread := dish{Text: "bread", From: []dish{flour}, made: &made}
	dir := t.TempDir()
	s := open(t, dir)
	for _, d := range []dish{bread, {Text: "old", made: &made}} {
		if _, err := s.Get(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "work", "mod"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Tidy(bread); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"bread", "flour"}, names(t, filepath.Join(dir, "made"))); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(dir, "work")); !os.IsNotExist(err) {
		t.Errorf("the build's folder is still there: %v", err)
	}
}

func TestASecondRunWaitsForTheFirst(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	var said bytes.Buffer
	if _, err := Open(ctx, dir, progress.New(&said)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open beside an open store = %v, want it to wait", err)
	}
	if !strings.Contains(said.String(), "waiting for another run") {
		t.Errorf("it said %q", said.String())
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}
