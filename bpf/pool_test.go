package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The kernel verifies the programs of a datapath for most of a second. Tests that only run
// them (PROG_TEST_RUN) therefore hand them on, with maps that are as [Open] left them.

// pooled is a datapath of the pool, with the state of its maps after [Open].
type pooled struct {
	*Datapath
	begin map[ebpf.MapID]contents
}

// contents is the rows of a map; of an array those that are not all zero.
type contents map[string][]byte

var pool = struct {
	sync.Mutex
	idle map[Options][]pooled
}{idle: map[Options][]pooled{}}

// openShared is open for a test that attaches no program and is no other's successor: the
// datapath may be one of an earlier test.
func openShared(t testing.TB, o Options) *Datapath {
	t.Helper()
	o = o.small()
	if o != (Options{Config: o.Config}).small() { // a size of its own
		return open(t, o)
	}
	pool.Lock()
	var p pooled
	if idle := pool.idle[o]; len(idle) > 0 {
		p, pool.idle[o] = idle[len(idle)-1], idle[:len(idle)-1]
	}
	pool.Unlock()
	dir := bpffs(t)
	if p.Datapath == nil {
		fresh := o
		fresh.Dir = dir
		p = pooled{Datapath: openOrFail(t, fresh)}
		var err error
		p.begin, err = p.snapshot()
		must(t, err)
	} else {
		must(t, p.moveTo(dir))
	}
	t.Cleanup(func() {
		if exists(p.linkDir()) {
			if list, err := os.ReadDir(p.linkDir()); len(list) > 0 || err != nil {
				t.Errorf("a datapath that others are to use has links: %v %v", list, err)
			}
		}
		if err := p.restore(); err != nil {
			if !errors.Is(err, os.ErrClosed) { // by the test itself
				t.Errorf("restore the maps for others: %v", err)
			}
			p.Close()
			return
		}
		pool.Lock()
		pool.idle[o] = append(pool.idle[o], p)
		pool.Unlock()
	})
	return p.Datapath
}

