// Package build makes what a kind cluster and the upstream tests need, on a machine that
// can pull no image: from Go modules and Debian packages alone. What it makes is kept in
// a store, under a name that holds a hash of how it was made.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/weftnet/weft/e2e/kind/progress"
)

// Recipe says, as data, how one artefact is made. Whatever changes the result is an
// exported field, because its JSON is the artefact's key.
type Recipe interface {
	// Name is what people read; it need not be unique among versions.
	Name() string
	// Needs are the recipes that Make uses the artefacts of. They are made before.
	Needs() []Recipe
	// Make fills dir, which is empty. If it is killed, its work is thrown away.
	Make(ctx context.Context, s *Store, dir string) error
}

// Store is a folder of artefacts. Only one process at a time has it open.
type Store struct {
	dir  string
	log  *progress.Log
	lock *os.File
}

// Open opens the store in dir, waiting for another process that has it open.
func Open(ctx context.Context, dir string, log *progress.Log) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "made"), 0o755); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for waiting := false; ; waiting = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		if !waiting {
			log.Say("waiting for another run that uses %s", dir)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", f.Name(), ctx.Err()), f.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
	s := &Store{dir: dir, log: log, lock: f}
	// What a killed run was at is of no use to anyone.
	if err := errors.Join(os.RemoveAll(s.path("tmp")), os.RemoveAll(s.runDir())); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), f.Close())
	}
	return s, nil
}

// Close lets the next process in.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// runDir is a folder for what has unix sockets: their names are short, and the store may be
// anywhere.
func (s *Store) runDir() string {
	sum := sha256.Sum256([]byte(s.dir))
	return filepath.Join(os.TempDir(), "weft-kind-"+hex.EncodeToString(sum[:6]))
}

// Path is the folder that r's artefact has once it is made.
func (s *Store) Path(r Recipe) string { return s.path("made", key(r)) }

// key is the name of r's folder.
func key(r Recipe) string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("recipe %s is not data: %v", r.Name(), err)) // a mistake of this package
	}
	sum := sha256.Sum256(append([]byte(fmt.Sprintf("%T", r)), b...))
	return r.Name() + "-" + hex.EncodeToString(sum[:6])
}

// Has tells whether r's artefact is made.
func (s *Store) Has(r Recipe) bool {
	_, err := os.Stat(s.Path(r))
	return err == nil
}

// Get returns the folder of r's artefact, and makes it, and what it needs, if it is not
// there.
func (s *Store) Get(ctx context.Context, r Recipe) (string, error) {
	path := s.Path(r)
	if s.Has(r) {
		return path, nil
	}
	for _, need := range r.Needs() {
		if _, err := s.Get(ctx, need); err != nil {
			return "", err
		}
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.path("tmp"), 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", r.Name(), err)
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), r.Name()+"-")
	if err != nil {
		return "", fmt.Errorf("make %s: %w", r.Name(), err)
	}
	err = s.log.Step("make "+r.Name(), func() error { return r.Make(ctx, s, tmp) })
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	return path, nil
}

// Tidy removes the artefacts that neither the given recipes nor what they need are, and
// all that only building needs: sources, the build cache, logs.
func (s *Store) Tidy(keep ...Recipe) error {
	kept := map[string]bool{}
	var mark func(Recipe)
	mark = func(r Recipe) {
		kept[key(r)] = true
		for _, need := range r.Needs() {
			mark(need)
		}
	}
	for _, r := range keep {
		mark(r)
	}
	made, err := os.ReadDir(s.path("made"))
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	var errs []error
	for _, e := range made {
		if !kept[e.Name()] {
			errs = append(errs, os.RemoveAll(s.path("made", e.Name())))
		}
	}
	errs = append(errs, os.RemoveAll(s.path("work")), os.RemoveAll(s.path("tmp")))
	return errors.Join(errs...)
}
