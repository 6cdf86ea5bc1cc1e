package overlay

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/crash"
)

// Group is a multicast MAC whose frames a device takes in.
type Group struct {
	Link string  `json:"link"`
	MAC  [6]byte `json:"mac"`
}

// Groups are the multicast MACs that devices take in because we said so. They stay when the
// daemon ends, other than what a socket joins. What we added is remembered in a file before,
// so that it can be taken back. It is not safe for concurrent use.
type Groups struct{ save string }

// NewGroups remembers in the file save.
func NewGroups(save string) *Groups { return &Groups{save: save} }

// Keep makes the devices take in exactly these of ours. A device that is gone is no error.
func (g *Groups) Keep(want []Group) error {
	had, err := g.load()
	if err != nil {
		return err
	}
	if err := g.store(slices.Concat(had, want)); err != nil {
		return err
	}
	var errs []error
	kept := slices.Clone(want)
	for _, x := range want {
		if err := changeGroup(x, unix.SIOCADDMULTI); err != nil && !isErr(err, unix.EEXIST, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("let %s take in %x: %w", x.Link, x.MAC, err))
		}
	}
	for _, x := range had {
		if slices.Contains(want, x) {
			continue
		}
		if err := changeGroup(x, unix.SIOCDELMULTI); err != nil && !isErr(err, unix.ENOENT, unix.EADDRNOTAVAIL, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("let %s no more take in %x: %w", x.Link, x.MAC, err))
			kept = append(kept, x)
		}
	}
	return errors.Join(append(errs, g.store(kept))...)
}

func (g *Groups) load() ([]Group, error) {
	b, err := os.ReadFile(g.save)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var had []Group
	if err == nil {
		err = json.Unmarshal(b, &had)
	}
	if err != nil {
		return nil, fmt.Errorf("read which groups devices take in: %w", err)
	}
	return had, nil
}

// store replaces the file if it says something else; an empty one goes. It is not synced to
// the disk: a machine that crashes forgets the groups, too.
func (g *Groups) store(list []Group) error {
	slices.SortFunc(list, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	list = slices.Compact(list)
	had, err := g.load()
	if err != nil || slices.Equal(list, had) {
		return err
	}
	if len(list) == 0 {
		err = os.Remove(g.save)
	} else {
		var b []byte
		if b, err = json.Marshal(list); err == nil {
			err = errors.Join(os.WriteFile(g.save+".tmp", b, 0o600), os.Rename(g.save+".tmp", g.save))
		}
	}
	if err != nil {
		return fmt.Errorf("remember which groups devices take in: %w", err)
	}
	crash.Point("groups file")
	return nil
}

// hwreq is struct ifreq with a hardware address (include/uapi/linux/if.h).
type hwreq struct {
	name   [unix.IFNAMSIZ]byte
	family uint16
	addr   [14]byte
	_      [8]byte
}

// changeGroup works in the network namespace of the calling thread.
func changeGroup(g Group, what uintptr) error {
	if len(g.Link) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if isErr(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var req hwreq
	copy(req.name[:], g.Link)
	copy(req.addr[:], g.MAC[:])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), what, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	crash.Point("group")
	return nil
}
