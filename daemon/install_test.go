package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// A container has the node's folders by mounts. Of one that was removed on the node it
// keeps the dead one; the next container has the new one.
func TestDaemonEndsWhenItsMountOfACNIFolderIsDead(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	onNode := filepath.Join(l.dir, "on-the-node")
	l.must(os.Mkdir(onNode, 0o755))
	l.must(os.MkdirAll(a.cfg.BinDir, 0o755))
	l.must(unix.Mount(onNode, a.cfg.BinDir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(a.cfg.BinDir, unix.MNT_DETACH) }) // the machine's folder goes next
	a.start()
	a.ready()
	l.must(os.RemoveAll(onNode + "/weft-cni"))
	a.ready() // a file is put back
	// In the mount namespace of the mount itself the kernel refuses to remove the
	// folder it is on, not the one that it shows.
	testnet.Until(t, converge, func() error { return os.RemoveAll(onNode) }) // what is put back meanwhile hinders it
	select {
	case <-a.ended:
	case <-time.After(converge):
		t.Fatal("the daemon goes on with a folder that is not there any more")
	}
	if text := "bin was removed on the node"; !strings.Contains(a.log.String(), text) {
		t.Errorf("the log does not say %q", text)
	}
}
