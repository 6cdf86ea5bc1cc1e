// Package bpf is the datapath: its programs, loaded once per node, and the maps
// they read. It pins everything, adopts what a former daemon left, and gives the
// maps and links to the reconcile engine as typed tables.
//
// Pins, below Options.Dir:
//
//	<layout>/endpoints, peers, counters …   the maps; <layout> names their form
//	lasting/<map>-<form>                  the maps that programs write, whatever the layout
//	links/<program>-<ifindex>             one TCX link each, whatever its layout
//	links/<program>-cgroup                one link of a program of sockets each
//	serving                               an empty folder: Services were taken over
//
// from_pod is in no link but in a filter on each pod's device, which needs no pin.
//
// A restarted daemon with the same layout finds its rows; one with another layout
// fills its own maps while the links still run the former programs, and moves the
// links and filters at [Datapath.Commit]. At no time is a device without its program.
package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/internal/crash"
)

// Options say how [Open] loads the datapath.
type Options struct {
	Dir          string // on a bpffs; made if absent
	Config       Config
	MaxEndpoints uint32 // rows of `endpoints`; 0: DefaultMaxEndpoints
	MaxPeers     uint32 // rows of `peers`, one per pod prefix, and of `nodes`; 0: DefaultMaxPeers
	MaxSockets   uint32 // rows of `sockets` and of `datagrams`; 0: DefaultMaxSockets
	MaxFlows     uint32 // rows of `live`, two a flow; 0: DefaultMaxFlows
	// MaxBriefFlows: rows of `brief`, two for each new flow; 0:
	// DefaultMaxBriefFlows.
	MaxBriefFlows uint32
	// RecordRate is how many drops the node records a second; 0: DefaultRecordRate.
	RecordRate uint32
	MaxClasses uint32 // rows of `classes`; 0: DefaultMaxClasses
	MaxRules   uint32 // rows of `rules`; 0: DefaultMaxRules
	MaxAllowed uint32 // rows of `allowed`, one a flow and isolated pod; 0: DefaultMaxAllowed
	// MaxAllowedNew: rows of `allowed_new`, the same for each flow that is new, has ended,
	// or has not made room yet; 0: DefaultMaxAllowedNew.
	MaxAllowedNew uint32
	Log           *slog.Logger
}

// Map sizes where Options say none. `endpoints` is allocated at once (208 to
// 416 bytes a row), `peers` and `nodes` row by row; `sockets` and `datagrams` at once (about 130 bytes
// a row of each), `live` row by row (about 150 bytes) and `brief` at once (96 bytes a row);
// `classes`, `rules` and `allowed` row by row (about 100, 140 and 120 bytes a row),
// `allowed_new` at once (64 bytes a row).
const (
	DefaultMaxEndpoints = 1024
	DefaultMaxPeers     = 8192
	DefaultMaxSockets   = 65536

	DefaultMaxFlows      = 262144
	DefaultMaxBriefFlows = 65536

	DefaultRecordRate = 1000

	DefaultMaxClasses    = 524288
	DefaultMaxRules      = 524288
	DefaultMaxAllowed    = 262144
	DefaultMaxAllowedNew = 131072
)

func (o Options) maxEndpoints() uint32 { return cmp.Or(o.MaxEndpoints, DefaultMaxEndpoints) }

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	if o.Dir == "" {
		return errors.New("no folder for BPF pins is set")
	}
	if o.Config.VNI == 0 || o.Config.VNI >= 1<<24-1 {
		return fmt.Errorf("VNI %d is not in 1…16777214", o.Config.VNI)
	}
	if o.Config.Port == 0 {
		return errors.New("the overlay's UDP port is not set")
	}
	return nil
}

// Datapath is the loaded programs and their maps.
type Datapath struct {
	dir      string
	layout   string
	config   Config
	log      *slog.Logger
	programs map[Program]*ebpf.Program
	ids      map[Program]ebpf.ProgramID
	explain  *ebpf.Program
	adopter  *ebpf.Program
	checker  checker
	maps     map[string]*ebpf.Map
	pins     map[string]string // where each map is pinned, by name
	places   places
	rejudge  sync.Mutex
	looked   sync.Mutex // of the map alive_revision
	rowless  rowless

	slotted       sync.Mutex // of what follows, and of who writes `endpoints`
	rows, maxRows uint32     // of it

	// pods_by_packet, taken_over, policy_revision and allowed_full.
	byPacket, takenOver, revision, allowedFull *ebpf.Variable
	tupleKeys                                  weftTupleKeys

	// From Commit on, a link must run exactly our program; before, a former
	// daemon's will do.
	committed atomic.Bool
}

