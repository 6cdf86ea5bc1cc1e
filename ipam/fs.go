package ipam

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/weftnet/weft/internal/crash"
)

// maxFile bounds what is read of one file; ours have a few hundred bytes.
const maxFile = 1 << 20

// FS is what the store needs of a file system. A rename or removal is durable only
// after SyncDir of its folder, as POSIX has it.
type FS interface {
	MkdirAll(dir string) error
	// List gives the names in dir, sorted.
	List(dir string) ([]string, error)
	ReadFile(path string) ([]byte, error)
	// WriteFile creates or replaces path and makes its content durable.
	WriteFile(path string, data []byte) error
	Rename(from, to string) error
	// Remove is no error when path is absent.
	Remove(path string) error
	SyncDir(dir string) error
}

// osFS is the real file system; it may be killed after every write.
type osFS struct{}

func (osFS) MkdirAll(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	crash.Point("ipam: mkdir")
	return err
}

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (osFS) ReadFile(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, err
}

func (osFS) WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	crash.Point("ipam: create")
	_, err = f.Write(data)
	crash.Point("ipam: write")
	if err == nil {
		err = f.Sync()
		crash.Point("ipam: fsync")
	}
	return errors.Join(err, f.Close())
}

func (osFS) Rename(from, to string) error {
	err := os.Rename(from, to)
	crash.Point("ipam: rename")
	return err
}

func (osFS) Remove(path string) error {
	err := os.Remove(path)
	crash.Point("ipam: remove")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	crash.Point("ipam: fsync folder")
	return errors.Join(err, d.Close())
}
