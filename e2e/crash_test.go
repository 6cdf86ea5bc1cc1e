package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// injections is how many kills a crash test makes; `make soak` makes ten times more.
func injections(n int) int {
	if os.Getenv("WEFT_SOAK") != "" {
		return 10 * n
	}
	return n
}

// armer arms the kill points of the daemon (or, by the environment, of the plugin).
type armer struct {
	path   string
	serial *int
}

func newArmer(path string) armer { return armer{path, new(int)} }

// arm makes the process die after write n, or hold, or for n = 0 count.
func (a armer) arm(n int, how string) error {
	if err := a.disarm(); err != nil {
		return err
	}
	*a.serial++
	text := fmt.Sprintln(n, how, *a.serial)
	// By rename, so that nobody reads half of it.
	if err := os.WriteFile(a.path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(a.path+".new", a.path)
}

// armed is the content that arm has given the file.
func (a armer) armed() string {
	b, err := os.ReadFile(a.path)
	if err != nil {
		return "not armed"
	}
	return string(b)
}

// disarm is also what starts the count again.
func (a armer) disarm() error {
	_, err := a.count()
	return err
}

// count disarms, and returns the names of the writes since arm. No write is between its
// look at the file and its name meanwhile: who has made less than n does not die of n.
func (a armer) count() ([]string, error) {
	lock, err := os.OpenFile(a.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	errs := []error{syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)}
	names := a.writes()
	for _, f := range []string{"", ".log", ".held"} {
		if err := os.Remove(a.path + f); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return names, errors.Join(errs...)
}

// writes are the names of the writes since arm.
func (a armer) writes() []string {
	b, err := os.ReadFile(a.path + ".log")
	if err != nil {
		return nil
	}
	return strings.Fields(strings.ReplaceAll(string(b), " ", "-"))
}

// crashRig is a node whose daemon can be killed after any write, with two pods that
// must never notice.
type crashRig struct {
	*testing.T
	node   *cluster.Node
	daemon armer
	steady []*cluster.Pod
	random *rand.Rand
	told   map[string]bool // verbs whose writes were logged
}

func newCrashRig(t *testing.T) *crashRig {
	t.Helper()
	dir := t.TempDir()
	r := &crashRig{T: t, daemon: newArmer(filepath.Join(dir, "daemon")), random: rand.New(rand.NewPCG(1, 2)), told: map[string]bool{}}
	c := start(t, cluster.Spec{Bin: crashBins, Env: []string{"WEFT_CRASH_ARM=" + r.daemon.path}})
	r.node = c.Nodes[0]
	r.steady = []*cluster.Pod{addPod(t, r.node, "steady-1"), addPod(t, r.node, "steady-2")}
	return r
}

func (r *crashRig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// revive starts the daemon again if it has died of write n.
func (r *crashRig) revive(n int) (died bool) {
	r.Helper()
	names, err := r.daemon.count()
	r.must(err)
	if died = len(names) >= n; !died {
		return false
	}
	select {
	case <-r.node.Done():
	case <-time.After(5 * time.Second):
		r.Fatalf("the daemon passed write %d and lives", n)
	}
	r.must(r.node.Kill()) // takes note
	restart(r.T, r.node)
	return true
}

// settled asserts the invariant: after a GC, what is allocated is what lives, each
// address once.
func (r *crashRig) settled(after string, live ...*cluster.Pod) {
	r.Helper()
	live = append(slices.Clone(r.steady), live...)
	r.must(r.daemon.disarm())
	// An ADD whose plugin was killed may be under way yet, and is not GC's.
	testnet.Until(r.T, 5*time.Second, func() error {
		if err := r.node.GC(r.Context(), live...); err != nil {
			return fmt.Errorf("%s: GC: %w", after, err)
		}
		if err := r.balance(live); err != nil {
			return fmt.Errorf("%s: %w", after, err)
		}
		return nil
	})
	if err := r.steady[0].Check(r.Context()); err != nil {
		r.Fatalf("%s: CHECK of a pod that lives on: %v", after, err)
	}
}

// balance compares what is allocated with what lives.
func (r *crashRig) balance(live []*cluster.Pod) error {
	want, addrs := map[string]bool{}, map[string]string{}
	for _, p := range live {
		want[p.ID] = true
		for _, a := range p.Addrs() {
			if other := addrs[a.String()]; other != "" {
				return fmt.Errorf("%s is of %s and of %s", a, other, p.Name)
			}
			addrs[a.String()] = p.Name
		}
	}
	list, err := r.node.Client().Endpoints(r.Context())
	if err != nil {
		return err
	}
	for _, e := range list {
		if !want[e.ContainerID] {
			return fmt.Errorf("endpoint %s with %v is of no live pod", e.ContainerID, e.IPs)
		}
		for _, a := range e.IPs {
			if addrs[a.String()] == "" {
				return fmt.Errorf("endpoint %s has %s, which no live pod has", e.ContainerID, a)
			}
		}
	}
	files, err := os.ReadDir(r.node.Path("state", "attachments"))
	if err != nil {
		return err
	}
	links, err := r.node.NS.Output("ip", "-o", "link", "show")
	if err != nil {
		return err
	}
	veths := strings.Count(links, "alias weft:") - strings.Count(links, "alias weft:overlay") - strings.Count(links, " wifb")
	leases := 0
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".json") { // others were being written
			leases++
		}
	}
	if len(list) != len(want) || leases != len(want) || veths != len(want) {
		return fmt.Errorf("%d pods live, but there are %d endpoints, %d leases and %d devices:\n%s",
			len(want), len(list), leases, veths, links)
	}
	ports := 0 // of the node, that lead to pods
	for _, p := range live {
		if mappings, ok := p.Capabilities["portMappings"].([]any); ok {
			ports += len(mappings)
		}
	}
	for name, rows := range map[string]int{"frontends": 4 * ports, "sets": 2 * ports, "backends": 2 * ports, "alive": 2 * ports} {
		// Two families, each at the node's address and at loopback.
		if got, err := mapRows(r.node, name); err != nil || got != rows {
			return fmt.Errorf("map %s has %d rows, want %d for %d host ports; %w", name, got, rows, ports, err)
		}
	}
	tombs, err := filepath.Glob(r.node.Path("state", "tombstones", "*.json"))
	if err != nil || len(tombs) > 0 {
		return fmt.Errorf("tombstones are left: %v, %w", tombs, err)
	}
	return nil
}

// verb is one CNI call that is interrupted.
type verb struct {
	name string
	last string // write, which may come after the answer
	// call makes the call for a pod that is attached, or for ADD is not.
	call func(context.Context, *cluster.Pod) error
}

func (r *crashRig) verbs() []verb {
	return []verb{
		{"ADD", "source:-rename", func(ctx context.Context, p *cluster.Pod) error { return p.Add(ctx) }},
		{"DEL", "source:-remove", func(ctx context.Context, p *cluster.Pod) error { return p.Detach(ctx) }},
		{"GC", "source:-remove", func(ctx context.Context, _ *cluster.Pod) error { return r.node.GC(ctx, r.steady...) }},
	}
}

// pod is a fresh pod; attached, unless the verb is ADD.
func (r *crashRig) pod(v verb) *cluster.Pod {
	r.Helper()
	p, err := r.node.NewPod("victim")
	r.must(err)
	switch r.random.IntN(4) { // so that every kind of device and row is written now and then
	case 0:
		p.Capabilities = map[string]any{"bandwidth": map[string]any{
			"ingressRate": 10_000_000, "ingressBurst": 1_000_000, "egressRate": 10_000_000, "egressBurst": 1_000_000}}
	case 1:
		p.Capabilities = map[string]any{"portMappings": []any{
			map[string]any{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"},
			map[string]any{"hostPort": 8088, "containerPort": 80, "protocol": "udp"}}}
	}
	if v.name != "ADD" {
		r.must(p.Add(r.Context()))
	}
	return p
}

// call makes the call and, if it succeeds, waits for its last write, or for the daemon's
// end. (A verb that finds nothing to do has none.)
func (r *crashRig) call(v verb, p *cluster.Pod) error {
	r.Helper()
	if err := v.call(r.Context(), p); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	_ = testnet.Wait(ctx, func() error {
		select {
		case <-r.node.Done():
			return nil
		default:
		}
		if !slices.Contains(r.daemon.writes(), v.last) {
			return errors.New("not written yet")
		}
		return nil
	})
	return nil
}

// clear ends the pod the way runtimes do: with or without a DEL, and with or without
// a namespace at that time. What is left over is GC's.
func (r *crashRig) clear(p *cluster.Pod) {
	r.Helper()
	switch r.random.IntN(4) {
	case 0:
		r.must(p.Detach(r.Context()))
		r.must(p.NS.Close())
	case 1:
		r.must(p.NS.Close())
		r.must(p.Detach(r.Context()))
	case 2:
		r.must(p.NS.Close())
	case 3: // the namespace lives until after GC
		r.settled("namespace without DEL")
		r.must(p.NS.Close())
	}
	r.settled("end of a pod")
}

// count returns how many writes the verb makes.
func (r *crashRig) count(v verb) int {
	r.Helper()
	p := r.pod(v)
	r.must(r.daemon.arm(0, "die"))
	r.must(r.call(v, p))
	names, err := r.daemon.count()
	r.must(err)
	r.clear(p)
	if !r.told[v.name] {
		r.Logf("%s: %d writes: %s", v.name, len(names), strings.Join(names, " "))
		r.told[v.name] = true
	}
	if len(names) == 0 {
		r.Fatalf("%s passes no kill point", v.name)
	}
	return len(names)
}

// P1: SIGKILL of the daemon after every single write of ADD, DEL and GC.
func TestCrashOfTheDaemonLeaksNothing(t *testing.T) {
	t.Parallel()
	r := newCrashRig(t)
	const more = 24 // a pod with limits or host ports has more writes than the one that was counted
	died := 0
	for want := injections(700); died < want; {
		for _, v := range r.verbs() {
			for n := range r.count(v) + more {
				if n++; died >= want {
					break
				}
				p := r.pod(v)
				r.must(r.daemon.arm(n, "die"))
				callErr := r.call(v, p)
				if r.revive(n) {
					died++
				} else if callErr != nil {
					t.Fatalf("%s, armed for write %d: %v, though the daemon lives", v.name, n, callErr)
				}
				if callErr == nil && v.name == "ADD" {
					r.settled(fmt.Sprintf("ADD killed after write %d but answered", n), p)
				}
				r.clear(p)
			}
		}
	}
	t.Logf("%d daemons killed", died)
}

// P1, P4: the plugin is killed while it writes the tombstone of a DEL.
func TestCrashInATombstoneLeaksNothing(t *testing.T) {
	r := newCrashRig(t)
	plugin := newArmer(filepath.Join(t.TempDir(), "plugin"))
	t.Setenv("WEFT_CRASH_ARM", plugin.path)
	for n := 1; ; n++ {
		p := r.pod(verb{name: "DEL"})
		r.must(r.node.Kill())
		r.must(plugin.arm(n, "die"))
		err := p.Detach(r.Context())
		names, countErr := plugin.count()
		r.must(countErr)
		passed := len(names)
		if err == nil && passed < n {
			if n == 1 {
				t.Fatal("DEL without a daemon passes no kill point")
			}
			t.Logf("%d writes", passed)
			restart(t, r.node)
			r.settledWithout("tombstone", p)
			return
		}
		if err == nil {
			t.Fatalf("write %d: the plugin was to die and did not", n)
		}
		r.must(p.Detach(r.Context())) // the runtime tries again
		restart(t, r.node)
		r.settledWithout(fmt.Sprintf("tombstone killed at write %d", n), p)
	}
}

// settledWithout waits until the daemon has worked off the tombstones, without GC.
func (r *crashRig) settledWithout(after string, gone *cluster.Pod) {
	r.Helper()
	testnet.Until(r.T, 5*time.Second, func() error {
		list, err := r.node.Client().Endpoints(r.Context())
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.ContainerID == gone.ID {
				return fmt.Errorf("%s: %s is still attached", after, gone.ID)
			}
		}
		return nil
	})
	r.must(gone.NS.Close())
	r.settled(after)
}
