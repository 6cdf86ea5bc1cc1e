package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/weftnet/weft/e2e/kind/proc"
)

// GoBuild builds commands of one Go module into a folder of static binaries.
type GoBuild struct {
	Label    string // the artefact's name
	Module   string
	Version  string
	Packages []string // import paths of the commands
	// Test builds the one package's tests, as <last element of the path>.test.
	Test bool
	// CGO links with the machine's C library, statically.
	CGO    bool
	Tags   string            // of the build, with commas
	Stamp  map[string]string // string variables to set: import path and name → value
	Rename map[string]string // binaries whose package has another name than they should have
}

// Name is the label.
func (g GoBuild) Name() string { return g.Label + "-" + strings.TrimPrefix(g.Version, "v") }

// Needs nothing.
func (GoBuild) Needs() []Recipe { return nil }

// Make builds in a module made for it, which requires only g.Module.
func (g GoBuild) Make(ctx context.Context, s *Store, dir string) error {
	src, err := s.module(ctx, g.Module, g.Version)
	if err != nil {
		return err
	}
	log, err := s.buildLog(g.Name())
	if err != nil {
		return err
	}
	ldflags := []string{"-s", "-w"}
	for _, name := range slices.Sorted(maps.Keys(g.Stamp)) {
		ldflags = append(ldflags, "-X", name+"="+g.Stamp[name])
	}
	args := []string{"build"}
	if g.Test {
		args = []string{"test", "-c"}
	}
	args = append(args, "-trimpath", "-o", dir+"/")
	env := s.goEnv()
	if g.CGO {
		ldflags = append(ldflags, "-linkmode", "external", "-extldflags", "-static")
		env = append(env, "CGO_ENABLED=1")
	}
	if g.Tags != "" {
		args = append(args, "-tags", g.Tags)
	}
	args = append(append(args, "-ldflags", strings.Join(ldflags, " ")), g.Packages...)
	cmd := proc.Command(ctx, "go", args...)
	cmd.Dir, cmd.Env = src, env
	err = proc.Logged(cmd, log)
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	for from, to := range g.Rename {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			return fmt.Errorf("name the binary: %w", err)
		}
	}
	return nil
}

// goEnv is the environment for the go command: our own module and build caches, because
// Kubernetes' fill gigabytes that nobody needs afterwards; and no setting of ours.
func (s *Store) goEnv() []string {
	return append(os.Environ(), "GOWORK=off", "GOOS=linux", "GOARCH="+runtime.GOARCH, "CGO_ENABLED=0",
		"GOFLAGS=-mod=mod -modcacherw -buildvcs=false",
		"GOCACHE="+s.path("work", "gocache"), "GOMODCACHE="+s.path("work", "mod"))
}

func (s *Store) buildLog(name string) (*os.File, error) {
	if err := os.MkdirAll(s.path("work", "log"), 0o755); err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	f, err := os.Create(s.path("work", "log", name+".log"))
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	return f, nil
}

// module returns a folder with a Go module that requires module in this version.
func (s *Store) module(ctx context.Context, module, version string) (string, error) {
	dir := s.path("work", "src", strings.ReplaceAll(module, "/", "_")+"@"+version)
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return dir, nil
	}
	at, err := s.download(ctx, module, version)
	if err != nil {
		return "", err
	}
	upstream, err := os.ReadFile(at.GoMod)
	if err != nil {
		return "", fmt.Errorf("read go.mod of %s: %w", module, err)
	}
	ours, err := scratchModule(module, version, upstream)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make module: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), ours, 0o644); err != nil {
		return "", fmt.Errorf("make module: %w", err)
	}
	return dir, nil
}

// downloaded is what `go mod download -json` says of a module.
type downloaded struct{ Dir, GoMod, Error string }

// download fetches a module's sources.
func (s *Store) download(ctx context.Context, module, version string) (downloaded, error) {
	work := s.path("work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return downloaded{}, fmt.Errorf("download %s: %w", module, err)
	}
	cmd := proc.Command(ctx, "go", "mod", "download", "-json", module+"@"+version)
	cmd.Dir, cmd.Env = work, append(s.goEnv(), "GOFLAGS=-modcacherw")
	out, err := proc.Output(cmd)
	var d downloaded
	if json.Unmarshal(out, &d) == nil && d.Error != "" {
		return d, fmt.Errorf("download %s: %s", module, d.Error)
	}
	if err != nil {
		return d, fmt.Errorf("download %s: %w", module, err)
	}
	return d, nil
}