// Open loads the programs with the maps that are pinned for this layout, or with
// new ones, which it pins. Links keep the programs they have until
// [Datapath.Commit]. Rows of an adopted map are as they were.
func Open(o Options) (*Datapath, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	spec, err := specs(o)
	if err != nil {
		return nil, err
	}
	d := &Datapath{
		dir:      o.Dir,
		layout:   layout(spec),
		config:   o.Config,
		log:      cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		programs: map[Program]*ebpf.Program{},
		ids:      map[Program]ebpf.ProgramID{},
		maps:     map[string]*ebpf.Map{},
		pins:     map[string]string{},
		maxRows:  o.maxEndpoints(),
		checker:  checker{sizes: map[string]mapSize{}},
	}
	for _, name := range pinnedMaps {
		d.pins[name] = d.pin(name)
	}
	for _, name := range lastingMaps {
		d.pins[name] = filepath.Join(lastingDir(d.dir), lastingPin(name, spec.Maps[name]))
	}
	if o.Config.Netfilter {
		if err := os.Remove(servingDir(d.dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove folder of pins: %w", err)
		}
	}
	for _, dir := range []string{d.dir, d.pin(), lastingDir(d.dir), d.linkDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder for pins: %w", err)
		}
		crash.Point("bpf mkdir")
	}
	if err := d.load(spec); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// load fills programs, ids and maps.
func (d *Datapath) load(spec *ebpf.CollectionSpec) error {
	made := map[string]bool{}
	for name := range d.pins {
		m, err := d.adopt(name, spec.Maps[name], made)
		if err != nil {
			return err
		}
		d.maps[name] = m
	}
	if err := (slots{d}).scan(func(*weftAddr, *weftEndpoint) {}); err != nil {
		return err
	}
	if err := d.markMoved(made); err != nil {
		return err
	}
	if err := d.seedFlows(spec); err != nil {
		return err
	}
	c, err := loadCollection(spec, d.maps)
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer c.Close()
	for _, name := range slices.Concat(slices.Collect(maps.Keys(attachTypes)), slices.Collect(maps.Keys(socketTypes))) {
		p := c.DetachProgram(string(name))
		d.programs[name] = p
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("read program %s: %w", name, err)
		}
		id, ok := info.ID()
		if !ok {
			return fmt.Errorf("read program %s: the kernel gives no id", name)
		}
		d.ids[name] = id
	}
	d.explain, d.adopter = c.DetachProgram(explainProgram), c.DetachProgram(adoptProgram)
	d.checker.program = c.DetachProgram(checkProgram)
	for _, name := range loadedMaps {
		d.maps[name] = c.DetachMap(name)
	}
	d.byPacket, d.takenOver = c.Variables[weftVarPodsByPacket], c.Variables[weftVarTakenOver]
	d.revision, d.allowedFull = c.Variables[weftVarPolicyRevision], c.Variables[weftVarAllowedFull]
	if err := d.lookAgain(); err != nil { // a former daemon may have changed `alive` last
		return err
	}
	return d.readPlaces()
}

// adopt returns the pinned map, or makes and pins a new one, and notes that. A pin that holds
// another kind of map is not ours to read: it is replaced.
func (d *Datapath) adopt(name string, spec *ebpf.MapSpec, made map[string]bool) (*ebpf.Map, error) {
	path := d.pins[name]
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		if err = spec.Compatible(m); err == nil {
			return m, nil
		}
		m.Close()
		d.log.Warn("replace a pinned map that does not fit", "map", path, "err", err)
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove pin: %w", err)
		}
		crash.Point("bpf unpin map")
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("adopt map %s: %w", path, err)
	}
	if m, err = ebpf.NewMap(spec); err != nil {
		return nil, fmt.Errorf("create map %s: %w", name, err)
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, fmt.Errorf("pin map: %w", err)
	}
	crash.Point("bpf pin map")
	made[name] = true
	return m, nil
}

// pin is the path of a pin of this layout, or of the layout's folder.
func (d *Datapath) pin(name ...string) string {
	return filepath.Join(append([]string{d.dir, d.layout}, name...)...)
}

// Layout is the name of the maps' form: the same for two daemons if and only if
// one can adopt the other's maps.
func (d *Datapath) Layout() string { return d.layout }

// Close releases what this process holds; pins stay, and what is attached works on.
func (d *Datapath) Close() error {
	var errs []error
	for _, p := range d.programs {
		errs = append(errs, p.Close())
	}
	errs = append(errs, d.explain.Close(), d.adopter.Close(), d.checker.program.Close())
	for _, m := range d.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
