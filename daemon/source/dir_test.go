package source

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFolderIsFollowed(t *testing.T) {
	p := start(t, "", Options{})
	p.wait("")
	if !p.Synced() {
		t.Error("an empty folder has been read, but is not synced")
	}
	p.put("nodes.yaml", nodeYAML("node-a", 1)+"---\n"+nodeYAML("node-b", 2))
	p.put("readme.txt", "not: [yaml")
	p.wait(nodeA + nodeB)
	p.put("pods.yml", "# only a comment\n---\n"+podYAML("default", "web", "web", "node-a")+"---\n"+
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {podCIDRs: 5}\nitems: {}\n---\n"+
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: red}}\n")
	p.wait(nodeA + nodeB + "pod default/web node-a web []\nnamespace shop map[team:red]\nignored 1")
	p.put("more.json", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"tools"}}]}`)
	p.remove("pods.yml")
	p.put("nodes.yaml", nodeYAML("node-b", 2))
	p.put("list.yaml", "apiVersion: v1\nkind: NodeList\nitems:\n- metadata: {name: node-a}\n  spec: {podCIDR: 10.0.1.7/24}\n  status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n")
	p.wait("node node-a [10.0.1.0/24] [192.168.0.1]\n" + nodeB + "namespace tools map[]")
}

// A change of which no event tells, as of another machine's on a shared file system, is seen
// also where there is no moment without events.
func TestSilentChangeIsSeenInUnrest(t *testing.T) {
	p := start(t, "", Options{Poll: time.Second})
	p.put("a.yaml", nodeYAML("node-b", 2))
	p.wait(nodeB)
	link := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.Link(filepath.Join(p.path, "a.yaml"), link); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(5 * time.Millisecond):
				if err := os.WriteFile(filepath.Join(p.path, "busy.txt"), nil, 0o644); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	defer func() {
		close(stop)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(link, []byte(nodeYAML("node-a", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	p.wait(nodeA)
}

func TestBrokenFileKeepsItsLastGoodObjects(t *testing.T) {
	p := start(t, "", Options{})
	whole := nodeYAML("node-a", 1) + "---\n" + nodeYAML("node-b", 2)
	p.put("nodes.yaml", whole)
	p.wait(nodeA + nodeB)
	for name, tc := range map[string]struct{ text, problem string }{
		"cut": {whole[:len(whole)-30], "nodes.yaml: document 2: "},
		"cut in a CIDR": {strings.Replace(whole, `"fd00:244:2::/64"]`, `"fd00:2`, 1),
			"nodes.yaml: document 2: "},
		"bad CIDR": {strings.Replace(whole, "10.0.2.0/24", "10.0.2.0/240", 1),
			`nodes.yaml: document 2: Node: node-b: spec.podCIDRs[0]: "10.0.2.0/240" is not a CIDR`},
		"two of a family": {strings.Replace(whole, "10.0.2.0/24", "fd00::/64", 1),
			"nodes.yaml: document 2: Node: node-b: spec.podCIDRs: more than one of a family: [fd00::/64 fd00:244:2::/64]"},
		"wrong type": {strings.Replace(whole, "[10.0.2.0/24, ", "{a: b}\n#", 1),
			"nodes.yaml: document 2: Node: spec.podCIDRs: got object, want []string"},
		"bad label": {strings.Replace(whole, "os: linux", "os: 5", 1),
			"nodes.yaml: document 1: Node: metadata.labels: got number, want string"},
		"bad address": {strings.Replace(whole, "192.168.0.1}", "192.168.0}", 1),
			`nodes.yaml: document 1: Node: node-a: status.addresses[1]: "192.168.0" is not an IP address`},
		"no name": {strings.Replace(whole, "  name: node-a\n", "", 1), "nodes.yaml: document 1: Node: metadata.name: missing"},
		"path as a name": {strings.Replace(whole, "name: node-a\n", "name: ../node-a\n", 1),
			`nodes.yaml: document 1: Node: metadata.name: "../node-a" is not a name (a-z, 0-9, - and . only)`},
		"cut between two lines": {whole[:strings.LastIndex(whole, "status:")],
			"nodes.yaml: Node: node-b: no InternalIP in status.addresses any more; to remove a node, remove its object"},
		"no kind":  {"a: b\n", "nodes.yaml: document 1: kind: missing; this is not a Kubernetes object"},
		"a scalar": {"hello\n", "nodes.yaml: document 1: got string, want an object"},
		"twice a key": {"a: b\na: c\n",
			`nodes.yaml: document 1: yaml: unmarshal errors: line 2: key "a" already set in map`},
		"nested": {`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"List"}]}`,
			"nodes.yaml: document 1: items[0]: kind: a List in a List"},
		"too large": {whole + strings.Repeat("#", maxFile), fmt.Sprintf("nodes.yaml: has %d bytes, more than %d", len(whole)+maxFile, maxFile)},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			p.put("nodes.yaml", tc.text)
			s := p.waitProblem("problem source-file: " + tc.problem)
			if got := text(State{Nodes: s.Nodes, Complete: s.Complete}); got != strings.TrimSpace(nodeA+nodeB) {
				t.Errorf("nodes while the file is broken:\n%s", got)
			}
			if s.Problems[0].Since.IsZero() {
				t.Error("the problem has no time")
			}
			p.put("nodes.yaml", whole)
			p.wait(nodeA + nodeB)
		})
	}
}

