package overlay

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func txOn(t *testing.T, link string) bool {
	t.Helper()
	return strings.Contains(sh(t, "ethtool -k "+link), "tx-checksumming: on")
}

func TestOffloadIsTurnedOffAndOnAgain(t *testing.T) {
	newNetns(t)
	sh(t, `ip link add up0 type veth peer name x0
		ip link add up1 type veth peer name x1
		ip link add weft-vxlan type vxlan external dstport 8872
		ethtool -K up1 tx off`)
	features := sh(t, "ethtool -k up0\nethtool -k up1\nethtool -k weft-vxlan")
	file := filepath.Join(t.TempDir(), "offload.json")
	check := func(want map[string]bool) {
		t.Helper()
		got, err := NewOffload(file).Dump() // as after a restart
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("dump: got %v, %v; want %v", got, err, want)
		}
	}
	o := NewOffload(file)
	check(map[string]bool{})
	for _, link := range []string{"up0", "up1", "weft-vxlan", "up0"} {
		if err := o.Set(link, false); err != nil {
			t.Fatal(err)
		}
		if txOn(t, link) {
			t.Errorf("%s: still on", link)
		}
	}
	check(map[string]bool{"up0": false, "weft-vxlan": false}) // up1 was not our doing
	sh(t, "ethtool -K up0 tx on")
	check(map[string]bool{"up0": true, "weft-vxlan": false})
	if err := o.Set("up0", false); err != nil {
		t.Fatal(err)
	}
	if err := o.Delete("up1"); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := NewOffload(file).Restore(); err != nil {
			t.Error(err)
		}
	}
	if got := sh(t, "ethtool -k up0\nethtool -k up1\nethtool -k weft-vxlan"); got != features {
		t.Errorf("features are not as they were:\n%s\nwant\n%s", got, features)
	}
	check(map[string]bool{})
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestOffloadOfADeviceThatGoes(t *testing.T) {
	newNetns(t)
	sh(t, "ip link add up0 type veth peer name x0")
	o := NewOffload(filepath.Join(t.TempDir(), "offload.json"))
	if err := o.Set("up0", false); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip link del up0")
	if rows, err := o.Dump(); err != nil || len(rows) > 0 {
		t.Errorf("dump: %v, %v; want nothing", rows, err)
	}
	if err := o.Restore(); err != nil {
		t.Error(err)
	}
	if err := o.Set("up0", false); !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v, want ENODEV", err)
	}
}
