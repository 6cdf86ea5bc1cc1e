//go:build weft_crash

package crash

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A test may disarm at any moment, also between the look at the file and the hold.
func TestHoldEndsWhenItIsDisarmed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arm")
	returns := func(f func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { f(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("it holds on")
		}
		if _, err := os.Stat(path + ".held"); err == nil {
			t.Error("it says that it holds")
		}
	}
	returns(func() { wait(path, []byte("1 hold 1")) }) // disarmed before
	if err := os.WriteFile(path, []byte("1 hold 2"), 0o600); err != nil {
		t.Fatal(err)
	}
	returns(func() { wait(path, []byte("1 hold 1")) }) // and armed again
	returns(func() {
		go func() {
			for {
				if b, err := os.ReadFile(path + ".held"); err == nil && string(b) == "1 hold 2" {
					_ = os.Remove(path)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		wait(path, []byte("1 hold 2"))
	})
}

// Who holds the lock sees no write that has looked at the file and is not yet told.
func TestNoWriteIsMadeBehindTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arm")
	t.Setenv(EnvArm, path)
	unlock := lock(path)
	if err := os.WriteFile(path, []byte("0 die 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { Point("one"); close(done) }()
	time.Sleep(50 * time.Millisecond)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	unlock()
	<-done
	if _, err := os.Stat(path + ".log"); err == nil {
		t.Error("it went by a file that was removed under the lock")
	}
}
