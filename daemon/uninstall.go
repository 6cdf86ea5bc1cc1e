package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
	"github.com/weftnet/weft/plugin"
)

// Uninstall removes everything of ours from this node, with its pods' interfaces, and
// gives sysctls and offload back what they were. It needs no daemon, and refuses while
// one runs unless force. It goes on past what fails, and may be repeated.
func Uninstall(ctx context.Context, cfg Config, force bool) error {
	if os.Geteuid() != 0 {
		return errors.New("weftd uninstall must run as root (try sudo)")
	}
	lock, err := acquire(cfg.StateDir)
	if err == nil {
		defer lock.release()
	} else if !force || !errors.Is(err, errRunning) {
		return err
	}

	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	o, err := installOptions(cfg)
	step("find what was installed", err)
	step("remove CNI binary and configuration", plugin.Uninstall(o))
	step("detach programs and remove their pins", bpf.Remove(cfg.BPFDir))
	step("remove pods' interfaces", endpoint.Uninstall(ctx))
	step("remove routes", removeRoutes())
	step("remove "+overlay.DeviceName, removeDevice())
	step("remove chains", overlay.NewChains().Remove())
	step("restore checksum offload", overlay.NewOffload(filepath.Join(cfg.StateDir, offloadFile)).Restore())
	step("take back groups", overlay.NewGroups(filepath.Join(cfg.StateDir, groupsFile)).Keep(nil))
	step("restore sysctls", overlay.NewSysctls(filepath.Join(cfg.StateDir, sysctlFile)).Restore())
	step("remove status files", removeStatus(cfg))
	if len(errs) == 0 { // else what is left needs its memory
		step("remove state", removeState(cfg))
	}
	return errors.Join(errs...)
}

func removeRoutes() error {
	routes := overlay.NewRoutes()
	defer routes.Close()
	rows, err := routes.Dump()
	if err != nil {
		return err
	}
	var errs []error
	for k := range rows {
		errs = append(errs, routes.Delete(k))
	}
	return errors.Join(errs...)
}

func removeDevice() error {
	device := overlay.NewDevice(overlay.DeviceName)
	rows, err := device.Dump()
	if err != nil {
		return err
	}
	for name := range rows {
		if err := device.Delete(name); err != nil {
			return err
		}
	}
	return nil
}

// removeStatus removes what we wrote into the source's folder.
func removeStatus(cfg Config) error {
	kind, dir, err := cfg.source()
	if err != nil || kind != sourceDir {
		return err // annotations go with their Pods
	}
	status := filepath.Join(dir, "status")
	if err := os.RemoveAll(filepath.Join(status, cfg.NodeName)); err != nil {
		return err
	}
	return removeEmpty(status)
}

// removeState removes our files and folders from the state folder, then it and the
// socket's, unless somebody else keeps something there.
func removeState(cfg Config) error {
	var errs []error
	for _, name := range []string{
		api.AttachmentDir, api.TombstoneDir, "released", "corrupt", "answered",
		sysctlFile, sysctlFile + ".tmp", sysctlFile + ".corrupt",
		offloadFile, offloadFile + ".tmp", offloadFile + ".corrupt",
		groupsFile, groupsFile + ".tmp",
		nodeFile, nodeFile + ".tmp", nodesFile, nodesFile + ".tmp", policiesFile, policiesFile + ".tmp", serversFile, serversFile + ".tmp", lockFile,
	} {
		errs = append(errs, os.RemoveAll(filepath.Join(cfg.StateDir, name)))
	}
	for _, path := range []string{cfg.Socket, cfg.Socket + ".new"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, removeEmpty(cfg.StateDir), removeEmpty(filepath.Dir(cfg.Socket)))
	return errors.Join(errs...)
}

// removeEmpty removes a folder if nothing is in it, and nothing is mounted on it: in a
// container, whose own files are read-only, the node's folders are mounts.
func removeEmpty(dir string) error {
	err := os.Remove(dir)
	for _, fine := range []error{fs.ErrNotExist, syscall.ENOTEMPTY, syscall.EBUSY, syscall.EROFS} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}
