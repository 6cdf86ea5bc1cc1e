package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/plugin"
)

// options install into new folders, which are not there yet.
func options(t *testing.T) plugin.InstallOptions {
	t.Helper()
	root := t.TempDir()
	return plugin.InstallOptions{
		Binary: filepath.Join(binDir, "weft-cni"), BinDir: filepath.Join(root, "opt/cni/bin"), ConfDir: filepath.Join(root, "etc/cni/net.d"),
		Socket: filepath.Join(root, "s"), StateDir: filepath.Join(root, "state"),
	}
}

func mustInstall(t *testing.T, o plugin.InstallOptions) {
	t.Helper()
	if err := plugin.Install(o); err != nil {
		t.Fatal(err)
	}
}

func installed(o plugin.InstallOptions) (bin, conf string) {
	return filepath.Join(o.BinDir, "weft-cni"), filepath.Join(o.ConfDir, "05-weft.conflist")
}

// files lists the files below a folder with mode and size.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.Walk(root, func(path string, fi os.FileInfo, err error) error {
		if err == nil {
			found[strings.TrimPrefix(path, root)] = fi.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestInstallAndUninstallLeaveNoTrace(t *testing.T) {
	o := options(t)
	root := filepath.Dir(o.StateDir)
	foreign := filepath.Join(root, "opt/cni/bin/bridge")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := files(t, root)
	mustInstall(t, o)
	bin, conf := installed(o)
	got := files(t, root)
	if got[strings.TrimPrefix(bin, root)] != "-rwxr-xr-x" || got[strings.TrimPrefix(conf, root)] != "-rw-r--r--" {
		t.Errorf("installed: %v", got)
	}
	// What an installer that was killed left goes, too.
	if err := os.WriteFile(filepath.Join(o.ConfDir, ".weft-tmp-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := plugin.Uninstall(o); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(o.StateDir); err != nil { // the daemon's to remove, and empty
		t.Error(err)
	}
	if diff := cmp.Diff(files(t, root), before); diff != "" {
		t.Errorf("after uninstall (-), before (+):\n%s", diff)
	}
}

func TestInstallWritesOnlyWhatDiffers(t *testing.T) {
	o := options(t)
	mustInstall(t, o)
	bin, conf := installed(o)
	stat := func(path string) os.FileInfo {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	b, c := stat(bin), stat(conf)
	mustInstall(t, o)
	if !os.SameFile(b, stat(bin)) || !os.SameFile(c, stat(conf)) {
		t.Error("a second Install replaced files that were well")
	}
	if err := os.Chmod(bin, 0o644); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, o)
	if got := stat(bin).Mode(); got != 0o755 {
		t.Errorf("mode of the binary is %v", got)
	}
}

// A binary that is being executed cannot be written to, only be replaced.
func TestInstallReplacesARunningBinary(t *testing.T) {
	o := options(t)
	mustInstall(t, o)
	bin, _ := installed(o)
	run := exec.Command(bin)
	run.Env = []string{"CNI_COMMAND=STATUS", "CNI_PATH=/"}
	stdin, err := run.StdinPipe() // it waits for its configuration
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	o.Binary = filepath.Join(binDir, "weft-cni-crash") // another one
	mustInstall(t, o)
	stdin.Close()
	var exit *exec.ExitError
	if err := run.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("running plugin ended with %v, want exit code 1 for its empty input", err)
	}
}

func TestInstallErrorsNameTheFile(t *testing.T) {
	o := options(t)
	o.Binary = "/no/such/weft-cni"
	if err := plugin.Install(o); err == nil || !strings.Contains(err.Error(), o.Binary) {
		t.Errorf("no source: %v", err)
	}
	o = options(t)
	o.ConfDir = "/proc/sys/weft" // nobody makes a folder there
	if err := plugin.Install(o); err == nil || !strings.Contains(err.Error(), o.ConfDir) {
		t.Errorf("folder cannot be made: %v", err)
	}
}

func TestConflist(t *testing.T) {
	o := plugin.InstallOptions{Socket: "/run/weft/weftd.sock", StateDir: "/var/lib/weft"}
	b, err := plugin.Conflist(o)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal([]byte(`{"cniVersion":"1.1.0","cniVersions":["0.3.1","0.4.0","1.0.0","1.1.0"],"name":"weft","plugins":[
		{"type":"weft-cni","capabilities":{"ips":true,"mac":true,"portMappings":true,"bandwidth":true,"dns":true}}]}`), &want)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got (-), want (+):\n%s", diff)
	}
}

