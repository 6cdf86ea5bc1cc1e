package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runtimeMain stands between the engine and runc.
//
// On a machine without CAP_SYS_RESOURCE (a container, a small VM) it takes from what the
// engine asks for what cannot be granted: that capability, raised limits, a negative OOM
// score. Where cgroup version 1 is in use, a container would have the machine's own root
// of version 2: it puts each container into a version 2 cgroup of its own, so that kind's
// nodes have a root each, as they have on a machine with version 2 alone. Programs that
// one node attaches to its root then do not see another node's sockets.
//
// Debian's engine knows no capability younger than Linux 5.8: privileged containers get
// those, too, as a newer engine would give them.
func runtimeMain(args []string) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("find runc: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the engine's files: %w", err)
	}
	dir := filepath.Dir(filepath.Dir(self)) // of bin/
	verb, file := request(args)
	if verb != "" {
		err := rewrite(file, func(spec map[string]any) {
			grantYoung(spec, holds)
			if !holds(unix.CAP_SYS_RESOURCE) {
				restrict(spec)
			}
		})
		if err != nil {
			return err
		}
		if err := enterCgroup(cgroupName(dir), args[len(args)-1]); err != nil {
			return err
		}
	}
	return syscall.Exec(runc, append([]string{runc}, args...), os.Environ())
}

// request is what runc shall do, if it makes a process, and the file that describes it: a
// container's config.json for create and run, a process for exec. See runc(8).
func request(args []string) (verb, file string) {
	option := func(names ...string) string {
		for i, a := range args {
			for _, name := range names {
				if v, ok := strings.CutPrefix(a, name+"="); ok {
					return v
				}
				if a == name && i+1 < len(args) {
					return args[i+1]
				}
			}
		}
		return ""
	}
	switch {
	case slices.Contains(args, "create"), slices.Contains(args, "run"):
		return "create", filepath.Join(option("--bundle", "-b"), "config.json")
	case slices.Contains(args, "exec"):
		return "exec", option("--process", "-p")
	}
	return "", ""
}

// holds says whether the machine grants a capability.
func holds(capability int) bool {
	set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0)
	return err != nil || set == 1
}

// rewrite replaces a JSON file's content.
func rewrite(file string, change func(map[string]any)) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the container's description: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("read the container's description %s: %w", file, err)
	}
	change(spec)
	if b, err = json.Marshal(spec); err != nil {
		return fmt.Errorf("write the container's description: %w", err)
	}
	return os.WriteFile(file, b, 0o600)
}

// young are the capabilities that came with Linux 5.8 and 5.9.
var young = map[string]int{
	"CAP_PERFMON": unix.CAP_PERFMON, "CAP_BPF": unix.CAP_BPF, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
}

// processOf is the process of a container's description, or the process itself (OCI
// runtime-spec, config.md, "process").
func processOf(spec map[string]any) map[string]any {
	if process, ok := spec["process"].(map[string]any); ok {
		return process
	}
	return spec
}

// grantYoung gives to whoever has CAP_SYS_ADMIN, which includes them to the kernel, those of
// the young capabilities that the machine holds.
func grantYoung(spec map[string]any, holds func(int) bool) {
	sets, _ := processOf(spec)["capabilities"].(map[string]any)
	for name, set := range sets {
		caps, ok := set.([]any)
		if !ok || !slices.Contains(caps, any("CAP_SYS_ADMIN")) {
			continue
		}
		for _, c := range slices.Sorted(maps.Keys(young)) {
			if holds(young[c]) && !slices.Contains(caps, any(c)) {
				caps = append(caps, c)
			}
		}
		sets[name] = caps
	}
}

// restrict takes CAP_SYS_RESOURCE and what needs it from a process.
func restrict(spec map[string]any) {
	process := processOf(spec)
	delete(process, "rlimits")
	if score, ok := process["oomScoreAdj"].(float64); ok && score < 0 {
		process["oomScoreAdj"] = 0
	}
	sets, _ := process["capabilities"].(map[string]any)
	for name, set := range sets {
		if caps, ok := set.([]any); ok {
			sets[name] = slices.DeleteFunc(caps, func(c any) bool { return c == "CAP_SYS_RESOURCE" })
		}
	}
}

// enterCgroup moves this process, from which runc forks the container's, into the
// container's cgroup of version 2 below parent, if version 1 is the one in use.
func enterCgroup(parent, container string) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.kind != "cgroup2" || m.path == "/sys/fs/cgroup" {
			continue
		}
		dir := filepath.Join(m.path, parent, container)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the container's cgroup: %w", err)
		}
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("enter the container's cgroup: %w", err)
		}
	}
	return nil
}
