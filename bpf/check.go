package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// checkProgram is in no link: [Datapath.holds] runs it.
const checkProgram = "check"

// checkRows is how many rows one run of it looks at: for so long, 50 to 150 µs, its
// processor takes no packets.
const checkRows = 512

// checkedMaps are the maps that it knows.
var checkedMaps = map[string]weftCheckedMap{
	weftMapPeers:     weftCheckedMapCHECK_PEERS,
	weftMapNodes:     weftCheckedMapCHECK_NODES,
	weftMapAlive:     weftCheckedMapCHECK_ALIVE,
	weftMapBackends:  weftCheckedMapCHECK_BACKENDS,
	weftMapMaglev:    weftCheckedMapCHECK_MAGLEV,
	weftMapRanges:    weftCheckedMapCHECK_RANGES,
	weftMapSets:      weftCheckedMapCHECK_SETS,
	weftMapFrontends: weftCheckedMapCHECK_FRONTENDS,
	weftMapClasses:   weftCheckedMapCHECK_CLASSES,
	weftMapRules:     weftCheckedMapCHECK_RULES,
	weftMapAnnounced: weftCheckedMapCHECK_ANNOUNCED,
}

// checker looks whether maps hold what was written into them.
type checker struct {
	program *ebpf.Program
	asking  sync.Mutex // of the map `checked`

	mu    sync.Mutex
	sizes map[string]mapSize

	warned sync.Once
}

// holds says whether each of these rows is in a map as it is here.
func holds[K, V comparable](d *Datapath, name string, rows iter.Seq2[K, V]) (bool, error) {
	if err := d.repin(name); err != nil {
		return false, err
	}
	d.checker.asking.Lock()
	defer d.checker.asking.Unlock()
	valueAt := filled(unsafe.Sizeof(*new(K)))
	step := valueAt + filled(unsafe.Sizeof(*new(V)))
	var q *weftChecked
	for k, v := range rows {
		if q == nil {
			all, done, err := mapped[weftChecked](d, weftMapChecked)
			if err != nil {
				return false, err
			}
			defer done()
			q = &all[0]
			q.Map, q.Count = checkedMaps[name], 0
		}
		at := uintptr(q.Count) * step
		*(*K)(unsafe.Pointer(&q.Rows[at])) = k
		*(*V)(unsafe.Pointer(&q.Rows[at+valueAt])) = v
		if q.Count++; q.Count < min(checkRows, uint32(uintptr(len(q.Rows))/step)) {
			continue
		}
		if ok, err := d.ask(q); !ok {
			return false, err
		}
	}
	if q == nil || q.Count == 0 {
		return true, nil
	}
	return d.ask(q)
}

// filled is a size filled up as in src/check.h.
func filled(size uintptr) uintptr { return (size + 7) / 8 * 8 }

// ask asks the program and empties the question. If that cannot be, whole maps are read instead,
// and it is said once.
func (d *Datapath) ask(q *weftChecked) (bool, error) {
	wrong, err := d.checker.program.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	if err != nil {
		d.checker.warned.Do(func() {
			d.log.Warn("maps cannot be checked, and are read every few seconds", "program", checkProgram, "err", err)
		})
		return false, fmt.Errorf("run program %s: %w", checkProgram, err)
	}
	q.Count = 0
	return wrong == 0, nil
}

// mapSize is what a map says of its memory, from which follows how many rows it has: since
// Linux 6.4 it counts what there is (map_mem_usage in include/linux/bpf.h), before what
// there could be.
type mapSize struct {
	row   int64 // of each row, bytes; 0: it does not count them
	empty int64 // without any
}

// learnSize takes note of a map's memory with so many rows. If it is not to be had, the map is not
// counted.
func (d *Datapath) learnSize(name string, rows int) {
	m := d.maps[name]
	d.checker.mu.Lock()
	defer d.checker.mu.Unlock()
	size, ok := d.checker.sizes[name]
	var err error
	if !ok {
		size.row, err = rowSize(m)
	}
	bytes, memoryErr := memory(m)
	if err = errors.Join(err, memoryErr); err != nil {
		d.log.Warn("rows are not counted", "map", name, "err", err)
		delete(d.checker.sizes, name)
		return
	}
	size.empty = bytes - int64(rows)*size.row
	d.checker.sizes[name] = size
}

// count is how many rows a map has; ok is false if it does not tell, or has not been read yet.
func (d *Datapath) count(name string) (n int, ok bool, err error) {
	d.checker.mu.Lock()
	size := d.checker.sizes[name]
	d.checker.mu.Unlock()
	if size.row == 0 {
		return 0, false, nil
	}
	bytes, err := memory(d.maps[name])
	if err != nil {
		return 0, false, fmt.Errorf("read size of map %s: %w", name, err)
	}
	return int((bytes - size.empty) / size.row), true, nil
}

// rowSize is what a row more adds to the memory of a map like this one.
func rowSize(m *ebpf.Map) (int64, error) {
	like, err := ebpf.NewMap(&ebpf.MapSpec{Type: m.Type(), KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: 1, Flags: m.Flags()})
	if err != nil {
		return 0, err
	}
	defer like.Close()
	before, err := memory(like)
	if err != nil {
		return 0, err
	}
	if err := like.Put(make([]byte, m.KeySize()), make([]byte, m.ValueSize())); err != nil {
		return 0, err
	}
	after, err := memory(like)
	return after - before, err
}

// memory is what a map says that it takes, in bytes; 0: it does not say. [ebpf.Map.Info] asks for
// much more, and an idle daemon wants to know this of each map every 8 s.
func memory(m *ebpf.Map) (int64, error) {
	name := "/proc/self/fdinfo/" + strconv.Itoa(m.FD())
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	var b [1024]byte // a map's are 300
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	_, rest, ok := bytes.Cut(b[:n], []byte("\nmemlock:\t"))
	if !ok {
		return 0, nil
	}
	digits, _, _ := bytes.Cut(rest, []byte("\n"))
	size, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory in %s: %w", name, err)
	}
	return size, nil
}
