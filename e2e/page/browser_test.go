package page

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

// program is Debian's Chromium without windows: the same engine, and fewer packages.
const program = "chromium-headless-shell"

// patience bounds what has no limit of its own: the machine may be busy.
const patience = 30 * time.Second

// browser is a Chromium with one tab. It is spoken to by the DevTools protocol
// (chromedevtools.github.io/devtools-protocol) over a pair of pipes: --remote-debugging-pipe
// reads JSON, ended by a zero byte, from file 3 and writes it to file 4.
type browser struct {
	t       *testing.T
	to      *os.File
	session string // of the tab
	gone    chan struct{}

	mu      sync.Mutex
	last    int
	waiting map[int]chan message
	wrong   []string // what the page's console has to complain of
}

type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// open starts a browser in a network namespace, until the test ends. Nothing but that
// namespace can be reached from it.
func open(t *testing.T, ns *testnet.NS) *browser {
	t.Helper()
	testnet.Require(t, program)
	in, to, err := os.Pipe()
	must(t, err)
	from, out, err := os.Pipe()
	must(t, err)
	dir := t.TempDir()
	cmd := exec.Command(program, "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
		"--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--user-data-dir="+dir, "--window-size=1100,800", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	cmd.ExtraFiles = []*os.File{in, out}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, ns.Start(cmd))
	in.Close()
	out.Close()
	b := &browser{t: t, to: to, gone: make(chan struct{}), waiting: map[int]chan message{}}
	go b.read(from)
	t.Cleanup(func() {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
		<-b.gone
		to.Close()
		log.Close()
		if err != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("end of the browser: %v; its log:\n%s", err, text)
		}
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Runtime", "Log", "Page"} {
		b.call(domain+".enable", nil, nil)
	}
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 1100, "height": 640, "deviceScaleFactor": 1, "mobile": false}, nil)
	return b
}

// read takes what the browser says until it ends.
func (b *browser) read(from *os.File) {
	defer close(b.gone)
	defer from.Close()
	r := bufio.NewReader(from)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if err := json.Unmarshal(text[:len(text)-1], &m); err != nil {
			b.complain("not JSON: " + string(text))
			continue
		}
		if m.ID != 0 {
			b.mu.Lock()
			answer := b.waiting[m.ID]
			delete(b.waiting, m.ID)
			b.mu.Unlock()
			answer <- m
			continue
		}
		switch m.Method {
		case "Runtime.exceptionThrown":
			b.complain(string(m.Params))
		case "Log.entryAdded":
			var p struct {
				Entry struct{ Level, Text, URL string }
			}
			// That a daemon does not answer is not the page's fault.
			if json.Unmarshal(m.Params, &p) == nil && p.Entry.Level == "error" && !strings.Contains(p.Entry.URL, "/api/") {
				b.complain(p.Entry.Text + " " + p.Entry.URL)
			}
		}
	}
}

func (b *browser) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, text)
}

// complaints returns and forgets what was wrong: exceptions, violations of the page's
// policy, files that could not be loaded.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.wrong
	b.wrong = nil
	return all
}

// call calls a method and ends the test if it fails.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.last++
	id := b.last
	answer := make(chan message, 1)
	b.waiting[id] = answer
	b.mu.Unlock()
	text, err := json.Marshal(map[string]any{"id": id, "method": method, "params": params, "sessionId": b.session})
	if b.session == "" {
		text, err = json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	}
	must(b.t, err)
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			must(b.t, json.Unmarshal(m.Result, result))
		}
	case <-b.gone:
		b.t.Fatalf("%s: the browser has ended", method)
	case <-time.After(patience):
		b.t.Fatalf("%s: no answer within %s", method, patience)
	}
}

// eval is the value of an expression in the page.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails.Exception.Description)
	}
	var v T
	if err := json.Unmarshal(r.Result.Value, &v); err != nil {
		b.t.Fatalf("%s: value %s: %v", expression, r.Result.Value, err)
	}
	return v
}

// holds says whether an expression is true; one that fails is not: what it looks for may not
// be there yet.
func (b *browser) holds(expression string) bool {
	b.t.Helper()
	return eval[bool](b, "(() => { try { return !!("+expression+"); } catch { return false; } })()")
}

// sees waits until an expression is true.
func (b *browser) sees(what, expression string) {
	b.t.Helper()
	testnet.Until(b.t, patience, func() error {
		if b.holds(expression) {
			return nil
		}
		return fmt.Errorf("the page does not show %s: %s; it shows:\n%s", what, expression, eval[string](b, "document.body?.innerText ?? ''"))
	})
}

// click presses the mouse on what a selector finds, again until the expression is true: what
// is shown may move under the mouse.
func (b *browser) click(selector, until string) {
	b.t.Helper()
	testnet.Until(b.t, patience, func() error {
		if b.holds(until) {
			return nil
		}
		at := eval[[]float64](b, fmt.Sprintf(`(() => { const e = document.querySelector(%q); if (!e) return [];
			e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect(); return [r.x + r.width/2, r.y + r.height/2]; })()`, selector))
		if len(at) == 0 {
			return fmt.Errorf("there is no %s", selector)
		}
		for _, kind := range []string{"mouseMoved", "mousePressed", "mouseReleased"} {
			b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1}, nil)
		}
		if b.holds(until) {
			return nil
		}
		return errors.New("clicked on " + selector + ", and not yet: " + until)
	})
}

// press presses a key that makes no letter.
func (b *browser) press(key string) {
	b.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13}
	text := map[string]string{"Enter": "\r"}[key]
	for _, kind := range []string{"keyDown", "keyUp"} {
		p := map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
		if kind == "keyDown" && text != "" {
			p["text"] = text
		}
		b.call("Input.dispatchKeyEvent", p, nil)
	}
}

// screenshot writes what is seen as a PNG.
func (b *browser) screenshot(path string) {
	b.t.Helper()
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	must(b.t, err)
	must(b.t, os.WriteFile(path, png, 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