// moveTo makes a datapath one that was just opened in another folder.
func (p pooled) moveTo(dir string) error {
	d := p.Datapath
	for name, path := range d.pins {
		below, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		d.pins[name] = filepath.Join(dir, below)
	}
	d.dir = dir
	for _, dir := range []string{d.dir, d.pin(), lastingDir(d.dir), d.linkDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for name, path := range d.pins {
		m, err := d.maps[name].Clone() // which knows of no pin yet
		if err != nil {
			return err
		}
		if err := errors.Join(d.maps[name].Close(), m.Pin(path)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
		d.maps[name] = m
	}
	d.committed.Store(false)
	d.rows, d.rowless = 0, rowless{}
	return d.readPlaces()
}

// every calls f for each map that a program of the datapath uses and that can be written.
func (d *Datapath) every(f func(id ebpf.MapID, m *ebpf.Map) error) error {
	programs := []*ebpf.Program{d.explain, d.adopter, d.checker.program}
	for _, p := range d.programs {
		programs = append(programs, p)
	}
	var all []ebpf.MapID
	for _, p := range programs {
		info, err := p.Info()
		if err != nil {
			return err
		}
		ids, _ := info.MapIDs()
		all = append(all, ids...)
	}
	slices.Sort(all)
	for _, id := range slices.Compact(all) {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		info, err := m.Info()
		if err == nil && !info.Frozen() {
			err = f(id, m)
		}
		if err = errors.Join(err, m.Close()); err != nil {
			return fmt.Errorf("map %s: %w", m, err)
		}
	}
	return nil
}

func (d *Datapath) snapshot() (map[ebpf.MapID]contents, error) {
	all := map[ebpf.MapID]contents{}
	err := d.every(func(id ebpf.MapID, m *ebpf.Map) (err error) {
		all[id], err = contentsOf(m)
		return err
	})
	return all, err
}

func contentsOf(m *ebpf.Map) (contents, error) {
	c := contents{}
	return c, rowsOf(m, func(key, value []byte) error {
		c[string(key)] = bytes.Clone(value)
		return nil
	})
}

// restore makes all maps what they were.
func (p pooled) restore() error {
	for _, m := range p.maps {
		if m.FD() < 0 {
			return os.ErrClosed
		}
	}
	return p.every(func(id ebpf.MapID, m *ebpf.Map) error {
		begin, ok := p.begin[id]
		if !ok {
			return errors.New("it is new")
		}
		if m.Type() == ebpf.RingBuf {
			return p.drain()
		}
		var other [][]byte // keys; they are not deleted while they are listed
		seen := 0
		err := rowsOf(m, func(key, value []byte) error {
			if bytes.Equal(begin[string(key)], value) {
				seen++
			} else {
				other = append(other, bytes.Clone(key))
			}
			return nil
		})
		if err != nil || seen == len(begin) && len(other) == 0 {
			return err
		}
		for _, key := range other {
			if err := clearRow(m, key); err != nil {
				return err
			}
		}
		for key, value := range begin {
			if err := put(m, []byte(key), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// drain reads the records that nobody has read.
func (d *Datapath) drain() error {
	r, err := d.Records()
	if err != nil {
		return err
	}
	r.reader.SetDeadline(time.Now())
	for {
		if err := r.reader.ReadInto(&r.raw); errors.Is(err, os.ErrDeadlineExceeded) {
			return r.Close()
		} else if err != nil {
			return errors.Join(err, r.Close())
		}
	}
}

// perCPU is how many values a row has.
func perCPU(m *ebpf.Map) int {
	if m.Type() == ebpf.PerCPUArray {
		return ebpf.MustPossibleCPU()
	}
	return 1
}

// isArray says whether rows are neither made nor deleted.
func isArray(m *ebpf.Map) bool { return m.Type() == ebpf.Array || m.Type() == ebpf.PerCPUArray }

// rowsOf calls f for each row, of arrays for each that is not zero. What f is given is valid
// until it returns; of a row per processor it is the values of all.
func rowsOf(m *ebpf.Map, f func(key, value []byte) error) error {
	switch {
	case m.Type() == ebpf.RingBuf:
		return nil
	case !isArray(m):
		var key, value []byte
		it := m.Iterate()
		for it.Next(&key, &value) {
			if err := f(key, value); err != nil {
				return err
			}
		}
		return it.Err()
	}
	zero := make([]byte, int(m.ValueSize())*perCPU(m))
	row := func(i uint32, value []byte) error {
		if bytes.Equal(value, zero) {
			return nil
		}
		return f(native.AppendUint32(nil, i), value)
	}
	switch {
	case m.Flags()&unix.BPF_F_MMAPABLE != 0:
		return inMemory(m, row)
	case m.Type() == ebpf.Array && m.ValueSize() == 4:
		return inBatches(m, row, native.AppendUint32)
	case m.Type() == ebpf.Array && m.ValueSize() == 8:
		return inBatches(m, row, native.AppendUint64)
	}
	for i := range m.MaxEntries() { // few
		each := make([][]byte, 1)
		var err error
		if m.Type() == ebpf.PerCPUArray {
			err = m.Lookup(i, &each)
		} else {
			err = m.Lookup(i, &each[0])
		}
		if err == nil {
			err = row(i, bytes.Join(each, nil))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inMemory calls f for each row of an array that can be mapped.
func inMemory(m *ebpf.Map, f func(i uint32, value []byte) error) error {
	step, page := (int(m.ValueSize())+7)/8*8, os.Getpagesize()
	length := (int(m.MaxEntries())*step + page - 1) / page * page
	mapped, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(mapped)
	for i := range m.MaxEntries() {
		if err := f(i, mapped[int(i)*step:][:m.ValueSize()]); err != nil {
			return err
		}
	}
	return nil
}

// inBatches does it for those of an array of numbers that are not zero.
func inBatches[V uint32 | uint64](m *ebpf.Map, f func(i uint32, value []byte) error, encode func([]byte, V) []byte) error {
	keys, values := make([]uint32, scanBatch), make([]V, scanBatch)
	var at ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&at, keys, values, nil)
		for i := range n {
			if values[i] == 0 {
				continue
			}
			if err := f(keys[i], encode(nil, values[i])); err != nil {
				return err
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // that was the last
			return nil
		} else if err != nil {
			return err
		}
	}
}

// clearRow deletes a row, or makes it zero.
func clearRow(m *ebpf.Map, key []byte) error {
	if isArray(m) {
		return put(m, key, make([]byte, int(m.ValueSize())*perCPU(m)))
	}
	if err := m.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// put writes a row; the value is what [rowsOf] gave.
func put(m *ebpf.Map, key, value []byte) error {
	if m.Type() != ebpf.PerCPUArray { // with one processor, too
		return m.Put(key, value)
	}
	return m.Put(key, slices.Collect(slices.Chunk(value, int(m.ValueSize()))))
}

// The maps of a datapath that is handed on are as a new one's, whatever was written to them.
func TestPooledDatapathIsAsNew(t *testing.T) {
	t.Parallel()
	p := pooled{Datapath: openOrFail(t, Options{Dir: bpffs(t)}.small())}
	defer p.Close()
	var err error
	p.begin, err = p.snapshot()
	must(t, err)
	written := 0
	must(t, p.every(func(_ ebpf.MapID, m *ebpf.Map) error {
		if m.Type() == ebpf.RingBuf {
			return nil
		}
		for _, at := range []uint32{0, m.MaxEntries() - 1} {
			key, value := make([]byte, m.KeySize()), bytes.Repeat([]byte{0xa5}, int(m.ValueSize())*perCPU(m))
			if copy(key, native.AppendUint32(nil, at)); m.Type() == ebpf.LPMTrie {
				key[0], key[1], key[2], key[3] = byte(at&8), 0, 0, 0 // bits
			}
			if err := put(m, key, value); err != nil {
				return err
			}
			written++
		}
		return nil
	}))
	must(t, p.restore())
	now, err := p.snapshot()
	must(t, err)
	if diff := cmp.Diff(p.begin, now); diff != "" || written < 40 {
		t.Errorf("after %d rows were written and all was restored (-new +restored):\n%s", written, diff)
	}
}
