package testnet

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Require ends the test if this machine lacks what namespace tests need. It does
// not skip: where tests run, they run as root.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root (sudo make test)")
	}
	for _, p := range append([]string{"ip"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed: ./deps.sh test installs it", p)
		}
	}
}

// New makes a namespace that lives as long as the test.
func New(t testing.TB, prefix string) *NS {
	t.Helper()
	n, err := Create(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Until waits until f returns nil, and ends the test with f's last error if it
// does not in time.
func Until(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := Wait(ctx, f); err != nil {
		t.Fatalf("not within %s: %v", within, err)
	}
}
