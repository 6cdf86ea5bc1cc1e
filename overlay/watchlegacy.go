package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/pace"
)

// legacyWatch looks for changes of the legacy tables nat and filter, and for the
// coming and going of mangle (the kubelet's mark is there): the kernel reports
// none of this. It asks only for tables that are in use; asking for another
// would make the kernel register it.
type legacyWatch struct {
	families []*legacyFamily
	seed     maphash.Seed
}

// legacyFamily has a socket, which stays in its network namespace.
type legacyFamily struct {
	v6    bool
	fd    int
	names *os.File // the list of tables; nil while the kernel has none
	last  map[string]uint64
}

// legacyEvery is how often we look, legacyRest how often while there are no tables at all, in
// which nothing of ours can be hurt.
const (
	legacyEvery = pace.Often
	legacyRest  = pace.Usual
)

// legacyWhole is the size of a table up to which all rules are compared. Of a
// larger one only its shape is: number and size of rules, start of each hook.
const legacyWhole = 1 << 20

func newLegacyWatch() (*legacyWatch, error) {
	w := &legacyWatch{seed: maphash.MakeSeed()}
	for _, v6 := range []bool{false, true} {
		family := unix.AF_INET
		if v6 {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if isErr(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			w.close()
			return nil, fmt.Errorf("open raw socket: %w", err)
		}
		f := &legacyFamily{v6: v6, fd: fd, last: map[string]uint64{}}
		w.families = append(w.families, f)
		if _, err := f.changed(w.seed); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *legacyWatch) close() {
	for _, f := range w.families {
		unix.Close(f.fd)
		if f.names != nil {
			f.names.Close()
		}
	}
}

// rest is how long there may be between two looks.
func (w *legacyWatch) rest() time.Duration {
	for _, f := range w.families {
		if len(f.last) > 0 {
			return legacyEvery
		}
	}
	return legacyRest
}

func (w *legacyWatch) run(ctx context.Context, box *mailbox, log *slog.Logger) {
	defer w.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace.Next(w.rest())):
		}
		for _, f := range w.families {
			changed, err := f.changed(w.seed)
			if err != nil {
				log.Debug("cannot look at the legacy tables", "err", err)
			}
			if changed || err != nil {
				box.raise(EventChains)
			}
		}
	}
}

// changed says whether anything is not as it was at the last call.
func (f *legacyFamily) changed(seed maphash.Seed) (bool, error) {
	tables, err := f.tables()
	if err != nil {
		return false, err
	}
	now := map[string]uint64{}
	for _, name := range tables {
		switch name {
		case TableNAT, TableFilter, "mangle":
			if now[name], err = f.sum(name, seed); err != nil {
				return false, err
			}
		}
	}
	same := len(now) == len(f.last)
	for name, sum := range now {
		same = same && f.last[name] == sum
	}
	f.last = now
	return !same, nil
}

// tables reads the list through the file that was opened in our namespace.
func (f *legacyFamily) tables() ([]string, error) {
	if f.names == nil {
		file, err := os.Open(legacyTablesFile(f.v6))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		f.names = file
	}
	buf := make([]byte, 512)
	n, err := f.names.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the list of legacy tables: %w", err)
	}
	return strings.Fields(string(buf[:n])), nil
}

// Numbers of include/uapi/linux/netfilter_ipv4/ip_tables.h and ip6_tables.h.
const (
	soGetInfo    = 64 // {IPT,IP6T}_SO_GET_INFO
	soGetEntries = 65
	nameLen      = 32           // XT_TABLE_MAXNAMELEN
	infoSize     = nameLen + 52 // struct ipt_getinfo
	infoEntries  = nameLen + 48 // its last field, size
)

// sum is a hash of a table, without its counters.
func (f *legacyFamily) sum(table string, seed maphash.Seed) (uint64, error) {
	info := make([]byte, infoSize)
	copy(info, table)
	if err := f.getsockopt(soGetInfo, info); err != nil {
		return 0, fmt.Errorf("look at legacy table %s: %w", table, err)
	}
	size := int(get32(info[infoEntries:]))
	if size > legacyWhole || table == "mangle" {
		return maphash.Bytes(seed, info), nil
	}
	const header = nameLen + 8 // struct ipt_get_entries: name, size, padding
	b := make([]byte, header+size)
	copy(b, table)
	binary.NativeEndian.PutUint32(b[nameLen:], uint32(size))
	err := f.getsockopt(soGetEntries, b)
	if isErr(err, unix.EAGAIN) { // changed in between; the next look sees it
		return maphash.Bytes(seed, info), nil
	}
	if err != nil {
		return 0, fmt.Errorf("read legacy table %s: %w", table, err)
	}
	blankCounters(b[header:], f.v6)
	return maphash.Bytes(seed, slices.Concat(info, b[header:])), nil
}

// blankCounters zeroes the counters of each struct ipt_entry or ip6t_entry.
func blankCounters(b []byte, v6 bool) {
	next, counters := 90, 96
	if v6 {
		next, counters = 142, 152
	}
	zero := make([]byte, 16)
	for len(b) >= counters+len(zero) {
		copy(b[counters:], zero)
		n := int(get16(b[next:]))
		if n < counters+len(zero) || n > len(b) {
			return
		}
		b = b[n:]
	}
}

func (f *legacyFamily) getsockopt(name int, b []byte) error {
	level := uintptr(unix.IPPROTO_IP)
	if f.v6 {
		level = unix.IPPROTO_IPV6
	}
	length := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(f.fd), level, uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
