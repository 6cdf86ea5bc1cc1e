// Package ipam gives out addresses from this node's pools and remembers, through
// crashes, who has which.
//
// The lease files are the attachment files of the daemon: one small file per
// attachment in <dir>/attachments. A lease is on the disk before [Manager.Allocate]
// returns, and a released address is noted in <dir>/released, with the time,
// before its lease file goes, so that its reuse delay outlives the process.
//
// The cost of one allocation does not depend on the number of leases or on the size
// of the pool; an IPv6 pool is never enumerated.
package ipam

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net/netip"
	"time"
)

// What [Manager.Allocate] fails with, beside errors of the file system.
var (
	// ErrNoPool: no pools are set (yet).
	ErrNoPool = errors.New("no address pool")
	// ErrPoolEmpty: every address of a pool is leased.
	ErrPoolEmpty = errors.New("address pool is empty")
	// ErrNotInPool: an asked-for address is in no pool, or is one that is never
	// given out (network, gateway, IPv4 broadcast).
	ErrNotInPool = errors.New("address is not in a pool")
	// ErrTaken: an asked-for address belongs to somebody else.
	ErrTaken = errors.New("address is taken")
)

// ErrNoLease is what [Manager.Update] returns for an owner without a lease.
var ErrNoLease = errors.New("no lease")

// Folders below the state directory.
const (
	attachmentsDir = "attachments"
	releasedDir    = "released"
	corruptDir     = "corrupt"
)

// DefaultReuseDelay is how long a released address rests before it is given out
// again, unless nothing else is left.
const DefaultReuseDelay = 30 * time.Second

// Owner is the one interface of one container that holds a lease.
type Owner struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

func (o Owner) String() string { return o.ContainerID + "/" + o.IfName }

// Request asks for one address of each family that has a pool.
type Request struct {
	Owner   Owner
	Network string
	// Want lists addresses that must be given, at most one of each family; each must
	// be in a pool and free. An address in its reuse delay counts as free.
	Want []netip.Addr
	// Meta is stored with the lease, unread.
	Meta json.RawMessage
	// MetaFor, if set, makes Meta once the addresses are known.
	MetaFor func([]netip.Addr) json.RawMessage
}

// Lease is what an owner holds.
type Lease struct {
	Owner
	Network string          `json:"network"`
	Addrs   []netip.Addr    `json:"addrs"` // IPv4 first
	Meta    json.RawMessage `json:"meta,omitempty"`
	At      time.Time       `json:"at"`
}

// Options of [Open]; the zero value works.
type Options struct {
	FS         FS               // default: the real one
	Now        func() time.Time // default: time.Now
	ReuseDelay time.Duration    // default: DefaultReuseDelay; negative: none
	Log        *slog.Logger     // default: discard
}

// PoolStats is the state of one pool.
type PoolStats struct {
	Prefix      netip.Prefix
	Used        int      // leased addresses
	Cooling     int      // released, within the reuse delay
	Size        *big.Int // addresses that can be given out
	ReusedEarly uint64   // given out within the reuse delay, since start
}

// Corrupt is a file that could not be read and was moved aside.
type Corrupt struct {
	Path string // where it is now
	Err  string
}
