package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"unsafe"

	"github.com/weftnet/weft/internal/crash"
	"golang.org/x/sys/unix"
)

// Offload is the target of the devices whose transmit checksum offload we have
// turned off, keyed by name; the value is whether it is on, and so false in every
// wanted row. What we turned off is remembered in a file before, and turned on
// again by Delete. A device that had it off from the start is never in the file.
type Offload struct {
	mu   sync.Mutex
	save string
}

// NewOffload remembers in the file save.
func NewOffload(save string) *Offload { return &Offload{save: save} }

// Dump returns the remembered devices, as they are now. Those that are gone are
// left out.
func (o *Offload) Dump() (map[string]bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	saved, err := o.load()
	if err != nil {
		return nil, err
	}
	rows := map[string]bool{}
	for link := range saved {
		on, err := TxChecksum(link)
		if isErr(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		rows[link] = on
	}
	return rows, nil
}

// Set turns the offload of a device on or off. [unix.EOPNOTSUPP] is in the error
// if the device's driver has no such switch.
func (o *Offload) Set(link string, on bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	is, err := TxChecksum(link)
	if err != nil || is == on {
		return err
	}
	if !on {
		if err := o.remember(link, true); err != nil {
			return err
		}
	}
	if err := setTxChecksum(link, on); err != nil {
		if !on {
			err = errors.Join(err, o.remember(link, false))
		}
		return err
	}
	return nil
}

// Delete turns the offload on again if it was us who turned it off.
func (o *Offload) Delete(link string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	saved, err := o.load()
	if err != nil || !saved[link] {
		return err
	}
	if err := setTxChecksum(link, true); err != nil && !isErr(err, unix.ENODEV) {
		return err
	}
	return o.remember(link, false)
}

// Restore turns on again whatever was turned off, for uninstall.
func (o *Offload) Restore() error {
	o.mu.Lock()
	saved, err := o.load()
	o.mu.Unlock()
	errs := []error{err}
	for link := range saved {
		errs = append(errs, o.Delete(link))
	}
	return errors.Join(errs...)
}

// load returns the devices whose offload was on before we came.
func (o *Offload) load() (map[string]bool, error) {
	b, err := os.ReadFile(o.save)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]bool{}, nil
	}
	saved := map[string]bool{}
	if err == nil {
		err = json.Unmarshal(b, &saved)
	}
	if err != nil {
		return nil, fmt.Errorf("read what offload was turned off: %w", err)
	}
	return saved, nil
}

// remember adds a device to the file, or takes it out; an empty file goes.
func (o *Offload) remember(link string, off bool) error {
	saved, err := o.load()
	if err != nil {
		return err
	}
	maps.DeleteFunc(saved, func(k string, _ bool) bool { return k == link })
	if off {
		saved[link] = true
	}
	if len(saved) == 0 {
		if err := os.Remove(o.save); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget offload of %s: %w", link, err)
		}
		crash.Point("offload file")
		return nil
	}
	b, err := json.Marshal(saved)
	if err == nil {
		err = writeFile(o.save, b)
	}
	if err != nil {
		return fmt.Errorf("remember offload of %s: %w", link, err)
	}
	crash.Point("offload file")
	return nil
}

// ethtoolValue is struct ethtool_value, and ifreq struct ifreq with a pointer to
// it (include/uapi/linux/ethtool.h, net/if.h).
type ethtoolValue struct{ cmd, data uint32 }

type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// TxChecksum says whether a device completes checksums on transmission. The error
// is [unix.ENODEV] if there is no such device.
func TxChecksum(link string) (bool, error) {
	v := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	if err := ethtool(link, &v); err != nil {
		return false, fmt.Errorf("ask for checksum offload of %s: %w", link, err)
	}
	return v.data != 0, nil
}

func setTxChecksum(link string, on bool) error {
	v := ethtoolValue{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		v.data = 1
	}
	if err := ethtool(link, &v); err != nil {
		return fmt.Errorf("set checksum offload of %s: %w", link, err)
	}
	crash.Point("offload")
	return nil
}

// ethtool works in the network namespace of the calling thread.
func ethtool(link string, v *ethtoolValue) error {
	if len(link) >= unix.IFNAMSIZ {
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
	req := ifreq{data: unsafe.Pointer(v)}
	copy(req.name[:], link)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
