package plugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/plugin"
)

// maxWrites is more than any of these programs does.
const maxWrites = 50

// arm makes a crash build die after its nth write.
func arm(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "arm")
	if err := os.WriteFile(path, fmt.Appendln(nil, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return "WEFT_CRASH_ARM=" + path
}

// A plugin killed after any write of DEL leaves no half tombstone, and the runtime's
// next DEL leaves a whole one.
func TestDelKilledAfterEachWrite(t *testing.T) {
	for n := 1; ; n++ {
		if n > maxWrites {
			t.Fatal("DEL never ended by itself")
		}
		d := noDaemon(t)
		a := cniBinary(t, "weft-cni-crash", "DEL", d.conf("1.1.0"), arm(t, n))
		paths, err := filepath.Glob(filepath.Join(d.state, api.TombstoneDir, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if b, err := os.ReadFile(path); err != nil || !json.Valid(b) {
				t.Errorf("killed after write %d: %s is %q, %v", n, path, b, err)
			}
		}
		if a.exit == 0 {
			if n == 1 {
				t.Error("DEL has no kill point")
			}
			return
		}
		cni(t, "DEL", d.conf("1.1.0")).wantOK(t)
		d.tombstone(t)
	}
}

// An installer killed after any write leaves each file as it was or as it should be.
func TestInstallKilledAfterEachWrite(t *testing.T) {
	for _, upgrade := range []bool{false, true} {
		t.Run(fmt.Sprintf("upgrade=%v", upgrade), func(t *testing.T) {
			for n := 1; !killedInstall(t, n, upgrade); n++ {
				if n > maxWrites {
					t.Fatal("Install never ended by itself")
				}
			}
		})
	}
}

// killedInstall checks one kill and reports whether Install ended before it.
func killedInstall(t *testing.T, n int, upgrade bool) bool {
	o := options(t)
	o.Socket = ""
	bin, conf := installed(o)
	binaries, conflists := [][]byte{nil, read(t, o.Binary)}, [][]byte{nil}
	if upgrade {
		old := o
		old.Binary, old.Socket = filepath.Join(binDir, "weft-cni-crash"), "/old"
		mustInstall(t, old)
		binaries[0], conflists[0] = read(t, bin), read(t, conf)
	}
	// The installer that is killed knows of no socket.
	want, err := plugin.Conflist(plugin.InstallOptions{StateDir: o.StateDir})
	if err != nil {
		t.Fatal(err)
	}
	conflists = append(conflists, want)
	cmd := exec.Command(filepath.Join(binDir, "installer-crash"), o.Binary, o.BinDir, o.ConfDir, o.StateDir)
	cmd.Env = []string{arm(t, n)}
	out, err := cmd.CombinedOutput()
	killed := err != nil
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); killed && (!ok || status.Signal() != syscall.SIGKILL) {
		t.Fatalf("installer: %v\n%s", err, out)
	}
	for path, allowed := range map[string][][]byte{bin: binaries, conf: conflists} {
		if got := read(t, path); !bytes.Equal(got, allowed[0]) && !bytes.Equal(got, allowed[1]) {
			t.Errorf("killed after write %d: %s has %d bytes, neither old nor new", n, path, len(got))
		}
	}
	if read(t, conf) != nil && read(t, bin) == nil {
		t.Errorf("killed after write %d: conflist is there before the binary", n)
	}
	mustInstall(t, o)
	for path := range files(t, filepath.Dir(o.StateDir)) {
		if strings.Contains(path, ".weft-tmp-") {
			t.Errorf("killed after write %d: %s is left after another Install", n, path)
		}
	}
	return !killed
}

// read returns a file's content, nil if it is not there.
func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return b
}
