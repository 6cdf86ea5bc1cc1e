package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/crash"
)

const (
	procSys  = "/proc/sys"
	forward4 = "net/ipv4/ip_forward"
	forward6 = "net/ipv6/conf/all/forwarding"

	deviceForward4 = "net/ipv4/conf/" + DeviceName + "/forwarding"
)

// Sysctls is the target of kernel settings below /proc/sys, keyed by path
// ("net/ipv4/ip_forward"). Before it changes one it keeps the former value in a
// file, by which a restarted daemon knows what is ours, and which uninstall puts
// back. It is safe for concurrent use.
type Sysctls struct {
	path string

	mu    sync.Mutex
	saved map[string]saved // nil: the file was not read yet
	ra    []string         // keys to be set before IPv6 forwarding; see Wanted
}

// saved is what was before us.
type saved struct {
	Value string `json:"value"`
	// Also is what the kernel changes along with the key, and does not change
	// back with it.
	Also map[string]string `json:"also,omitempty"`
}

// NewSysctls keeps the former values in the file save; empty: in memory only.
func NewSysctls(save string) *Sysctls { return &Sysctls{path: save} }

// Wanted returns the settings that a node with these pod prefixes and uplinks needs: forwarding of
// its families, on the overlay device too; no IPv6 ban and no reverse path filter there, and no
// filter that is everywhere. Where an uplink listens to router advertisements it must go on doing
// so as a router (accept_ra 2), or it would lose its default route when forwarding begins
// (net/ipv6/addrconf.c addrconf_forward_change).
func (s *Sysctls) Wanted(podCIDRs []netip.Prefix, uplinks []Uplink) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return nil, err
	}
	rows := map[string]string{}
	if slices.ContainsFunc(podCIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		rows[forward4] = "1"
		rows[deviceForward4] = "1" // a new device has it from `default`, whatever the node's is
		rows["net/ipv4/conf/"+DeviceName+"/rp_filter"] = "0"
		s.wantNoPathFilter(rows, uplinks)
	}
	s.ra = nil
	if slices.ContainsFunc(podCIDRs, prefixIs6) {
		rows[forward6] = "1"
		rows["net/ipv6/conf/"+DeviceName+"/disable_ipv6"] = "0"
		for _, u := range uplinks {
			key := "net/ipv6/conf/" + u.Name + "/accept_ra"
			_, ours := s.saved[key]
			if now, err := read(key); ours || err == nil && now == "1" {
				rows[key] = "2"
				s.ra = append(s.ra, key)
			}
		}
	}
	for key := range rows { // of a device that is not there, or a family that is off
		if _, err := os.Stat(filepath.Join(procSys, key)); err != nil {
			delete(rows, key)
		}
	}
	return rows, nil
}

// filterAll is the reverse path filter of all devices: what holds for one is the stricter
// of this and its own (Documentation/networking/ip-sysctl.rst).
const filterAll = "net/ipv4/conf/all/rp_filter"

// wantNoPathFilter takes the filter off all devices, if it is on, and lets the uplinks keep
// it. An answer from a Service that the stack delivers comes from a pod's device with the
// Service's address, to which no route leads there; pods' sources are checked by from_pod.
func (s *Sysctls) wantNoPathFilter(rows map[string]string, uplinks []Uplink) {
	all := s.former(filterAll)
	if now, err := read(filterAll); err == nil && now != "0" || all != "" && all != "0" {
		rows[filterAll] = "0"
	}
	for _, u := range uplinks {
		if key := "net/ipv4/conf/" + u.Name + "/rp_filter"; s.former(key) < all {
			rows[key] = all
		}
	}
}

// former is a setting's value before us; empty if there is none.
func (s *Sysctls) former(key string) string {
	if was, ours := s.saved[key]; ours {
		return was.Value
	}
	now, err := read(key)
	if err != nil {
		return ""
	}
	return now
}

// Dump returns the present values of the settings that we have changed.
func (s *Sysctls) Dump() (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return nil, err
	}
	rows := map[string]string{}
	for key := range s.saved {
		v, err := read(key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		rows[key] = v
	}
	return rows, nil
}

