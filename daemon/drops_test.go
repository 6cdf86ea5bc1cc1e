package daemon

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/internal/api"
)

func TestLatestDropsAreKept(t *testing.T) {
	d := newDrops()
	if list, next, _ := d.since(0); len(list) != 0 || next != 0 {
		t.Fatalf("nothing was dropped, got %v and %d", list, next)
	}
	for i := range dropsKept + 3 {
		d.add(api.Drop{Length: i})
	}
	list, next, _ := d.since(0)
	if len(list) != dropsKept || list[0].Length != 3 || list[dropsKept-1].Length != dropsKept+2 || list[0].LeftOut != 0 {
		t.Errorf("kept %d, from %+v to %+v", len(list), list[0], list[len(list)-1])
	}
	if list, _, _ = d.since(next - 2); len(list) != 2 || list[0].Length != dropsKept+1 {
		t.Errorf("the last two are %+v", list)
	}
	if list, _, _ = d.since(1); list[0].LeftOut != 2 {
		t.Errorf("two are not kept any more, it says %d", list[0].LeftOut)
	}
}

func TestDropsOfEveryNewPodPushOutNoOthers(t *testing.T) {
	d := newDrops()
	d.add(api.Drop{Reason: "no-peer"})
	for range 2 * dropsKept {
		d.add(api.Drop{Reason: reasonRoutine})
	}
	d.add(api.Drop{Reason: "no-route"})
	list, _, _ := d.since(0)
	if len(list) != routineKept+2 || list[0].Reason != "no-peer" || list[1].Reason != reasonRoutine || list[len(list)-1].Reason != "no-route" {
		t.Errorf("kept are %d, from %+v to %+v", len(list), list[0], list[len(list)-1])
	}
}

func TestDropsAreWatchedInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDrops()
		d.add(api.Drop{Length: 99}) // before
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		enough := make(chan struct{})
		go func() {
			defer close(enough)
			d.watch(ctx, func(list []api.Drop) error {
				text := fmt.Sprint(len(list))
				if len(list) > 0 {
					text += fmt.Sprintf(" from %d", list[0].Length)
				}
				if got = append(got, text); len(got) == 4 {
					return errors.New("nobody reads any more")
				}
				return nil
			})
		}()
		synctest.Wait()
		d.add(api.Drop{Length: 1})
		synctest.Wait()
		d.add(api.Drop{Length: 2}) // these come together
		d.add(api.Drop{Length: 3})
		time.Sleep(2 * dropsEvery)
		synctest.Wait()
		<-enough
		want := "[1 from 1 2 from 2 0 0]"
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	})
}
