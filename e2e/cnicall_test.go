package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/api"
)

// cniCall is one call of the plugin, as a runtime makes it, without libcni between:
// libcni would hide exit code, error code and time.
type cniCall struct {
	Verb    string
	ID      string
	Netns   string
	IfName  string         // empty is eth0
	Version string         // of the configuration; empty is 1.1.0
	Network string         // empty is weft
	Conf    map[string]any // more keys of the configuration
}

// cniAnswer is what the plugin answered.
type cniAnswer struct {
	Exit   int
	Stdout []byte
	Stderr string
	Took   time.Duration
	api.Error
}

func (a cniAnswer) String() string {
	return fmt.Sprintf("exit %d, code %d %q %q after %s", a.Exit, a.Code, a.Msg, a.Details, a.Took.Round(time.Millisecond))
}

// call calls the plugin that the daemon has installed on the node.
func call(t testing.TB, n *cluster.Node, c cniCall) cniAnswer {
	t.Helper()
	a, err := tryCall(t.Context(), n, c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryCall(ctx context.Context, n *cluster.Node, c cniCall) (cniAnswer, error) {
	conf := map[string]any{
		"cniVersion": or(c.Version, "1.1.0"), "name": or(c.Network, "weft"), "type": api.PluginType,
		"socket": n.Socket(), "stateDir": n.Path("state"),
	}
	for k, v := range c.Conf {
		conf[k] = v
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return cniAnswer{}, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, n.Path("bin", api.PluginType))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+c.Verb, "CNI_PATH="+n.Path("bin"))
	// GC and STATUS concern no container.
	if !slices.Contains([]string{"GC", "STATUS", "VERSION"}, c.Verb) {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+c.ID, "CNI_NETNS="+c.Netns, "CNI_IFNAME="+or(c.IfName, "eth0"))
	}
	begin := time.Now()
	err = cmd.Run()
	a := cniAnswer{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.Bytes(), Stderr: stderr.String(), Took: time.Since(begin)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return a, fmt.Errorf("call %s: %w", c.Verb, err)
	}
	if a.Exit != 0 {
		if err := json.Unmarshal(a.Stdout, &a.Error); err != nil {
			return a, fmt.Errorf("%s: exit %d, standard output %q is no error object: %w", c.Verb, a.Exit, a.Stdout, err)
		}
	}
	return a, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// callPod is a call about a pod.
func callPod(verb string, p *cluster.Pod) cniCall {
	return cniCall{Verb: verb, ID: p.ID, Netns: p.NS.Path()}
}

// with adds keys to the configuration.
func (c cniCall) with(key string, value any) cniCall {
	conf := map[string]any{key: value}
	for k, v := range c.Conf {
		conf[k] = v
	}
	c.Conf = conf
	return c
}

// succeed fails the test unless the call did.
func (a cniAnswer) succeed(t testing.TB) cniAnswer {
	t.Helper()
	if a.Exit != 0 {
		t.Fatalf("got %s, want success", a)
	}
	return a
}

// fails fails the test unless the call failed with the code and a text in its message
// or details.
func (a cniAnswer) fails(t testing.TB, code uint, text string) {
	t.Helper()
	if a.Exit == 0 || a.Code != code || !strings.Contains(a.Msg+": "+a.Details, text) {
		t.Errorf("got %s, want code %d and %q", a, code, text)
	}
}

// prev is the result as the prevResult of the next verb.
func (a cniAnswer) prev() json.RawMessage { return a.Stdout }

// newPod makes a pod that is not attached.
func newPod(t testing.TB, n *cluster.Node, name string) *cluster.Pod {
	t.Helper()
	p, err := n.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// attachments are the container IDs that the daemon knows.
func attachments(t testing.TB, n *cluster.Node) map[string]api.Endpoint {
	t.Helper()
	list, err := n.Client().Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]api.Endpoint{}
	for _, e := range list {
		m[e.ContainerID] = e
	}
	return m
}

// freed asserts that the daemon has nothing of the container any more: no attachment,
// no address in use, no device.
func freed(t testing.TB, n *cluster.Node, id string) {
	t.Helper()
	if e, ok := attachments(t, n)[id]; ok {
		t.Errorf("%s still has %v", id, e.IPs)
	}
	s, err := n.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Pools {
		if p.Used != s.Pods {
			t.Errorf("pool %s: %d in use, with %d pods", p.Prefix, p.Used, s.Pods)
		}
	}
	out, err := n.NS.Output("ip", "-o", "link")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, id) {
		t.Errorf("a device of %s is left:\n%s", id, out)
	}
}
