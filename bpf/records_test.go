package bpf

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// allDrops counts what was dropped or rejected, by reason.
func allDrops(t testing.TB, d *Datapath) (by map[string]uint64, all uint64) {
	t.Helper()
	counters, err := d.Counters()
	must(t, err)
	by = map[string]uint64{}
	for _, c := range counters {
		if c.Kind != "stack" && c.Count > 0 {
			by[c.Reason] = c.Count
			all += c.Count
		}
	}
	return by, all
}

// recordsDrops checks at the end of a test that each drop of it was recorded once, with
// its reason, or counted as left out.
func recordsDrops(t testing.TB, d *Datapath) {
	t.Helper()
	before, _ := allDrops(t, d)
	r, err := d.Records()
	must(t, err)
	t.Cleanup(func() {
		defer r.Close()
		got := map[string]uint64{}
		now, all := allDrops(t, d)
		for _, record := range recordsNow(t, r) {
			got[record.Reason]++
		}
		if len(before) > 0 { // maps of a former datapath
			return
		}
		var sum uint64
		for _, n := range got {
			sum += n
		}
		if lost := r.Lost(); sum+lost != all {
			t.Errorf("%d records and %d left out of %d drops", sum, lost, all)
		} else if lost == 0 && !cmp.Equal(got, now) {
			t.Errorf("records by reason are not the counters (-records +counters):\n%s", cmp.Diff(got, now))
		}
	})
}

// recordsNow is the records that are there now.
func recordsNow(t testing.TB, r *Records) (list []Record) {
	t.Helper()
	r.reader.SetDeadline(time.Now())
	for {
		if err := r.reader.ReadInto(&r.raw); err != nil {
			return list
		}
		got, err := r.parse(r.raw.RawSample)
		must(t, err)
		list = append(list, got)
	}
}