// waitProblem waits for one problem that begins with want.
func (p *place) waitProblem(want string) State {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s := p.Snapshot()
		got := text(State{Problems: s.Problems, Complete: true})
		if strings.HasPrefix(got, want) && len(s.Problems) == 1 {
			return s
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("problems, got:\n%s\nwant:\n%s", got, want)
		}
	}
}

// A file that was never well gives what is well of it, and says that it is not all.
func TestBrokenFileAtTheStart(t *testing.T) {
	dir := t.TempDir()
	text := nodeYAML("node-a", 1) + "---\nkind: [\n"
	if err := os.WriteFile(filepath.Join(dir, "nodes.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, Options{})
	p.wait(nodeA + "problem source-file: nodes.yaml: document 2: yaml: line 2: did not find expected node content\nincomplete")
	p.put("nodes.yaml", nodeYAML("node-a", 1))
	p.wait(nodeA)
}

func TestWrittenInPlace(t *testing.T) {
	p := start(t, "", Options{})
	text := nodeYAML("node-a", 1)
	f, err := os.Create(filepath.Join(p.dir, "node.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 0; i < len(text); i += 40 {
		if _, err := f.WriteString(text[i:min(i+40, len(text))]); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	p.wait(nodeA)
}

func TestOddFiles(t *testing.T) {
	p := start(t, "", Options{})
	p.wait("")
	p.put("node.yaml", nodeYAML("node-a", 1))
	p.put("empty.yaml", "")
	if err := syscall.Mkfifo(filepath.Join(p.dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(p.dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(p.dir, "folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.wait(nodeA + "problem source-file: link.yaml: stat " + p.dir + "/link.yaml: no such file or directory\n" +
		"problem source-file: pipe.yaml: not a regular file but p---------\nincomplete but for policies")
	p.remove("pipe.yaml")
	p.put("nowhere", nodeYAML("node-b", 2)) // the link leads somewhere now
	p.wait(nodeA + nodeB)
}

func TestSameObjectInTwoFiles(t *testing.T) {
	p := start(t, "", Options{})
	p.put("b.yaml", nodeYAML("node-a", 2))
	p.put("a.yaml", nodeYAML("node-a", 1))
	p.wait(nodeA + "problem source-duplicate: Node node-a is in a.yaml and in b.yaml; the first counts")
	p.remove("a.yaml")
	p.wait(strings.Replace(nodeB, "node-b", "node-a", 1))
}

func TestNodeThatPeersCannotReach(t *testing.T) {
	p := start(t, "", Options{})
	p.put("a.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n")
	p.put("b.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node-b}\nspec: {podCIDR: 10.0.0.0/24}\n")
	p.wait("node node-a [] []\nnode node-b [10.0.0.0/24] []\n" +
		"problem source-node: node node-a: no spec.podCIDRs\nproblem source-node: node node-b: no InternalIP in status.addresses")
}

func TestFolderComesAndGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "source")
	p := start(t, dir, Options{})
	missing := "problem source-missing: folder of the source: open " + dir + ": no such file or directory; make it, what was known before stays"
	p.wait(missing + "\nincomplete")
	if p.Synced() {
		t.Error("synced without a folder")
	}
	p.put("a.yaml", nodeYAML("node-a", 1))
	p.wait(nodeA)
	if err := os.Rename(dir, dir+"-gone"); err != nil {
		t.Fatal(err)
	}
	p.wait(nodeA + missing)
	p.put("b.yaml", nodeYAML("node-b", 2)) // another folder of that name
	p.wait(nodeB)
	p.put("b.yaml", nodeYAML("node-b", 3)) // which is watched again
	p.wait(strings.Replace(nodeC, "node-c", "node-b", 1))
}

// The state of what did not change stays the same object, and nobody is woken for it.
func TestUnchangedObjectsKeepTheirPointers(t *testing.T) {
	p := start(t, "", Options{})
	p.put("nodes.yaml", nodeYAML("node-a", 1)+"---\n"+nodeYAML("node-b", 2))
	before := p.wait(nodeA + nodeB)
	p.put("nodes.yaml", nodeYAML("node-a", 1)+"---\n"+nodeYAML("node-b", 3))
	now := p.wait(nodeA + strings.Replace(nodeC, "node-c", "node-b", 1))
	if before.Nodes[0] != now.Nodes[0] {
		t.Error("node-a has not changed, but is another object")
	}
	if before.Nodes[1] == now.Nodes[1] || before.Nodes[1].PodCIDRs[0].String() != "10.0.2.0/24" {
		t.Error("node-b was changed in the former state")
	}
}

// A change of one file costs one parse, not a thousand.
func TestThousandNodes(t *testing.T) {
	dir := t.TempDir()
	for i := range 1000 {
		name := fmt.Sprintf("node-%04d", i)
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(nodeYAML(name, i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open("dir:"+dir, Options{Node: "node-0001"})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	d.look(nil)
	first := time.Since(begin)
	if n := len(d.Snapshot().Nodes); n != 1000 {
		t.Fatalf("%d nodes, want 1000", n)
	}
	path := filepath.Join(dir, "node-0500.yaml")
	if err := os.WriteFile(path, []byte(nodeYAML("node-0500", 2000)), 0o644); err != nil {
		t.Fatal(err)
	}
	read := 0
	before := map[string]stamp{}
	for name, f := range d.root.files {
		before[name] = f.stamp
	}
	begin = time.Now()
	d.look(map[string]bool{path: true})
	t.Logf("first look %v, after a change %v", first, time.Since(begin))
	for name, f := range d.root.files {
		if f.stamp != before[name] {
			read++
		}
	}
	if read != 1 {
		t.Errorf("%d files were read again, want 1", read)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("heap with a thousand nodes: %d KiB", m.HeapAlloc/1024)
	runtime.KeepAlive(d)
}

// Whatever moment the folder vanishes in: the watcher has errors then.
func TestFolderVanishesAtAnyMoment(t *testing.T) {
	p := start(t, "", Options{Poll: 20 * time.Millisecond})
	aside := filepath.Join(t.TempDir(), "x")
	for i := range 200 {
		if err := os.MkdirAll(p.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		p.put("nodes.yaml", nodeYAML("node-a", 1+i%2))
		for moment := time.Now().Add(time.Duration(i%20) * time.Millisecond); time.Now().Before(moment); {
			runtime.Gosched()
		}
		if err := os.Rename(p.dir, aside); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(aside); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.put("nodes.yaml", nodeYAML("node-b", 2))
	p.wait(nodeB)
}
