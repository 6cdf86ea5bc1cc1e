package overlay

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// takesIn lists the multicast MACs of a device that do not go with a socket.
func takesIn(t *testing.T, link string) []string {
	t.Helper()
	out, err := exec.Command("ip", "maddr", "show", "dev", link).Output()
	if err != nil {
		t.Fatal(err)
	}
	var macs []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "link" && strings.Contains(line, "static") {
			macs = append(macs, f[1])
		}
	}
	slices.Sort(macs)
	return macs
}

func TestDevicesTakeInTheGroupsThatAreKept(t *testing.T) {
	testDevices(t)
	save := filepath.Join(t.TempDir(), "groups.json")
	a, b := Group{"weft0", [6]byte{0x33, 0x33, 0xff, 0, 0, 1}}, Group{"weft0", [6]byte{0x33, 0x33, 0xff, 0, 0, 2}}
	sh(t, "ip maddr add 33:33:ff:00:00:09 dev weft0")
	keep := func(groups ...Group) {
		t.Helper()
		if err := NewGroups(save).Keep(groups); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		groups []Group
		want   []string
	}{
		{[]Group{a}, []string{"33:33:ff:00:00:01", "33:33:ff:00:00:09"}},
		{[]Group{b, a, a}, []string{"33:33:ff:00:00:01", "33:33:ff:00:00:02", "33:33:ff:00:00:09"}},
		{[]Group{b, {"gone0", a.MAC}}, []string{"33:33:ff:00:00:02", "33:33:ff:00:00:09"}},
		{nil, []string{"33:33:ff:00:00:09"}},
	} {
		keep(step.groups...)
		keep(step.groups...) // again changes nothing
		if d := diff(takesIn(t, "weft0"), step.want); d != "" {
			t.Errorf("after %v (-got +want):\n%s", step.groups, d)
		}
	}
	if _, err := os.Stat(save); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}