// Set changes a setting, after its former value is safe on disk.
func (s *Sysctls) Set(key, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	if key == forward6 && value == "1" {
		for _, ra := range s.ra {
			if err := s.set(ra, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return s.set(key, value)
}

func (s *Sysctls) set(key, value string) error {
	now, err := read(key)
	if err != nil {
		return err
	}
	if _, ok := s.saved[key]; !ok {
		was := saved{Value: now}
		if now != value {
			was.Also = alongWith(key)
		}
		s.saved[key] = was
		if err := s.store(); err != nil {
			delete(s.saved, key)
			return err
		}
	}
	if now == value {
		return nil
	}
	return write(key, value)
}

// Delete gives a setting its former value back; nil if it is not ours, or if its
// device is gone.
func (s *Sysctls) Delete(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	was, ok := s.saved[key]
	if !ok {
		return nil
	}
	if err := putBack(key, was.Value); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(was.Also)) {
		if err := putBack(k, was.Also[k]); err != nil {
			return err
		}
	}
	delete(s.saved, key)
	return s.store()
}

// Restore gives all settings their former values back and removes the file, for
// uninstall. Forwarding ends first; with the node's the kernel ends that of our device, whose
// value before us may be what the node's has made of it.
func (s *Sysctls) Restore() error {
	rows, err := s.Dump()
	if err != nil {
		return err
	}
	errs := []error{s.Delete(deviceForward4), s.Delete(forward4), s.Delete(forward6)}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		errs = append(errs, s.Delete(key))
	}
	if err := errors.Join(errs...); err != nil || s.path == "" {
		return err
	}
	for _, p := range []string{s.path, s.path + ".tmp"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove saved sysctls: %w", err)
		}
	}
	crash.Point("sysctl-file")
	return nil
}

// alongWith returns the settings that the kernel changes with a key, with their
// values: the forwarding of each device, and for IPv4 whether redirects are
// accepted (net/ipv4/devinet.c inet_forward_change, addrconf_forward_change).
func alongWith(key string) map[string]string {
	var globs []string
	switch key {
	case forward4:
		globs = []string{"net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects"}
	case forward6:
		globs = []string{"net/ipv6/conf/*/forwarding"}
	}
	out := map[string]string{}
	for _, g := range globs {
		paths, _ := filepath.Glob(filepath.Join(procSys, g)) // the only error is a bad pattern
		for _, p := range paths {
			k := strings.TrimPrefix(p, procSys+"/")
			if strings.HasSuffix(k, "/all/forwarding") || strings.Contains(k, "/weft") {
				continue
			}
			if v, err := read(k); err == nil {
				out[k] = v
			}
		}
	}
	return out
}

func read(key string) (string, error) {
	b, err := readSmall(filepath.Join(procSys, key))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// readSmall reads a file of the kernel that is short. It takes three system calls;
// [os.ReadFile] would have the runtime's poller watch the file, too, which is as many more.
func readSmall(path string) ([]byte, error) {
	fd, err := again(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 512)
	n, err := again(func() (int, error) { return unix.Read(fd, b) })
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return b[:n], nil
}

// again repeats a system call that a signal interrupts; the runtime sends some.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func write(key, value string) error {
	if err := os.WriteFile(filepath.Join(procSys, key), []byte(value), 0o644); err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	crash.Point("sysctl")
	return nil
}

// putBack writes only what differs; nil if the setting is gone.
func putBack(key, value string) error {
	now, err := read(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || now == value {
		return err
	}
	return write(key, value)
}

// load reads the file once. One that cannot be understood is moved aside: what
// it knew is lost, and must not keep the node from starting.
func (s *Sysctls) load() error {
	if s.saved != nil {
		return nil
	}
	all := map[string]saved{}
	b, err := os.ReadFile(s.path)
	switch {
	case s.path == "" || errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read saved sysctls: %w", err)
	case json.Unmarshal(b, &all) != nil:
		all = map[string]saved{}
		if err := os.Rename(s.path, s.path+".corrupt"); err != nil {
			return fmt.Errorf("move aside saved sysctls: %w", err)
		}
	}
	s.saved = all
	if s.saved == nil { // the file said null
		s.saved = map[string]saved{}
	}
	return nil
}

// store writes the file: a temporary one, fsync, rename, fsync of the folder.
func (s *Sysctls) store() error {
	if s.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(s.saved, "", "\t")
	if err != nil {
		return fmt.Errorf("encode sysctls: %w", err)
	}
	if err := writeFile(s.path, append(b, '\n')); err != nil {
		return fmt.Errorf("save sysctls: %w", err)
	}
	crash.Point("sysctl-file")
	return nil
}

// writeFile replaces a file so that a crash leaves the old or the new content.
// There is one writer: a temporary file that a crash left is overwritten.
func writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
