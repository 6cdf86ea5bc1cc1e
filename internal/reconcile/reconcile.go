// Package reconcile makes kernel tables hold the rows that are wanted.
//
// What is wanted is said by owners ([Table.Put]); what is there is read from a
// [Target] ([Table.Refresh]). Writing and pruning are apart, so that several
// tables can be written in the order of reference and pruned in reverse
// ([Group]), and nothing is pruned before the source of the wants is in sync
// ([Table.AllowPrune]).
package reconcile

import "iter"

// Target is one kernel table, or our part of it. Verbs are idempotent: setting
// what is there and deleting what is not there succeed. A target may be called
// from several goroutines, but a [Table] calls one verb at a time (but see [Batcher]).
type Target[K, V comparable] interface {
	// Dump returns all rows that are ours, and no others.
	Dump() (map[K]V, error)
	// Set creates the row or replaces it.
	Set(K, V) error
	// Delete removes the row if it is ours; nil if it is absent.
	Delete(K) error
}

// Getter is a [Target] that can read one row. [Table.RefreshOwner] uses it so
// that looking after one owner does not dump the table. ok is false if the row
// is absent or not ours.
type Getter[K, V comparable] interface {
	Get(K) (v V, ok bool, err error)
}

// Ranger is a [Target] that can tell its rows one by one. [Table.Refresh] uses it
// instead of Dump, so that to look through a large table takes no memory.
type Ranger[K, V comparable] interface {
	// Range calls f with each row that Dump would return, in any order. A row may
	// come twice; what comes last holds. After an error some may have been left out.
	Range(f func(K, V)) error
}

// Batcher is a [Target] that can set many rows at once. [Table.Write] uses it when there are
// many.
type Batcher[K, V comparable] interface {
	// SetAll sets these rows, one after the other, until one fails: n, less than their
	// number, is how many are set then, err why the next one is not. It may be called while
	// another SetAll, of other rows, is under way.
	SetAll(keys []K, values []V) (n int, err error)
}

// Checker is a [Target] that can tell whether rows are there for less than reading all of them
// costs. [Table.Check] asks it.
type Checker[K, V comparable] interface {
	// Holds says whether the target has each of these rows as it is here.
	Holds(rows iter.Seq2[K, V]) (bool, error)
	// Count is how many rows Dump would return; ok is false if that is not known without
	// reading them. It need not be known before the first Dump or Range.
	Count() (n int, ok bool, err error)
}

// Stats is what a table tells about itself.
type Stats struct {
	Name    string
	Rows    int    // rows wanted
	Repairs uint64 // rows that a refresh found missing, wrong or left over
	Err     error  // what failed and waits to be tried again; nil: nothing
	Unread  bool   // the last Refresh failed
}

// Conflict is a key that two owners want with different values.
type Conflict struct {
	Table  string
	Key    string // fmt's %v of the key
	Winner string // owner whose value is used: the smallest name's, but see [Table.Prefer]
	Loser  string
}

// Syncer is a [Table] of whatever row type.
type Syncer interface {
	Name() string
	Refresh() error
	Write() error
	Prune() error
	AllowPrune()
	Stats() Stats
}
