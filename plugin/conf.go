package plugin

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/internal/api"
)

// conf is the network configuration that the runtime passes on standard input.
type conf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`

	// Ours.
	Socket   string `json:"socket"`
	StateDir string `json:"stateDir"`

	keys map[string]json.RawMessage // all of it
}

// foreign are the keys that CNI defines (SPEC 1.1.0, section 1; CONVENTIONS.md) for
// a plugin's configuration or for the list around it. The keys under reserved
// prefixes come besides.
var foreign = []string{
	"cniVersion", "cniVersions", "name", "type", "capabilities", "ipam", "dns", "args",
	"runtimeConfig", "prevResult", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
}

// lenient reads what every verb needs, and ignores the rest.
func (c *call) lenient(args *skel.CmdArgs) (*conf, error) {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return nil, err
	}
	c.version = conf.CNIVersion
	return conf, nil
}

// strict refuses what it does not know, so that a misspelt key is not lost.
func (c *call) strict(args *skel.CmdArgs) (*conf, error) {
	conf, err := c.lenient(args)
	if err != nil {
		return nil, err
	}
	return conf, conf.validate()
}

func parseConf(stdin []byte) (*conf, error) {
	c := &conf{Socket: api.DefaultSocket, StateDir: api.DefaultStateDir}
	if err := json.Unmarshal(stdin, &c.keys); err != nil {
		return nil, &api.Error{Code: api.CodeDecode, Msg: "network configuration is not a JSON object", Details: err.Error()}
	}
	for key, into := range map[string]*string{
		"cniVersion": &c.CNIVersion, "name": &c.Name, "socket": &c.Socket, "stateDir": &c.StateDir,
	} {
		if err := c.get(key, into); err != nil {
			return nil, err
		}
	}
	for key, path := range map[string]string{"socket": c.Socket, "stateDir": c.StateDir} {
		if !filepath.IsAbs(path) {
			return nil, badKey(key, "%q is not an absolute path", path)
		}
	}
	return c, nil
}

func (c *conf) validate() error {
	for key := range c.keys {
		switch {
		case key == "socket", key == "stateDir", strings.HasPrefix(key, "cni.dev/"):
		case contains(foreign, key):
		default:
			return badKey(key, "unknown key; Weft's own are socket and stateDir")
		}
	}
	var ipam struct {
		Type string `json:"type"`
	}
	if err := c.get("ipam", &ipam); err != nil {
		return err
	}
	if ipam.Type != "" {
		return badKey("ipam", "Weft gives out the addresses of Node.spec.podCIDRs itself; remove %q", ipam.Type)
	}
	return nil
}

// get decodes one key, if it is there and not null.
func (c *conf) get(key string, into any) error {
	raw, ok := c.keys[key]
	if !ok || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return badKey(key, "%v", err)
	}
	return nil
}

// validAttachments reads the list of GC: under the key of the specification, and
// under the one that libcni took from the specification's first text (cni#1101). An
// absent list is refused: read as an empty one it would remove everything.
func (c *conf) validAttachments() ([]api.Ref, error) {
	const key, legacy = "cni.dev/valid-attachments", "cni.dev/attachments"
	if c.keys[key] == nil && c.keys[legacy] == nil {
		return nil, badKey(key, "missing; GC needs the list of what is to be kept")
	}
	seen := map[api.Ref]bool{}
	valid := []api.Ref{}
	for _, key := range []string{key, legacy} {
		var refs []api.Ref
		if err := c.get(key, &refs); err != nil {
			return nil, err
		}
		for _, r := range refs {
			if !seen[r] {
				seen[r] = true
				valid = append(valid, r)
			}
		}
	}
	return valid, nil
}

// k8sArgs is what Kubernetes' runtimes put into CNI_ARGS.
type k8sArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
}

// attach is the request for ADD and CHECK.
func (c *conf) attach(args *skel.CmdArgs) (api.Attach, error) {
	a := api.Attach{ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns, Network: c.Name}
	var pod k8sArgs
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return a, &api.Error{Code: api.CodeBadEnv, Msg: "CNI_ARGS cannot be read", Details: err.Error()}
	}
	a.PodNamespace, a.PodName, a.PodUID = string(pod.K8S_POD_NAMESPACE), string(pod.K8S_POD_NAME), string(pod.K8S_POD_UID)
	if err := c.asked(&a); err != nil {
		return a, err
	}
	if err := c.previous(&a); err != nil {
		return a, err
	}
	return a, a.Validate()
}

func badKey(key, format string, args ...any) error {
	return &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("network configuration: key %q: ", key) + fmt.Sprintf(format, args...)}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
