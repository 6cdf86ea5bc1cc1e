package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/weftnet/weft/e2e/kind/proc"
)

// ChangedTests are the tests of one package of a Go module, built from a copy of it that is
// changed by rules, because as they are they cannot run here. Beside them is test2json, which
// tells what becomes of them.
type ChangedTests struct {
	Label   string
	Module  string
	Version string
	Package string // its folder in the module; the tests' program is <its last element>.test
	Edits   []Edit
	Files   []string // of the module, which are kept beside, by the last elements of their paths
}

// Edit replaces what a regular expression matches in one file of a module.
type Edit struct {
	Path  string
	Match string
	With  string // as regexp.Expand has it
	Times int    // how often it matches: if upstream has changed, somebody must look
}

// apply changes a text.
func (e Edit) apply(text []byte) ([]byte, error) {
	match, err := regexp.Compile(e.Match)
	if err != nil {
		return nil, fmt.Errorf("change %s: %w", e.Path, err)
	}
	if n := len(match.FindAllIndex(text, -1)); n != e.Times {
		return nil, fmt.Errorf("change %s: %q is there %d times, want %d: upstream's file is not the one that the rule was made for", e.Path, e.Match, n, e.Times)
	}
	return match.ReplaceAll(text, []byte(e.With)), nil
}

// Name is the label.
func (t ChangedTests) Name() string { return t.Label }

// Needs nothing.
func (ChangedTests) Needs() []Recipe { return nil }

// Make copies the module, changes it, and builds the tests by its own go.mod and go.sum.
func (t ChangedTests) Make(ctx context.Context, s *Store, dir string) error {
	src := s.path("work", "src", t.Label+"-changed")
	if err := os.RemoveAll(src); err != nil {
		return fmt.Errorf("change %s: %w", t.Module, err)
	}
	whole := ModuleFiles{Label: t.Label, Module: t.Module, Version: t.Version, Paths: []string{"."}}
	if err := whole.Make(ctx, s, src); err != nil {
		return err
	}
	for _, e := range t.Edits {
		path := filepath.Join(src, e.Path)
		text, err := os.ReadFile(path)
		if err == nil {
			text, err = e.apply(text)
		}
		if err == nil {
			err = os.WriteFile(path, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	log, err := s.buildLog(t.Label)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"test", "-c", "-trimpath", "-ldflags=-s -w", "-o", dir + "/", "./" + t.Package},
		{"build", "-trimpath", "-o", dir + "/", "cmd/test2json"},
	} {
		cmd := proc.Command(ctx, "go", args...)
		cmd.Dir, cmd.Env = src, s.goEnv()
		if err = proc.Logged(cmd, log); err != nil {
			break
		}
	}
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	for _, file := range t.Files {
		if err := copyFile(filepath.Join(dir, filepath.Base(file)), filepath.Join(src, file), 0); err != nil {
			return fmt.Errorf("keep %s: %w", file, err)
		}
	}
	return nil
}
