package plugin_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/plugin"
)

func chain(t *testing.T, text string) []plugin.Chained {
	t.Helper()
	c, err := plugin.ParseChain(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Plugins of a chain stand after ours as they were given, and have what they ask for to
// themselves, if one can have it only.
func TestConflistWithAChain(t *testing.T) {
	for name, tt := range map[string]struct{ chain, capabilities string }{
		"asks for nothing":    {`[{"type":"tuning","sysctl":{"a":"1"},"conf":"c"}]`, `{"ips":true,"mac":true,"portMappings":true,"bandwidth":true,"dns":true}`},
		"asks for the same":   {`[{"type":"tuning","capabilities":{"mac":true,"ips":true}}]`, `{"ips":true,"mac":true,"portMappings":true,"bandwidth":true,"dns":true}`},
		"asks for host ports": {`[{"type":"portmap","capabilities":{"portMappings":true}}]`, `{"ips":true,"mac":true,"bandwidth":true,"dns":true}`},
		"two": {`[{"type":"bandwidth","capabilities":{"bandwidth":true}},{"type":"portmap","snat":true,"capabilities":{"portMappings":true}}]`,
			`{"ips":true,"mac":true,"dns":true}`},
		"does not ask": {`[{"type":"portmap","capabilities":{"portMappings":false}}]`, `{"ips":true,"mac":true,"portMappings":true,"bandwidth":true,"dns":true}`},
	} {
		b, err := plugin.Conflist(plugin.InstallOptions{Socket: "/run/weft/weftd.sock", StateDir: "/var/lib/weft", Chain: chain(t, tt.chain)})
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Plugins []any }
		var want []any
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		all := `[{"type":"weft-cni","capabilities":` + tt.capabilities + `},` + tt.chain[1:]
		if err := json.Unmarshal([]byte(all), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got.Plugins, want); diff != "" {
			t.Errorf("%s: got (-), want (+):\n%s", name, diff)
		}
	}
}

// A conflist that names a binary that is not there would fail every pod.
func TestConflistWaitsForTheBinariesOfTheChain(t *testing.T) {
	o := options(t)
	o.Chain = chain(t, `[{"type":"tuning"}]`)
	bin, conf := installed(o)
	if err := plugin.Install(o); err == nil || !strings.Contains(err.Error(), filepath.Join(o.BinDir, "tuning")) {
		t.Errorf("without the binary: %v", err)
	}
	if _, err := os.Stat(conf); err == nil {
		t.Error("the conflist is there before what it names")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(bin), "tuning"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, o)
	if b, err := os.ReadFile(conf); err != nil || !strings.Contains(string(b), `"tuning"`) {
		t.Errorf("with the binary: %v, %s", err, b)
	}
}

// A binary of the chain is not ours to put back, but it is ours to miss it.
func TestWatchReportsWhatIsMissingOfTheChain(t *testing.T) {
	o := options(t)
	o.Chain = chain(t, `[{"type":"tuning"}]`)
	chained := filepath.Join(o.BinDir, "tuning")
	put := func() {
		t.Helper()
		if err := os.WriteFile(chained, []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(o.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	put()
	ctx, cancel := context.WithCancel(t.Context())
	done, problems := make(chan struct{}), make(chan error, 16)
	go func() {
		defer close(done)
		plugin.Watch(ctx, o, slog.New(slog.DiscardHandler), func(err error) { problems <- err })
	}()
	defer func() { cancel(); <-done }()
	_, conf := installed(o)
	testnet.Until(t, 20*time.Second, func() error {
		_, err := os.Stat(conf)
		return err
	})
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
	for range 2 {
		if err := os.Remove(chained); err != nil {
			t.Fatal(err)
		}
		if err := next(); err == nil || !strings.Contains(err.Error(), chained) {
			t.Errorf("report of what is missing: %v", err)
		}
		put()
		if err := next(); err != nil {
			t.Errorf("report after it came back: %v", err)
		}
	}
}
