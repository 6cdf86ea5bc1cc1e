package daemon

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weftnet/weft/internal/testnet"
)

// get asks the daemon's health port, in the machine's namespace.
func (m *machine) get(path string) (answer string, err error) {
	err = m.Do(func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.cfg.HealthPort))
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
		b, err := io.ReadAll(conn)
		answer = string(b)
		return err
	})
	return answer, err
}

// A node that waits lives; it is ready once pods can be attached and the runtime knows
// of us, and no longer when that ends.
func TestHealthPortTellsLifeFromReadiness(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.cfg.HealthPort = 9088
	answers := func(path, status, text string) {
		t.Helper()
		testnet.Until(t, converge, func() error {
			got, err := a.get(path)
			if err == nil && (!strings.Contains(got, " "+status+" ") || !strings.Contains(got, text)) {
				err = fmt.Errorf("GET %s: got %q, want status %s and %q", path, got, status, text)
			}
			return err
		})
	}
	a.start()
	answers(pathLive, "200", "ok")
	answers(pathReady, "503", "add it, or set node-name")
	a.usual()
	answers(pathReady, "200", "ok")
	if _, err := os.Stat(filepath.Join(a.cfg.ConfDir, "05-weft.conflist")); err != nil {
		t.Errorf("the node is ready, and the runtime does not know of it: %v", err)
	}

	testnet.Until(t, converge, func() error { // what is put back meanwhile hinders it
		if err := os.RemoveAll(a.cfg.ConfDir); err != nil {
			return err
		}
		return os.WriteFile(a.cfg.ConfDir, nil, 0o644) // where a folder should be
	})
	answers(pathReady, "503", "not written yet")
	answers(pathLive, "200", "ok")
	l.must(os.Remove(a.cfg.ConfDir))
	answers(pathReady, "200", "ok")
	a.stop(syscall.SIGTERM)
	if got, err := a.get(pathReady); err == nil {
		t.Errorf("after the daemon's end: %q", got)
	}
}
