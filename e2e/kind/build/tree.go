package build

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// writeTree writes the files below root as a tar: in the order of their names, with their
// owners, modes, hard links and file capabilities, all of one time.
func writeTree(w io.Writer, root string) error {
	out := tar.NewWriter(w)
	first := map[[2]uint64]string{} // device and inode → the name it was written under
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return writeEntry(out, path, name, info, first)
	})
	if err != nil {
		return fmt.Errorf("write tar of %s: %w", root, err)
	}
	return out.Close()
}

func writeEntry(out *tar.Writer, path, name string, info fs.FileInfo, first map[[2]uint64]string) error {
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // tar has none
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	h.ModTime, h.AccessTime, h.ChangeTime = epoch, time.Time{}, time.Time{}
	if info.IsDir() {
		h.Name += "/"
	}
	stat := info.Sys().(*syscall.Stat_t)
	if id := [2]uint64{uint64(stat.Dev), stat.Ino}; info.Mode().IsRegular() && stat.Nlink > 1 {
		if to, ok := first[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
			return out.WriteHeader(h)
		}
		first[id] = name
	}
	if !info.Mode().IsRegular() {
		return out.WriteHeader(h)
	}
	if err := addCapabilities(h, path); err != nil {
		return err
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return errors.Join(err, f.Close())
}

// addCapabilities copies the file capabilities (ping has some) in the form that image
// layers have them in.
func addCapabilities(h *tar.Header, path string) error {
	const name = "security.capability"
	b := make([]byte, 64)
	n, err := unix.Lgetxattr(path, name, b)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read capabilities of %s: %w", path, err)
	}
	h.PAXRecords = map[string]string{"SCHILY.xattr." + name: string(b[:n])}
	return nil
}

// entry is a file of a tree that is put together by hand.
type entry struct {
	path string      // below the tree's root
	from string      // a file to copy
	link string      // or a symbolic link to this
	text string      // or this content
	mode fs.FileMode // 0 is 0755 for a folder, 0644 for text, the source's for a copy
}

// assemble makes entries below root. One that has only a path is a folder.
func assemble(root string, entries ...entry) error {
	for _, e := range entries {
		at := filepath.Join(root, e.path)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		switch {
		case err != nil:
		case e.from != "":
			err = copyFile(at, e.from, e.mode)
		case e.link != "":
			err = os.Symlink(e.link, at)
		case e.text != "":
			err = os.WriteFile(at, []byte(e.text), cmp.Or(e.mode, 0o644))
		default:
			if err = os.MkdirAll(at, 0o755); err == nil {
				err = os.Chmod(at, cmp.Or(e.mode, 0o755))
			}
		}
		if err != nil {
			return fmt.Errorf("assemble %s: %w", e.path, err)
		}
	}
	return nil
}

// copyFile makes a hard link if it may, which costs nothing, else a copy.
func copyFile(to, from string, mode fs.FileMode) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if mode == 0 {
		mode = info.Mode().Perm()
	}
	if mode == info.Mode().Perm() && os.Link(from, to) == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, mode)
}
