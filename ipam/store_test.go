package ipam

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// On a real disk: what cannot be read is moved aside, listed, and blocks nothing.
func TestUnreadableFilesAreMovedAside(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetPools(prefixes("10.0.0.0/24")); err != nil {
		t.Fatal(err)
	}
	allocate(t, m, 1)
	good, err := os.ReadFile(filepath.Join(dir, attachmentsDir, leaseName(owner(1))))
	if err != nil {
		t.Fatal(err)
	}
	twin := strings.Replace(string(good), "c0001", "c0002", 1) // the same address, later
	twin = strings.Replace(twin, `"at":"2`, `"at":"3`, 1)
	for name, data := range map[string]string{
		"attachments/" + leaseName(owner(2)):                         twin,
		"attachments/" + leaseName(owner(3)):                         "",
		"attachments/" + leaseName(owner(4)):                         string(good),
		"attachments/" + leaseName(owner(5)):                         string(good[:len(good)/2]),
		"attachments/readme":                                         "hello",
		"released/10.0.0.9.json":                                     "{",
		"attachments/." + leaseName(owner(6)) + ".tmp":               "half",
		"attachments/" + strings.Repeat("0", 40) + ".json/directory": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second start finds them aside
		if m, err = Open(dir, Options{}); err != nil {
			t.Fatal(err)
		}
		if got := m.Corrupt(); len(got) != 7 {
			t.Errorf("%d files aside, want 7: %v", len(got), got)
		}
		if got := m.Leases(); len(got) != 1 || got[0].Owner != owner(1) {
			t.Errorf("leases: got %v, want that of %v", got, owner(1))
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, attachmentsDir))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v, want one", left, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, corruptDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, corruptDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := m.Corrupt(); len(got) != 0 {
		t.Errorf("after they were removed: %v", got)
	}
}

func FuzzDecodeLease(f *testing.F) {
	l := Lease{Owner: owner(1), Network: "weft", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Meta: json.RawMessage(`{"a":[1]}`)}
	good, err := json.Marshal(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte(`{"containerID":"a","ifname":"b","addrs":["::ffff:1.2.3.4","fe80::1%eth0"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o Owner
		if json.Unmarshal(data, &o) != nil {
			return
		}
		l, err := decodeLease(leaseName(o), data)
		if err != nil {
			return
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatalf("a lease that was read cannot be written: %v", err)
		}
		if _, err := decodeLease(leaseName(l.Owner), again); err != nil {
			t.Fatalf("a lease that was written cannot be read: %v", err)
		}
		if _, err := decodeReleased(releasedName(l.Addrs), again); err != nil {
			t.Fatalf("its addresses cannot be noted as released: %v", err)
		}
	})
}
