package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/internal/crash"
)

// tempPrefix starts the names of files that are being written. The name ends neither
// in .conf nor .conflist nor .json, so that no runtime reads one.
const tempPrefix = ".weft-tmp-"

// writeFile replaces a file in one step that survives a power failure: no reader
// ever sees half of it. The temporary file is in the same folder, for two reasons
// besides rename(2)'s own: containerd reloads its configuration on events of a write,
// and a rename from another folder is none; and a binary that is being executed
// cannot be written to (ETXTBSY), only be replaced.
func writeFile(what, path string, content []byte, mode os.FileMode) error {
	return replaceFile(what, path, bytes.NewReader(content), mode)
}

func replaceFile(what, path string, content io.Reader, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	crash.Point("plugin: create " + what)
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, content)
	crash.Point("plugin: write " + what)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	crash.Point("plugin: rename " + what)
	return syncDir(dir)
}

// syncDir makes the names in a folder survive a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// remove deletes a file if it is there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeTemps deletes what killed writers left in a folder.
func removeTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			errs = append(errs, remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
