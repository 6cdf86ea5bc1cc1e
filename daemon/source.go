package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/daemon/source/kube"
	"github.com/weftnet/weft/internal/api"
)

// stateSource is where the daemon reads what the cluster looks like, and writes what it
// attached: [source.Dir] or [kube.Source].
type stateSource interface {
	// Run reads until ctx is done.
	Run(context.Context) error
	// Changed receives after the state has changed; many changes may come as one.
	Changed() <-chan struct{}
	// Unpoliced says that all that policies need was told, and that there are none, at less
	// cost than Snapshot.
	Unpoliced() bool
	// WritePod makes an attachment known to the other nodes, or that it is gone.
	WritePod(e api.Endpoint, gone bool) error
	// SyncPods makes exactly these known; for the start.
	SyncPods(live []api.Endpoint) error
	granter
}

// Kinds of sources.
const (
	sourceDir  = "dir"
	sourceKube = "kube"
)

// source is the kind of the source and its path: the folder, or the kubeconfig, if any.
func (c Config) source() (kind, path string, err error) {
	kind, path, given := strings.Cut(c.Source, ":")
	switch {
	case kind == sourceKube && !given:
		return kind, "", nil
	case kind != sourceDir && kind != sourceKube, !given:
		return "", "", fmt.Errorf("%q is no source: use dir:/PATH, with the folder of Kubernetes YAML, kube in a pod, or kube:/PATH, with a kubeconfig", c.Source)
	case !filepath.IsAbs(path):
		return "", "", fmt.Errorf("%q is not an absolute path: use %s:/PATH", path, kind)
	}
	return kind, filepath.Clean(path), nil
}

// fromFolder says whether the source is a folder of YAML.
func (c Config) fromFolder() bool {
	kind, _, _ := c.source()
	return kind == sourceDir
}

// kubeOptions is the options of a source of the kind kube.
func (c Config) kubeOptions(kubeconfig string, log *slog.Logger) kube.Options {
	servers, _ := kube.ParseServers(c.APIServers) // validated
	return kube.Options{
		Node: c.NodeName, Kubeconfig: kubeconfig, Servers: servers, Kubelet: c.KubeletKubeconfig,
		StateFile: filepath.Join(c.StateDir, serversFile), Services: c.Services, Log: log,
	}
}

// preflightSource says what is missing before the source can be asked.
func preflightSource(c Config) error {
	kind, path, err := c.source()
	if err != nil || kind != sourceKube {
		return err
	}
	if err := kube.Preflight(c.kubeOptions(path, nil)); err != nil {
		return fmt.Errorf("the Kubernetes API cannot be asked: %w", err)
	}
	return nil
}

// openSource makes the source of a validated configuration. labels gives the labels of an
// attachment that the source does not know.
func openSource(c Config, log *slog.Logger, labels func(api.Ref) map[string]string) (stateSource, error) {
	kind, path, err := c.source()
	if err != nil {
		return nil, err
	}
	if kind == sourceKube {
		return kube.Open(c.kubeOptions(path, log))
	}
	return source.Open(c.Source, source.Options{Node: c.NodeName, Log: log, Labels: labels})
}

// notSynced says of a source that it was not read completely, and why as far as it knows.
func notSynced(name string, problems []api.Problem) string {
	text := name + " was not read completely yet"
	var why []string
	for _, p := range problems {
		why = append(why, p.Text)
	}
	if len(why) > 0 {
		text += ": " + strings.Join(few(3, why), "; ")
	}
	return text
}
