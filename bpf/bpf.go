// Package bpf is the datapath: four programs, loaded once per node, and the maps
// they read. It pins everything, adopts what a former daemon left, and gives the
// maps and links to the reconcile engine as typed tables.
package bpf

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/weftnet/weft/internal/reconcile"
)

// Options say how [Open] loads the datapath.
type Options struct {
	Dir          string // on a bpffs; made if absent
	Config       Config
	MaxEndpoints uint32 // rows of `endpoints`; 0: DefaultMaxEndpoints
	MaxPeers     uint32 // rows of `peers`, one per pod prefix; 0: DefaultMaxPeers
	Log          *slog.Logger
}

// Map sizes where Options say none.
const (
	DefaultMaxEndpoints = 1024
	DefaultMaxPeers     = 8192
)

// Datapath is the loaded programs and their maps.
type Datapath struct{}

var errSkeleton = errors.New("datapath is not built yet")

// Open adopts the layout's pins or creates them.
func Open(Options) (*Datapath, error) { return nil, errSkeleton }

// Endpoints is the table of addresses on this node.
func (d *Datapath) Endpoints() reconcile.Target[netip.Addr, Endpoint] { return nil }

// Peers is the table of other nodes' pod prefixes.
func (d *Datapath) Peers() reconcile.Target[netip.Prefix, Peer] { return nil }

// Links is the table of attached programs.
func (d *Datapath) Links() reconcile.Target[Hook, struct{}] { return nil }

// Commit moves all links to this datapath's programs and removes other layouts.
func (d *Datapath) Commit() error { return errSkeleton }

// Layout names the maps' layout.
func (d *Datapath) Layout() string { return "" }

// SelfTest runs the loaded programs on test packets.
func (d *Datapath) SelfTest() error { return errSkeleton }

// Counters returns all counters, zero ones too.
func (d *Datapath) Counters() ([]Counter, error) { return nil, errSkeleton }

// Close releases what this process holds; pins stay.
func (d *Datapath) Close() error { return nil }

// Remove detaches all links of ours below dir and removes all layouts.
func Remove(dir string) error { return errSkeleton }

// Preflight says what this kernel or machine lacks.
func Preflight(dir string) error { return errSkeleton }
