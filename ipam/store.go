package ipam

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	suffix     = ".json"
	tempSuffix = ".tmp"
)

// released is the content of a file in released/: addresses and when they were
// given back. A file may outlive its reuse delay; its time says so.
type released struct {
	Addrs []netip.Addr `json:"addrs"`
	At    time.Time    `json:"at"`
}

// store is the folder of leases and released addresses.
type store struct {
	fs  FS
	dir string
}

// leaseName is the file name of an owner's lease: what a runtime may put in a
// container ID is more than what a file name may hold.
func leaseName(o Owner) string {
	sum := sha1.Sum([]byte(o.String()))
	return hex.EncodeToString(sum[:]) + suffix
}

// Path is the file of an owner's lease, whether it has one or not.
func (m *Manager) Path(o Owner) string {
	return filepath.Join(m.store.dir, attachmentsDir, leaseName(o))
}

// releasedName is the file name of released addresses, so that the same addresses
// always overwrite their last note.
func releasedName(addrs []netip.Addr) string {
	names := make([]string, 0, len(addrs))
	for _, a := range addrs {
		names = append(names, a.String())
	}
	return strings.Join(names, "_") + suffix
}

// write makes dir/name hold the JSON of v, durably and atomically.
func (s store) write(dir, name string, v any) error {
	if err := s.stage(dir, name, v); err != nil {
		return err
	}
	return s.place(dir, name)
}

// stage is the first half of write: dir/name is as it was.
func (s store) stage(dir, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	temp := s.temp(dir, name)
	if err := s.fs.WriteFile(temp, data); err != nil {
		return errors.Join(err, s.fs.Remove(temp))
	}
	return nil
}

// place is the second half of write. If it fails, dir/name may be either.
func (s store) place(dir, name string) error {
	temp := s.temp(dir, name)
	dir = filepath.Join(s.dir, dir)
	if err := s.fs.Rename(temp, filepath.Join(dir, name)); err != nil {
		return errors.Join(err, s.fs.Remove(temp))
	}
	return s.fs.SyncDir(dir)
}

func (s store) temp(dir, name string) string {
	return filepath.Join(s.dir, dir, "."+name+tempSuffix)
}

// remove takes dir/name away, durably.
func (s store) remove(dir, name string) error {
	dir = filepath.Join(s.dir, dir)
	if err := s.fs.Remove(filepath.Join(dir, name)); err != nil {
		return err
	}
	return s.fs.SyncDir(dir)
}

// decodeLease reads the content of the lease file name.
func decodeLease(name string, data []byte) (Lease, error) {
	var l Lease
	if err := json.Unmarshal(data, &l); err != nil {
		return Lease{}, fmt.Errorf("decode lease: %w", err)
	}
	if l.ContainerID == "" || l.IfName == "" {
		return Lease{}, errors.New("decode lease: no owner")
	}
	if want := leaseName(l.Owner); name != want {
		return Lease{}, fmt.Errorf("decode lease: file name is not %s, that of %s", want, l.Owner)
	}
	return l, checkAddrs(l.Addrs)
}

func decodeReleased(name string, data []byte) (released, error) {
	var r released
	if err := json.Unmarshal(data, &r); err != nil {
		return released{}, fmt.Errorf("decode released: %w", err)
	}
	if err := checkAddrs(r.Addrs); err != nil {
		return released{}, err
	}
	if want := releasedName(r.Addrs); name != want {
		return released{}, fmt.Errorf("decode released: file name is not %s", want)
	}
	return r, nil
}

// checkAddrs wants one or two addresses, of different families, without zones.
func checkAddrs(addrs []netip.Addr) error {
	if len(addrs) < 1 || len(addrs) > 2 {
		return fmt.Errorf("decode addresses: %d instead of 1 or 2", len(addrs))
	}
	for _, a := range addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("decode addresses: %q is not usable", a)
		}
	}
	if len(addrs) == 2 && addrs[0].Is4() == addrs[1].Is4() {
		return fmt.Errorf("decode addresses: %s and %s are of one family", addrs[0], addrs[1])
	}
	return nil
}

// loaded is what a start finds.
type loaded struct {
	leases   []Lease    // by time, oldest first; no address twice
	released []released // by time, oldest first
	corrupt  []Corrupt
}