// What Install writes serves every verb through libcni, as a runtime calls it.
func TestLibcni(t *testing.T) {
	d := startDaemon(t)
	o := options(t)
	o.Socket, o.StateDir = d.socket, d.state
	mustInstall(t, o)
	_, path := installed(o)
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	net := libcni.NewCNIConfigWithCacheDir([]string{o.BinDir}, t.TempDir(), nil)
	rt := &libcni.RuntimeConf{
		ContainerID: "c1", NetNS: "/no/such/netns", IfName: "eth0",
		Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "p"}},
		CapabilityArgs: map[string]any{"mac": "02:00:00:00:00:05", "cgroupPath": "/x"},
	}
	result, err := net.AddNetworkList(ctx, list, rt)
	if err != nil {
		t.Fatal(err)
	}
	if a := d.attach(t); result.Version() != "1.1.0" || a.PodName != "p" || a.MAC != "02:00:00:00:00:05" || a.Network != "weft" {
		t.Errorf("result of version %s; daemon got %+v", result.Version(), a)
	}
	for _, step := range []struct {
		verb string
		do   func() error
	}{
		{"CHECK", func() error { return net.CheckNetworkList(ctx, list, rt) }},
		{"STATUS", func() error { return net.GetStatusNetworkList(ctx, list) }},
		{"DEL", func() error { return net.DelNetworkList(ctx, list, rt) }},
		{"GC", func() error { return net.GCNetworkList(ctx, list, &libcni.GCArgs{}) }},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.verb, err)
		}
		if last := d.calls[len(d.calls)-1]; last != step.verb {
			t.Errorf("%s: daemon's last call is %s", step.verb, last)
		}
	}
}

// Whatever moment a folder vanishes in, also while it is put back.
func TestWatchPutsBackWhatVanishesAtAnyMoment(t *testing.T) {
	o := options(t)
	_, conf := installed(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		plugin.Watch(ctx, o, slog.New(slog.DiscardHandler), nil)
	}()
	t.Cleanup(func() { cancel(); <-done })
	aside := filepath.Join(t.TempDir(), "x")
	for i := range 16 {
		for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			if _, err := os.Stat(conf); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("time %d: not put back in 10 s", i)
			}
		}
		for moment := time.Now().Add(time.Duration(i%8) * time.Millisecond / 2); time.Now().Before(moment); {
			runtime.Gosched()
		}
		if err := os.Rename(o.ConfDir, aside); err != nil {
			t.Fatal(err)
		}
		// What was begun in the folder may be written yet, and hinders its removal.
		testnet.Until(t, 20*time.Second, func() error { return os.RemoveAll(aside) })
	}
}

func TestWatchPutsBack(t *testing.T) {
	o := options(t)
	bin, conf := installed(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	problems := make(chan error, 16)
	go func() {
		defer close(done)
		plugin.Watch(ctx, o, slog.New(slog.DiscardHandler), func(err error) { problems <- err })
	}()
	t.Cleanup(func() { cancel(); <-done })
	want, err := plugin.Conflist(o)
	if err != nil {
		t.Fatal(err)
	}
	well := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			got, _ := os.ReadFile(conf)
			fi, err := os.Stat(bin)
			if string(got) == string(want) && err == nil && fi.Mode() == 0o755 && fi.Size() > 1<<20 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not put back in 10 s", what)
			}
		}
	}
	well("at start")
	root := filepath.Dir(o.StateDir)
	for what, damage := range map[string]func() error{
		"conflist removed":    func() error { return os.Remove(conf) },
		"conflist cut":        func() error { return os.Truncate(conf, 10) },
		"binary removed":      func() error { return os.Remove(bin) },
		"binary cut":          func() error { return os.Truncate(bin, 100) },
		"mode changed":        func() error { return os.Chmod(bin, 0o600) },
		"bin folder removed":  func() error { return os.RemoveAll(o.BinDir) },
		"conf folder removed": func() error { return os.RemoveAll(o.ConfDir) },
		"all removed":         func() error { return errors.Join(os.RemoveAll(root+"/opt"), os.RemoveAll(root+"/etc")) },
		"folder moved away":   func() error { return os.Rename(o.ConfDir, filepath.Join(t.TempDir(), "x")) },
	} {
		for deadline := time.Now().Add(20 * time.Second); ; { // what is put back meanwhile hinders a removal
			err := damage()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		well(what)
	}
	// A folder that cannot be made is a problem until it can.
	hindered := func() bool { // Watch may be quicker
		return errors.Join(os.RemoveAll(root+"/etc"), os.WriteFile(root+"/etc", nil, 0o600)) == nil
	}
	for deadline := time.Now().Add(20 * time.Second); !hindered(); {
		if time.Now().After(deadline) {
			t.Fatal("no file could be put in the folder's place in 20 s")
		}
	}
	next := func() error {
		t.Helper()
		select {
		case err := <-problems:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("no report in 20 s")
			return nil
		}
	}
	if err := next(); err == nil {
		t.Error("report of a folder that cannot be made is nil")
	}
	if err := os.Remove(root + "/etc"); err != nil {
		t.Fatal(err)
	}
	if err := next(); err != nil {
		t.Errorf("report after it could be made: %v", err)
	}
	well("after the hindrance")
}
