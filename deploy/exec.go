package deploy

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/client-go/tools/remotecommand"
)

// exec runs a program in a container and returns what it wrote. A program that fails is
// an error, with its standard error in it; what it wrote is returned also then.
func (c *Cluster) exec(ctx context.Context, pod, container string, command ...string) ([]byte, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/api/v1/namespaces/" + c.Namespace + "/pods/" + pod + "/exec"
	u.RawQuery = url.Values{"container": {container}, "command": command, "stdout": {"true"}, "stderr": {"true"}}.Encode()
	// Web sockets are served by every API server that Weft can be installed on (KEP-4006).
	e, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, u.String())
	if err != nil {
		return nil, fmt.Errorf("run %s in pod %s: %w", command[0], pod, err)
	}
	var out, stderr bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &stderr})
	if err != nil {
		return out.Bytes(), fmt.Errorf("run %s in pod %s: %w %s", command[0], pod, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out.Bytes(), nil
}
