package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/api/server"
)

// binDir holds the built weft-cni.
var binDir string

// envHang makes the test program a daemon that hangs, at that socket.
const envHang = "WEFT_TEST_HANG"

func TestMain(m *testing.M) {
	if socket := os.Getenv(envHang); socket != "" {
		if _, err := net.Listen("unix", socket); err != nil {
			panic(err)
		}
		fmt.Println("listening")
		time.Sleep(time.Hour) // its maker ends it before
	}
	os.Exit(func() int {
		var err error
		if binDir, err = os.MkdirTemp("", "weft-cni-test-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(binDir)
		for name, what := range map[string][2]string{
			"weft-cni":        {"", "../cmd/weft-cni"},
			"weft-cni-crash":  {"weft_crash", "../cmd/weft-cni"},
			"installer-crash": {"weft_crash", "./testdata/installer"},
		} {
			build := exec.Command("go", "build", "-tags", what[0], "-o", filepath.Join(binDir, name), what[1])
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build weft-cni: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// daemon is a fake one: it notes what it is asked, and answers as told.
type daemon struct {
	socket, state string

	mu    sync.Mutex
	calls []string
	last  any
	err   error
	hold  chan struct{} // verbs wait for it, if set
}

const daemonsResult = `{"cniVersion":"1.1.0",
 "interfaces":[{"name":"weft0","mac":"02:00:00:00:00:02","mtu":1450},{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1450,"sandbox":"/x"}],
 "ips":[{"address":"10.244.1.2/32","gateway":"10.244.1.1","interface":1},{"address":"fd00:244:1::2/128","gateway":"fd00:244:1::1","interface":1}],
 "routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.1","mtu":1450},{"dst":"::/0","gw":"fd00:244:1::1","mtu":1450}],
 "dns":{"nameservers":["10.96.0.10"]}}`

func (d *daemon) note(verb string, what any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.last = append(d.calls, verb), what
	return d.err
}

func (d *daemon) wait(ctx context.Context) {
	if d.hold != nil {
		select {
		case <-d.hold:
		case <-ctx.Done():
		}
	}
}

func (d *daemon) Add(ctx context.Context, a api.Attach) (*types100.Result, error) {
	d.wait(ctx)
	var r types100.Result
	if err := json.Unmarshal([]byte(daemonsResult), &r); err != nil {
		return nil, err
	}
	return &r, d.note("ADD", a)
}

func (d *daemon) Del(ctx context.Context, a api.Attach) error {
	d.wait(ctx)
	return d.note("DEL", a)
}
func (d *daemon) Check(_ context.Context, a api.Attach) error { return d.note("CHECK", a) }
func (d *daemon) GC(_ context.Context, g api.GC) error        { return d.note("GC", g) }
func (d *daemon) Status() error {
	d.wait(context.Background())
	return d.note("STATUS", nil)
}

func (d *daemon) attach(t *testing.T) api.Attach {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.last.(api.Attach)
	if !ok {
		t.Fatalf("daemon got %#v, want an Attach", d.last)
	}
	return a
}

// noDaemon is a node whose daemon does not run.
func noDaemon(t *testing.T) *daemon {
	t.Helper()
	dir := t.TempDir()
	return &daemon{socket: filepath.Join(dir, "s"), state: filepath.Join(dir, "state")}
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	d := noDaemon(t)
	listen(t, d.socket, server.Handler(d, noInfo{}, nil))
	return d
}

func listen(t *testing.T, socket string, h http.Handler) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
}

// hang makes a process that takes connections and never answers.
func hang(t *testing.T, socket string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envHang+"="+socket)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
}

// conf is a network configuration with the daemon's paths; each of more is a member.
func (d *daemon) conf(version string, more ...string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"weft","type":"weft-cni","socket":%q,"stateDir":%q%s}`,
		version, d.socket, d.state, strings.Join(append([]string{""}, more...), ","))
}

// answer is what a call of the plugin gave.
type answer struct {
	exit           int
	stdout, stderr string
	took           time.Duration
	err            api.Error // decoded from stdout if exit != 0
	version        string    // cniVersion on stdout
}

// cni calls the built plugin. env overrides the usual one; "NAME=" unsets.
func cni(t *testing.T, verb, stdin string, env ...string) answer {
	t.Helper()
	return cniBinary(t, "weft-cni", verb, stdin, env...)
}

func cniBinary(t *testing.T, binary, verb, stdin string, env ...string) answer {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, binary))
	cmd.Env = append([]string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=/no/such/netns", "CNI_IFNAME=eth0", "CNI_PATH=" + binDir,
	}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	err := cmd.Run()
	a := answer{took: time.Since(begin), exit: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if a.stdout != "" {
		var v struct {
			CNIVersion string `json:"cniVersion"`
		}
		if err := json.Unmarshal(out.Bytes(), &v); err != nil {
			t.Errorf("%s: stdout is not one JSON value: %v\n%s", verb, err, a.stdout)
		}
		a.version = v.CNIVersion
	}
	if a.exit != 0 && a.stdout != "" {
		if err := json.Unmarshal(out.Bytes(), &a.err); err != nil {
			t.Errorf("%s: stdout is not an error: %v\n%s", verb, err, a.stdout)
		}
	}
	return a
}

// wantCode checks the error's code and that its text names something.
func (a answer) wantCode(t *testing.T, code uint, text string) {
	t.Helper()
	if a.exit == 0 || a.err.Code != code || !strings.Contains(a.err.Error(), text) || a.version == "" {
		t.Errorf("exit %d, error %d %q (cniVersion %q); want code %d with %q; stderr %q",
			a.exit, a.err.Code, a.err.Error(), a.version, code, text, a.stderr)
	}
}

func (a answer) wantOK(t *testing.T) {
	t.Helper()
	if a.exit != 0 {
		t.Errorf("exit %d, stdout %s, stderr %s; want success", a.exit, a.stdout, a.stderr)
	}
}

// noInfo is an Info that is not asked.
type noInfo struct{ server.Info }
