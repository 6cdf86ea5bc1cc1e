package build

import (
	"fmt"
	"strings"

	"golang.org/x/mod/modfile"
)

// scratchModule is the go.mod of a module that requires only module@version and builds
// its commands as upstream does: with upstream's language version and godebug settings,
// and with its replacements, which Go applies for the main module alone.
//
// Kubernetes' staging modules are named there as v0.0.0 and taken from the folder
// beside; they are published as v0.<minor>.<patch>.
func scratchModule(module, version string, upstream []byte) ([]byte, error) {
	up, err := modfile.Parse("go.mod", upstream, nil)
	if err != nil {
		return nil, fmt.Errorf("parse go.mod of %s: %w", module, err)
	}
	var m modfile.File
	if err := m.AddModuleStmt("scratch"); err != nil {
		return nil, fmt.Errorf("write go.mod: %w", err)
	}
	if up.Go != nil {
		if err := m.AddGoStmt(up.Go.Version); err != nil {
			return nil, fmt.Errorf("write go.mod: %w", err)
		}
	}
	for _, g := range up.Godebug {
		if err := m.AddGodebug(g.Key, g.Value); err != nil {
			return nil, fmt.Errorf("write go.mod: %w", err)
		}
	}
	m.AddNewRequire(module, version, false)
	staged := strings.Replace(version, "v1.", "v0.", 1)
	for _, r := range up.Require {
		if r.Mod.Version != "v0.0.0" {
			continue
		}
		if err := m.AddReplace(r.Mod.Path, "", r.Mod.Path, staged); err != nil {
			return nil, fmt.Errorf("write go.mod: %w", err)
		}
	}
	for _, r := range up.Replace {
		if modfile.IsDirectoryPath(r.New.Path) {
			continue // a staging module, or another folder of upstream's repository
		}
		if err := m.AddReplace(r.Old.Path, r.Old.Version, r.New.Path, r.New.Version); err != nil {
			return nil, fmt.Errorf("write go.mod: %w", err)
		}
	}
	m.Cleanup()
	return modfile.Format(m.Syntax), nil
}
