package e2e

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// writtenMaps are the maps of which the daemon alone writes the rows, and of whose changes
// nobody tells it.
var writtenMaps = slices.Concat(serviceMaps, []string{"peers", "nodes", "classes", "rules", "announced", "places", "own"})

// isArray says whether rows of a map are neither made nor deleted.
func isArray(m *ebpf.Map) bool { return m.Type() == ebpf.Array }

// writtenRows is their rows, of arrays those that are not zero, as text.
func writtenRows(n *cluster.Node) (string, error) {
	var lines []string
	for _, name := range writtenMaps {
		err := eachRow(n, name, func(k, v []byte, _ uint32) {
			if name == "frontends" {
				clear(v[:8]) // the programs count there
			}
			if (name == "places" || name == "own") && len(bytes.Trim(v, "\x00")) == 0 {
				return
			}
			lines = append(lines, fmt.Sprintf("%s %x: %x", name, k, v))
		})
		if err != nil {
			return "", err
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// eachWritten opens each of these maps, and gives f rows of it.
func eachWritten(t *testing.T, n *cluster.Node, rows string, f func(m *ebpf.Map, name string, keys, values [][]byte) error) {
	t.Helper()
	for _, name := range writtenMaps {
		var keys, values [][]byte
		for line := range strings.Lines(rows) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && strings.HasPrefix(k, name+" ") {
				key, _ := hex.DecodeString(strings.TrimPrefix(k, name+" "))
				value, _ := hex.DecodeString(v)
				keys, values = append(keys, key), append(values, value)
			}
		}
		if len(keys) == 0 {
			t.Fatalf("map %s has no rows", name)
		}
		m, err := openMap(n, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f(m, name, keys, values), m.Close()); err != nil {
			t.Fatalf("map %s: %v", name, err)
		}
	}
}

// P6: whatever is done to rows of maps that are ours, each has them as before within ten
// seconds.
func TestDriftOfMapsIsRepaired(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	n := c.Nodes[0]
	ranged := strings.Replace(lbService(1, "web", "Cluster"), "spec:\n", "spec:\n  loadBalancerSourceRanges: [0.0.0.0/0, '::/0']\n", 1)
	if err := c.WriteObject("web", backends(t, c.Nodes...)+ranged); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteObject("policies", restartPolicies); err != nil {
		t.Fatal(err)
	}
	server, friend := shopPod(t, c, n, "server"), shopPod(t, c, c.Nodes[1], "friend")
	if _, err := traffic.Serve(server.NS, netip.AddrPortFrom(server.IP4, 8080)); err != nil {
		t.Fatal(err)
	}
	announcers(t, 1, c.Nodes...)
	works := func() error {
		_, err := traffic.Ask(friend.NS, netip.AddrPortFrom(server.IP4, 8080), time.Second)
		return errors.Join(err, answered(c, lbAddrs(1)[0]))
	}
	testnet.Until(t, 10*time.Second, works)
	before, err := writtenRows(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []struct {
		name string
		harm func(m *ebpf.Map, name string, keys, values [][]byte) error
	}{
		{"a row of each deleted", func(m *ebpf.Map, name string, keys, values [][]byte) error {
			i := rand.IntN(len(keys))
			if isArray(m) {
				return m.Put(keys[i], make([]byte, len(values[i])))
			}
			return m.Delete(keys[i])
		}},
		{"a row of each changed", func(m *ebpf.Map, name string, keys, values [][]byte) error {
			i := rand.IntN(len(keys))
			value := bytes.Clone(values[i])
			if name == "places" {
				clear(value) // a bit more is none of ours to take back
			} else {
				value[len(value)-1] ^= 1
			}
			return m.Put(keys[i], value)
		}},
		{"a row more in each", func(m *ebpf.Map, name string, keys, values [][]byte) error {
			if isArray(m) {
				return nil
			}
			key := bytes.Clone(keys[0])
			key[len(key)-1] ^= 0x80
			if m.Type() == ebpf.LPMTrie {
				key[0] = byte(8 * (len(key) - 4)) // the longest prefix
			}
			return m.Put(key, values[0])
		}},
		{"all rows deleted", func(m *ebpf.Map, name string, keys, values [][]byte) error {
			var errs []error
			for i, k := range keys {
				if isArray(m) {
					errs = append(errs, m.Put(k, make([]byte, len(values[i]))))
				} else {
					errs = append(errs, m.Delete(k))
				}
			}
			return errors.Join(errs...)
		}},
	} {
		eachWritten(t, n, before, h.harm)
		harmed, err := writtenRows(n)
		if err != nil || harmed == before {
			t.Fatalf("%s: %v, and nothing is another", h.name, err)
		}
		begin := time.Now()
		testnet.Until(t, 10*time.Second, func() error {
			now, err := writtenRows(n)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(lines(before), lines(now)); diff != "" {
				return fmt.Errorf("%s: not as before (-), but (+):\n%s", h.name, diff)
			}
			return nil
		})
		t.Logf("%s: repaired within %s", h.name, time.Since(begin).Round(time.Millisecond))
		testnet.Until(t, 10*time.Second, works)
	}

	// Rows of policies that nobody wants go also where there are no policies.
	if err := os.Remove(filepath.Join(c.Source, "policies.yaml")); err != nil {
		t.Fatal(err)
	}
	ofPolicies := func() (rows int, err error) {
		for _, name := range []string{"rules", "classes"} {
			n, nErr := mapRows(n, name)
			rows, err = rows+n, errors.Join(err, nErr)
		}
		return rows, err
	}
	none := func() error {
		if rows, err := ofPolicies(); rows > 0 || err != nil {
			return fmt.Errorf("rows without policies: %d, %v", rows, err)
		}
		return nil
	}
	testnet.Until(t, 10*time.Second, none)
	for range 2 {
		eachWritten(t, n, before, func(m *ebpf.Map, name string, keys, values [][]byte) error {
			if name != "rules" && name != "classes" {
				return nil
			}
			return m.Put(keys[0], values[0])
		})
		if rows, err := ofPolicies(); rows != 2 || err != nil {
			t.Fatalf("rows of policies: %d, %v, want 2", rows, err)
		}
		testnet.Until(t, 10*time.Second, none)
	}
}
