package source

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestOnlyWhatIsNamedIsLookedAt changes some files of a folder and names one of them. The
// others are not looked at before the whole is; but new ones and links are, and all are after
// the folder could not be read.
func TestOnlyWhatIsNamedIsLookedAt(t *testing.T) {
	at, elsewhere := t.TempDir(), t.TempDir()
	put := func(dir, name string, n int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(nodeYAML(name[:6], n)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := &folder{path: at, files: map[string]*file{}}
	all := []string{"node-a.yaml", "node-b.yaml", "node-l.yaml"}
	change := func(n int) {
		t.Helper()
		put(at, all[0], n)
		put(at, all[1], n)
		put(elsewhere, all[2], n)
	}
	look := func(what string, dirty map[string]bool, whole bool, want ...int) {
		t.Helper()
		f.scan(dirty, whole, time.Now())
		for i, name := range all {
			had := nodeYAML(name[:6], want[i])
			if o, err := decode([]byte(had)); err != nil || f.files[name].objects.nodes[0].PodCIDRs[0] != o.nodes[0].PodCIDRs[0] {
				t.Errorf("%s: %s has %v, want that of %d; %v", what, name, f.files[name].objects.nodes[0].PodCIDRs, want[i], err)
			}
		}
	}
	change(1)
	if err := os.Symlink(filepath.Join(elsewhere, all[2]), filepath.Join(at, all[2])); err != nil {
		t.Fatal(err)
	}
	look("all are new", map[string]bool{}, false, 1, 1, 1)
	change(2)
	look("one is named", map[string]bool{all[0]: true}, false, 2, 1, 2)
	look("the whole", nil, true, 2, 2, 2)
	change(3)
	if err := os.Rename(at, at+"-away"); err != nil {
		t.Fatal(err)
	}
	look("it is gone", map[string]bool{all[0]: true}, false, 2, 2, 2)
	if err := os.Rename(at+"-away", at); err != nil {
		t.Fatal(err)
	}
	look("it is back", map[string]bool{all[0]: true}, false, 3, 3, 3)
}
