package engine

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// kernel is a folder like /proc/sys.
func kernel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range sharedSysctls {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		set(t, dir, name, "1")
	}
	return dir
}

func set(t *testing.T, dir, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, when, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got)) != want {
		t.Errorf("%s: %s is %s, want %s", when, name, got, want)
	}
}

func mustEnter(t *testing.T, dir, sysctls string) *machine {
	t.Helper()
	m, err := enter(dir, sysctls)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEnginesThatComeAndGoTogetherLeaveNothing(t *testing.T) {
	dir, sys := filepath.Join(t.TempDir(), "run"), kernel(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				m, err := enter(dir, sys)
				if err != nil {
					t.Error(err)
					return
				}
				if err := m.leave(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	last := mustEnter(t, dir, sys) // takes over what two left that left at the same time
	if err := last.leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, "after all", sys, inotify, "1")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestTheLastEnginePutsTheMachinesSettingsBack(t *testing.T) {
	dir, sys := filepath.Join(t.TempDir(), "run"), kernel(t)
	first := mustEnter(t, dir, sys)
	expect(t, "with an engine", sys, inotify, "1024")
	set(t, sys, "kernel/panic", "10") // a kubelet
	second := mustEnter(t, dir, sys)
	if err := first.leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, "with the second engine", sys, "kernel/panic", "10")
	if err := second.leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, "after the last", sys, "kernel/panic", "1")
	expect(t, "after the last", sys, inotify, "1")
	third := mustEnter(t, dir, sys) // and nothing is left that confuses the next
	set(t, sys, "vm/panic_on_oom", "2")
	if err := third.leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, "after the third", sys, "vm/panic_on_oom", "1")
}

func TestTheNextEnginePutsBackWhatAKilledOneChanged(t *testing.T) {
	dir, sys := filepath.Join(t.TempDir(), "run"), kernel(t)
	killed := mustEnter(t, dir, sys)
	set(t, sys, "kernel/panic", "10")
	if err := killed.lock.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	next := mustEnter(t, dir, sys)
	expect(t, "with the next engine", sys, "kernel/panic", "1")
	if err := next.leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, "after it", sys, "kernel/panic", "1")
}