// load reads everything. Temporary files are removed; what cannot be read is moved
// aside. Only a folder that cannot be made or listed is an error.
func (s store) load() (loaded, error) {
	var out loaded
	for _, d := range []string{attachmentsDir, releasedDir, corruptDir} {
		if err := s.fs.MkdirAll(filepath.Join(s.dir, d)); err != nil {
			return out, fmt.Errorf("make folder %s: %w", d, err)
		}
	}
	// What an earlier process wrote and did not live to sync is what we go by now.
	for _, d := range []string{"", attachmentsDir, releasedDir, corruptDir} {
		if err := s.fs.SyncDir(filepath.Join(s.dir, d)); err != nil {
			return out, fmt.Errorf("sync folder %s: %w", d, err)
		}
	}
	old, err := s.fs.List(filepath.Join(s.dir, corruptDir))
	if err != nil {
		return out, fmt.Errorf("list folder: %w", err)
	}
	for _, name := range old {
		out.corrupt = append(out.corrupt, Corrupt{Path: filepath.Join(s.dir, corruptDir, name), Err: "moved aside at an earlier start"})
	}
	err = s.each(attachmentsDir, &out, func(name string, data []byte) error {
		l, err := decodeLease(name, data)
		if err == nil {
			out.leases = append(out.leases, l)
		}
		return err
	})
	if err != nil {
		return out, err
	}
	slices.SortStableFunc(out.leases, func(a, b Lease) int { return a.At.Compare(b.At) })
	out.leases = s.unique(out.leases, &out)
	err = s.each(releasedDir, &out, func(name string, data []byte) error {
		r, err := decodeReleased(name, data)
		if err == nil {
			out.released = append(out.released, r)
		}
		return err
	})
	slices.SortStableFunc(out.released, func(a, b released) int { return a.At.Compare(b.At) })
	return out, err
}

// each reads every file of a folder, and moves aside what use refuses.
func (s store) each(dir string, out *loaded, use func(name string, data []byte) error) error {
	names, err := s.fs.List(filepath.Join(s.dir, dir))
	if err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	for _, name := range names {
		path := filepath.Join(s.dir, dir, name)
		if strings.HasPrefix(name, ".") && strings.HasSuffix(name, tempSuffix) {
			if err := s.fs.Remove(path); err != nil {
				out.corrupt = append(out.corrupt, Corrupt{Path: path, Err: err.Error()})
			}
			continue
		}
		data, err := s.fs.ReadFile(path)
		if err == nil {
			err = use(name, data)
		}
		if err != nil {
			out.corrupt = append(out.corrupt, s.aside(dir, name, err))
		}
	}
	return nil
}

// unique keeps the oldest lease of each address. Our own writes never make two; a
// copied folder may.
func (s store) unique(leases []Lease, out *loaded) []Lease {
	holder := map[netip.Addr]Owner{}
	return slices.DeleteFunc(leases, func(l Lease) bool {
		for _, a := range l.Addrs {
			if other, dup := holder[a]; dup {
				err := fmt.Errorf("%s holds %s already: %w", other, a, ErrTaken)
				out.corrupt = append(out.corrupt, s.aside(attachmentsDir, leaseName(l.Owner), err))
				return true
			}
		}
		for _, a := range l.Addrs {
			holder[a] = l.Owner
		}
		return false
	})
}

// aside moves a file to corrupt/, under a name that is free. A file that cannot be
// moved stays where it is; it is reported all the same.
func (s store) aside(dir, name string, cause error) Corrupt {
	from, c := filepath.Join(s.dir, dir, name), Corrupt{Err: cause.Error()}
	names, err := s.fs.List(filepath.Join(s.dir, corruptDir))
	to := dir + "-" + name
	for n := 1; slices.Contains(names, to); n++ {
		to = fmt.Sprintf("%s-%d-%s", dir, n, name)
	}
	c.Path = filepath.Join(s.dir, corruptDir, to)
	if err == nil {
		err = s.fs.Rename(from, c.Path)
	}
	if err != nil {
		return Corrupt{Path: from, Err: errors.Join(cause, fmt.Errorf("move aside: %w", err)).Error()}
	}
	// The new name first: a crash may leave the file under both, never under none.
	err = errors.Join(s.fs.SyncDir(filepath.Join(s.dir, corruptDir)), s.fs.SyncDir(filepath.Join(s.dir, dir)))
	if err != nil {
		c.Err = errors.Join(cause, err).Error()
	}
	return c
}
