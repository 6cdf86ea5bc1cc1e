package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
)

// ConflistName sorts before what other networks usually call theirs: containerd
// takes the first file of the folder.
const ConflistName = "05-weft.conflist"

// Network is the name of the network that [Install] configures.
const Network = "weft"

// dirsFile, in the state directory, lists the folders that Install had to make.
const dirsFile = "plugin-dirs.json"

// InstallOptions says what is installed where. All but Socket and StateDir is needed.
type InstallOptions struct {
	Binary   string // the weft-cni to install
	BinDir   string // e.g. /opt/cni/bin
	ConfDir  string // e.g. /etc/cni/net.d
	Socket   string // of the daemon; empty: the default
	StateDir string // of the daemon; empty: the default
	Chain    []Chained
}

func (o InstallOptions) binary() string   { return filepath.Join(o.BinDir, api.PluginType) }
func (o InstallOptions) conflist() string { return filepath.Join(o.ConfDir, ConflistName) }

// files are what tells by a change that Install may have to do something.
func (o InstallOptions) files() []string {
	files := []string{o.Binary, o.binary(), o.conflist()}
	for _, c := range o.Chain {
		files = append(files, filepath.Join(o.BinDir, c.Type))
	}
	return files
}

func (o InstallOptions) stateDir() string {
	if o.StateDir == "" {
		return api.DefaultStateDir
	}
	return o.StateDir
}

// Conflist is the network configuration list that Install writes. It names all
// versions (cniVersions, CNI 1.1), so that an older runtime picks one it knows.
func Conflist(o InstallOptions) ([]byte, error) {
	type plugin struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
		Socket       string          `json:"socket,omitempty"`
		StateDir     string          `json:"stateDir,omitempty"`
	}
	p := plugin{
		Type:         api.PluginType,
		Capabilities: capabilities(o.Chain),
	}
	if o.Socket != api.DefaultSocket {
		p.Socket = o.Socket
	}
	if o.StateDir != api.DefaultStateDir {
		p.StateDir = o.StateDir
	}
	plugins := []any{p}
	for _, c := range o.Chain {
		plugins = append(plugins, c.Conf)
	}
	versions := Supported()
	b, err := json.MarshalIndent(struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
		Name        string   `json:"name"`
		Plugins     []any    `json:"plugins"`
	}{versions[len(versions)-1], versions, Network, plugins}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode conflist: %w", err)
	}
	return append(b, '\n'), nil
}

// Install writes the binary, and after it the conflist, where they are not what they
// should be. It makes folders that are missing and touches no other file. A reader,
// and a process that executes the binary, see the old or the new file, whole. A conflist
// with plugins that are not there would fail all pods: it is not written.
func Install(o InstallOptions) error {
	conflist, err := Conflist(o)
	if err != nil {
		return err
	}
	for _, dir := range []string{o.BinDir, o.ConfDir} {
		if err := makeDir(o.stateDir(), dir); err != nil {
			return fmt.Errorf("make folder for CNI: %w", err)
		}
	}
	for _, dir := range []string{o.BinDir, o.ConfDir, o.stateDir()} {
		if err := removeTemps(dir); err != nil {
			return fmt.Errorf("remove half-written files in %s: %w", dir, err)
		}
	}
	if err := installBinary(o); err != nil {
		return fmt.Errorf("install CNI plugin: %w (a folder that can be written is set with cni-bin-dir)", err)
	}
	if err := present(o.Chain, o.BinDir); err != nil {
		return err
	}
	if have, err := os.ReadFile(o.conflist()); err == nil && bytes.Equal(have, conflist) && hasMode(o.conflist(), 0o644) {
		return nil
	}
	if err := writeFile("conflist", o.conflist(), conflist, 0o644); err != nil {
		return fmt.Errorf("install CNI configuration: %w (a folder that can be written is set with cni-conf-dir)", err)
	}
	return nil
}

func installBinary(o InstallOptions) error {
	from, err := os.Open(o.Binary)
	if err != nil {
		return err
	}
	defer from.Close()
	same, err := sameContent(from, o.binary())
	if err != nil {
		return err
	}
	if same && hasMode(o.binary(), 0o755) {
		return nil
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return replaceFile("binary", o.binary(), from, 0o755)
}

// hasMode reports whether path is a plain file with exactly these permissions.
func hasMode(path string, mode os.FileMode) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode() == mode
}

// sameContent compares an open file with the one at path, which need not be there.
func sameContent(a *os.File, path string) (bool, error) {
	b, err := os.Open(path)
	if err != nil {
		return false, nil // whatever it is, it is replaced
	}
	defer b.Close()
	fa, err := a.Stat()
	if err != nil {
		return false, err
	}
	if fb, err := b.Stat(); err != nil || fa.Size() != fb.Size() {
		return false, nil
	}
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		switch {
		case !bytes.Equal(bufA[:n], bufB[:m]):
			return false, nil
		case errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF):
			return errB != nil, nil
		case errA != nil:
			return false, errA
		case errB != nil:
			return false, nil
		}
	}
}

// makeDir makes dir with its parents and notes, before each, that it is ours.
func makeDir(stateDir, dir string) error {
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || !errors.Is(err, os.ErrNotExist) || d == filepath.Dir(d) {
			break
		}
		missing = append(missing, d)
	}
	if len(missing) == 0 {
		return nil
	}
	made := madeDirs(stateDir)
	for _, d := range missing {
		if !contains(made, d) {
			made = append(made, d)
		}
	}
	b, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	if err := writeFile("list of folders", filepath.Join(stateDir, dirsFile), b, 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	crash.Point("plugin: make folder")
	return nil
}

// madeDirs returns the folders that Install made. An unreadable list is an empty
// one: then they stay.
func madeDirs(stateDir string) []string {
	var made []string
	if b, err := os.ReadFile(filepath.Join(stateDir, dirsFile)); err == nil {
		_ = json.Unmarshal(b, &made)
	}
	return made
}

// Uninstall removes, by their names, the conflist, the binary and what killed writers
// left, and the folders that Install made, where nothing else is in them. It succeeds
// when nothing is there. Only `weftd uninstall` calls it: a daemon that ends leaves
// the conflist, without which a runtime could not even delete pods.
func Uninstall(o InstallOptions) error {
	errs := []error{remove(o.conflist()), remove(o.binary()), removeTemps(o.ConfDir), removeTemps(o.BinDir), removeTemps(o.stateDir())}
	made := madeDirs(o.stateDir())
	// The deepest first.
	for again := true; again; {
		again = false
		for _, d := range made {
			if os.Remove(d) == nil {
				again = true
			}
		}
	}
	errs = append(errs, remove(filepath.Join(o.stateDir(), dirsFile)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove CNI plugin: %w", err)
	}
	return nil
}
