package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConverges does anything in any order, and then checks that one full sync
// ends in exactly the rows that the owners want, whatever happened before.
func TestConverges(t *testing.T) {
	const rounds, steps = 400, 60
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		f, keys := newFake(), 12
		f.half = seed%2 == 0
		for k := range keys {
			if r.IntN(3) == 0 {
				f.rows[k] = "former"
			}
		}
		var target Target[int, string] = f
		switch seed % 5 {
		case 4:
			target = &checker{fake: f}
		case 0:
			target = &getter{fake: f}
		case 1:
			target = ranger{f}
		case 2:
			target, keys = &batcher{fake: f}, 60 // enough for batches
		}
		m := &model{Table: New("t", target), f: f, wants: map[string]rows{}, last: seed%3 == 0}
		if m.last {
			m.Prefer(func(a, b string) int { return strings.Compare(b, a) })
		}
		for range steps {
			m.step(t, r, keys)
		}
		clear(f.fail)
		f.dumpErr = nil
		m.AllowPrune()
		if err := errors.Join(m.Check(true), (Group{m}).Sync(false)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m.check(t, seed)
		if err := m.Stats().Err; err != nil {
			t.Fatalf("seed %d: Stats().Err = %v, want nil", seed, err)
		}
	}
}

// model knows what the owners want, by the simplest means.
type model struct {
	*Table[int, string]
	f       *fake
	wants   map[string]rows
	last    bool // the last value of the alphabet is preferred
	allowed bool
}

func (m *model) step(t *testing.T, r *rand.Rand, keys int) {
	owner := fmt.Sprint("owner", r.IntN(4))
	k := r.IntN(keys)
	switch r.IntN(12) {
	case 0, 1, 2:
		want := rows{}
		for range r.IntN(1 + keys/3) {
			want[r.IntN(keys)] = string(rune('a' + r.IntN(3)))
		}
		m.wants[owner] = maps.Clone(want)
		m.Put(owner, want)
	case 3:
		_ = m.Write()
	case 4:
		before := maps.Clone(m.f.rows)
		_ = m.Prune()
		if !m.allowed && !cmp.Equal(before, m.f.rows) {
			t.Fatalf("pruned before AllowPrune: %v, before %v", m.f.rows, before)
		}
		for k := range before {
			if _, kept := m.f.rows[k]; !kept && m.wanted(k) {
				t.Fatalf("pruned key %d, which is wanted", k)
			}
		}
	case 5:
		if r.IntN(2) == 0 {
			_ = m.Check(r.IntN(2) == 0)
			break
		}
		_ = m.Refresh()
	case 6:
		_ = m.WriteOwner(owner)
	case 7:
		_ = m.PruneOwner(owner)
		_ = m.RefreshOwner(owner)
	case 8:
		delete(m.f.rows, k)
	case 9:
		m.f.rows[k] = "drift"
	case 10:
		if m.f.fail[k] == nil {
			m.f.fail[k] = errFake
		} else {
			delete(m.f.fail, k)
		}
	case 11:
		if r.IntN(4) == 0 {
			m.allowed = true
			m.AllowPrune()
		}
		m.f.dumpErr = nil
		if r.IntN(3) == 0 {
			m.f.dumpErr = errFake
		}
	}
}

func (m *model) wanted(k int) bool {
	for _, rows := range m.wants {
		if _, ok := rows[k]; ok {
			return true
		}
	}
	return false
}

func (m *model) check(t *testing.T, seed uint64) {
	t.Helper()
	want := rows{}
	for _, owner := range []string{"owner3", "owner2", "owner1", "owner0"} { // the smallest last
		for k, v := range m.wants[owner] {
			if !m.last || v >= want[k] {
				want[k] = v
			}
		}
	}
	if d := cmp.Diff(m.f.rows, want); d != "" {
		t.Fatalf("seed %d: rows (-got +want):\n%s", seed, d)
	}
}

// log is a Syncer that writes down what is done.
type log struct {
	name string
	out  *[]string
	err  error
}

func (l log) note(verb string) error {
	*l.out = append(*l.out, verb+" "+l.name)
	if l.err != nil {
		return fmt.Errorf("%s %s: %w", verb, l.name, l.err)
	}
	return nil
}

func (l log) Name() string   { return l.name }
func (l log) Refresh() error { return l.note("refresh") }
func (l log) Write() error   { return l.note("write") }
func (l log) Prune() error   { return l.note("prune") }
func (l log) AllowPrune()    { _ = l.note("allow") }
func (l log) Stats() Stats   { return Stats{Name: l.name} }

func TestGroupOrder(t *testing.T) {
	var got []string
	g := Group{log{"links", &got, errFake}, log{"routes", &got, nil}}
	err := g.Sync(true)
	if d := cmp.Diff(got, []string{
		"refresh links", "refresh routes", "write links", "write routes", "prune routes", "prune links",
	}); d != "" {
		t.Errorf("order (-got +want):\n%s", d)
	}
	if got, want := fmt.Sprint(err), "refresh links: no room\nwrite links: no room\nprune links: no room"; got != want {
		t.Errorf("got error %q, want %q", got, want)
	}
	got = nil
	_ = g.Sync(false)
	if d := cmp.Diff(got, []string{"write links", "write routes", "prune routes", "prune links"}); d != "" {
		t.Errorf("order (-got +want):\n%s", d)
	}
}
