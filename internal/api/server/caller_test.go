package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// The runtime kills a plugin that took too long; what it asked for then ends.
func TestVerbEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	f := &fake{begun: func(verb context.Context) {
		if err := verb.Err(); err != nil {
			t.Errorf("while the caller waits: %v", err)
		}
		cancel()
		<-verb.Done()
		ended <- verb.Err()
	}}
	c := listen(t, Handler(f, info{}, nil))
	_, err := c.Add(ctx, api.Attach{ContainerID: "c1", IfName: "eth0", Network: "weft"})
	if !errors.Is(err, api.ErrNoDaemon) {
		t.Errorf("got %v, want ErrNoDaemon", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("context ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the verb's context did not end within 20 s")
	}
}

// A server that hung takes up what plugins asked that were killed meanwhile: the first
// look at a verb's context tells.
func TestVerbKnowsAtOnceThatItsCallerIsGone(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	const each = 25
	var calls int
	for path, body := range map[string]string{
		api.PathAdd: attach, api.PathDel: attach, api.PathCheck: attach,
		api.PathGC: `{"network":"weft","valid":[]}`,
	} {
		for range each {
			c, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintf(c, "POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body); err != nil {
				t.Fatal(err)
			}
			c.Close()
			calls++
		}
	}
	looks := make(chan error, calls)
	serve(t, l, Handler(&fake{begun: func(verb context.Context) {
		err := verb.Err()
		if err != nil {
			<-verb.Done()
		}
		looks <- err
	}}, info{}, nil))
	late := 0
	for range calls {
		select {
		case err := <-looks:
			if !errors.Is(err, context.Canceled) {
				late++
			}
		case <-time.After(20 * time.Second):
			t.Fatal("not all calls were taken up within 20 s")
		}
	}
	if late > 0 {
		t.Errorf("%d of %d verbs took their callers for alive", late, calls)
	}
}
