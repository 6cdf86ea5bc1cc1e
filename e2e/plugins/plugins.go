// Package plugins builds the CNI project's reference plugins, which Weft is compared
// with and must leave a clean node to.
package plugins

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// Build builds bridge and host-local into dir, in the version that go.mod names. They
// are a module of their own: what they need does not become ours.
func Build(ctx context.Context, dir string) error {
	const module = "github.com/containernetworking/plugins"
	version, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return fmt.Errorf("find the version of %s: %w", module, err)
	}
	at := "@" + strings.TrimSpace(string(version))
	cmd := exec.CommandContext(ctx, "go", "install", module+"/plugins/main/bridge"+at, module+"/plugins/ipam/host-local"+at)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build bridge and host-local: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Bridge is a dual-stack network of bridge and host-local, as flannel delegates to them.
func Bridge(subnet4, subnet6, dataDir string) (*libcni.NetworkConfigList, error) {
	return libcni.ConfListFromBytes(fmt.Appendf(nil, `{
		"cniVersion": "1.0.0", "name": "reference", "plugins": [{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
			"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}], [{"subnet": %q}]]}}]}`,
		dataDir, subnet4, subnet6))
}
