package scenario

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// traces is what a node has of pods, one line each, sorted: devices, routes, neighbours,
// namespaces, files, rows of maps, and what the daemon says. What is unrelated to pods and
// changes by itself (counters, ages, indices of devices) is not in it.
type traces []string

// look takes a node's traces. The daemon must run.
func look(ctx context.Context, c *cluster.Cluster, node string) (traces, error) {
	kernel, err := shell(ctx, c, node, `
		ip -o link | sed 's/^[0-9]*: //; s/@.*alias/ alias/; s/@.*//; s/: <.*//; s/^/link /'
		for f in -4 -6; do
			ip $f -o route show table all proto 87 | sed 's/^/route /'
			ip $f -o neigh show nud permanent | sed 's/^/neighbour /'
		done
		iptables-save | grep WEFT | sed 's/\[.*\]//; s/^/iptables /'
		ip6tables-save | grep WEFT | sed 's/\[.*\]//; s/^/ip6tables /'
		find /run/netns /run/weft /var/lib/weft /var/lib/cni /etc/cni /opt/cni ! -type d 2>/dev/null | sed 's/^/file /'`)
	if err != nil {
		return nil, err
	}
	t := traces(strings.Split(strings.TrimSpace(kernel), "\n"))
	s, err := statusOf(ctx, c, node)
	if err != nil {
		return nil, err
	}
	for _, p := range s.Pools {
		t = append(t, fmt.Sprintf("pool %s used %d cooling %d", p.Prefix, p.Used, p.Cooling))
	}
	for _, table := range s.Tables {
		t = append(t, fmt.Sprintf("table %s rows %d repairs %d error %q", table.Name, table.Rows, table.Repairs, table.Error))
	}
	for _, p := range s.Problems {
		t = append(t, fmt.Sprintf("problem %s %s", p.What, p.Text))
	}
	endpoints, err := endpointsOf(ctx, c, node)
	if err != nil {
		return nil, err
	}
	for _, e := range endpoints {
		t = append(t, fmt.Sprintf("endpoint %s/%s %s %s %s", e.PodNamespace, e.PodName, e.ContainerID, e.IPs, e.State))
	}
	root, err := c.Root(ctx, node)
	if err != nil {
		return nil, err
	}
	rows, err := mapRows(filepath.Join(root, "sys/fs/bpf/weft"))
	t = append(t, rows...)
	slices.Sort(t)
	return t, err
}

// layoutFolder is the name of a folder of maps that the daemon fills.
var layoutFolder = regexp.MustCompile(`^[0-9a-f]{12}$`)

// mapRows are the rows of all pinned maps that a daemon fills, straight from the kernel.
func mapRows(pins string) (traces, error) {
	var t traces
	err := filepath.WalkDir(pins, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !layoutFolder.MatchString(filepath.Base(filepath.Dir(path))) {
			return err
		}
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer m.Close()
		slots := d.Name() == "endpoints"
		switch {
		case m.Type() == ebpf.Hash, m.Type() == ebpf.LPMTrie, slots:
		default: // is counted into, or has rows without meaning
			return nil
		}
		var key, value []byte
		rows := m.Iterate()
		for rows.Next(&key, &value) {
			if slots {
				if key, value = held(value); key == nil {
					continue
				}
			}
			if d.Name() == "frontends" {
				value = value[8:] // struct frontend of bpf/src/service.h begins with a count of flows
			}
			t = append(t, fmt.Sprintf("row %s %x=%x", d.Name(), key, value))
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read maps: %w", err)
	}
	return t, nil
}

// held is the address and the row of a slot of the map endpoints (bpf/src/rows.h); nil: it has
// none.
func held(slot []byte) (addr, row []byte) {
	const firstHeld = 4
	state := binary.LittleEndian.Uint64(slot[16:])
	if state < firstHeld {
		return nil, nil
	}
	both := slot[24:]
	size := uint64(len(both)) / 2
	return slot[:16], both[state&1*size:][:size]
}

// but takes out the lines that begin so.
func (t traces) but(prefixes ...string) traces {
	return slices.DeleteFunc(slices.Clone(t), func(line string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
	})
}

// since is nil if the traces are those of before.
func (t traces) since(before traces) error {
	var diff []string
	for _, line := range before {
		if !slices.Contains(t, line) {
			diff = append(diff, "-"+line)
		}
	}
	for _, line := range t {
		if !slices.Contains(before, line) {
			diff = append(diff, "+"+line)
		}
	}
	const most = 40
	if len(diff) == 0 {
		return nil
	}
	if rest := len(diff) - most; rest > 0 {
		diff = append(diff[:most], fmt.Sprintf("and %d more", rest))
	}
	return errors.New("not as before (-before +now):\n" + strings.Join(diff, "\n"))
}

// sameAs waits until a node's traces are those of before, but for lines that begin so.
func sameAs(ctx context.Context, c *cluster.Cluster, node string, before traces, d time.Duration, but ...string) error {
	return within(ctx, d, node+" is as before", func(ctx context.Context) error {
		now, err := look(ctx, c, node)
		if err != nil {
			return err
		}
		return now.but(but...).since(before.but(but...))
	})
}
