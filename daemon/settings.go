package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// settings binds each setting to its name and documentation. The flags and the
// keys of the file are this one list.
func (c *Config) settings(fs *pflag.FlagSet) {
	fs.StringVar(&c.NodeName, "node-name", c.NodeName, "metadata.name of this machine's Node object")
	fs.StringVar(&c.Source, "source", c.Source, "where Nodes, Pods, Services and the like come from: dir:PATH, a folder of YAML; kube, the Kubernetes API with the pod's service account; kube:PATH, the API with that kubeconfig")
	fs.StringVar(&c.APIServers, "api-servers", c.APIServers, "API servers, separated by commas: HOST, HOST:PORT (default 6443) or https://HOST:PORT; never a Service's address. Some may be dead; empty: the one in kubelet-kubeconfig")
	fs.StringVar(&c.KubeletKubeconfig, "kubelet-kubeconfig", c.KubeletKubeconfig, "kubeconfig of this node's kubelet: where the source kube finds an API server")
	fs.StringVar(&c.Socket, "socket", c.Socket, "unix socket for weft-cni and weft; root's alone")
	fs.StringVar(&c.StateDir, "state-dir", c.StateDir, "folder of what outlives the daemon: attachments, former sysctls")
	fs.StringVar(&c.BPFDir, "bpf-dir", c.BPFDir, "folder of pinned BPF maps and links, on a BPF file system")
	fs.StringVar(&c.ConfDir, "cni-conf-dir", c.ConfDir, "where the CNI configuration is written")
	fs.StringVar(&c.BinDir, "cni-bin-dir", c.BinDir, "where the CNI binary is written")
	fs.StringVar(&c.CNIBinary, "cni-binary", c.CNIBinary, "the CNI binary to write there (default: weft-cni beside weftd)")
	fs.StringVar(&c.CNIChain, "cni-chain", c.CNIChain, "CNI plugins that runtimes call after Weft's: a JSON list of their configurations, as in a conflist. Their binaries must be in cni-bin-dir; host ports and bandwidth are theirs if they ask for these capabilities")
	fs.StringVar(&c.Overlay, "overlay", c.Overlay, "how packets get to other nodes: vxlan; direct (plain routes); auto (direct where a node is on a link of ours)")
	fs.Uint32Var(&c.VNI, "vni", c.VNI, "VXLAN network identifier; the same on all nodes")
	fs.Uint16Var(&c.Port, "port", c.Port, "UDP port of the overlay; the same on all nodes")
	fs.IntVar(&c.MTU, "mtu", c.MTU, "MTU of the pods in bytes; 0 follows the uplinks")
	fs.BoolVar(&c.Masquerade, "masquerade", c.Masquerade, "give what leaves the cluster the node's address")
	fs.BoolVar(&c.Services, "services", c.Services, "serve Services in the datapath; false: another program does (kube-proxy). Host ports are served anyway")
	fs.Uint16Var(&c.AnnouncePort, "announce-port", c.AnnouncePort, "UDP port of the nodes' probes, 0: the one two after port; by them they agree who announces a load balancer's address, and find out whether answers of forwarding dsr arrive; the same on all nodes")
	fs.StringVar(&c.NodePortAddresses, "nodeport-addresses", c.NodePortAddresses, "prefixes, separated by commas: node ports and host ports are served on the addresses of the Node object in them; empty: on all of them")
	fs.StringVar(&c.Forwarding, "forwarding", c.Forwarding, "what becomes of Services' traffic from outside to a backend on another node: snat (this node stands in for the client) or dsr (that node sees the client and answers it directly; the network must let through answers with another node's or a load balancer's address). A Service's annotation weft.dev/forwarding goes first")
	fs.StringVar(&c.LoadBalancerPools, "load-balancer-pools", c.LoadBalancerPools, "addresses for Services of type LoadBalancer: a JSON or YAML list of pools {name, addresses: [PREFIX or FIRST-LAST], namespaces: [NAME], class: weft.dev/l2 or none, auto: false}; the same on all nodes. Empty: none are given")
	fs.BoolVar(&c.LoadBalancerDefault, "load-balancer-default", c.LoadBalancerDefault, "give addresses to Services without loadBalancerClass, too")
	fs.StringVar(&c.Cgroup, "cgroup", c.Cgroup, "folder of the cgroup2 whose processes reach Services at the socket; empty: the highest; none: no sockets, only what pods and others send is translated, packet by packet")
	fs.DurationVar(&c.ReuseDelay, "reuse-delay", c.ReuseDelay, "how long a released address is left alone")
	fs.Uint32Var(&c.MaxPods, "max-pods", c.MaxPods, "most pods on this node (sizes a BPF map)")
	fs.Uint32Var(&c.MaxNodes, "max-nodes", c.MaxNodes, "most other nodes (sizes a BPF map)")
	fs.StringVar(&c.MetricsAddress, "metrics-address", c.MetricsAddress, "ADDRESS:PORT on which metrics are served besides the socket; empty: nowhere")
	fs.StringVar(&c.WebAddress, "web-address", c.WebAddress, "ADDRESS:PORT on which the page of weft web is served, without a login: best one of loopback; empty: nowhere")
	fs.Uint16Var(&c.HealthPort, "health-port", c.HealthPort, "TCP port of 127.0.0.1 that answers /livez and /readyz; 0: none")
	fs.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
}

// Settings adds the settings to a command's flags and returns where their values
// will be. After parsing, [Load] adds those of the file.
func Settings(fs *pflag.FlagSet) *Config {
	c := DefaultConfig()
	c.settings(fs)
	return &c
}

// Load reads the file into the settings of fs that no flag has set, and validates
// the result c. A file that is not there is an error unless it is optional.
func Load(fs *pflag.FlagSet, c *Config, file string, optional bool) error {
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist) && optional:
	case err != nil:
		return fmt.Errorf("read settings: %w", err)
	default:
		if err := apply(fs, b); err != nil {
			return fmt.Errorf("read settings from %s: %w", file, err)
		}
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return nil
}

// again is the beginning of a document (YAML 1.2, 9.2) behind a line that says something: the
// parser would leave out what follows.
var again = regexp.MustCompile(`(?ms)^[^#\s-][^\n]*\n(.*\n)?---(\s|$)`)

// apply sets the flags that were not set from the keys of a YAML file. It reports
// all bad keys at once.
func apply(fs *pflag.FlagSet, file []byte) error {
	if again.Match(file) {
		return errors.New("the file has more than one document: only one can count, remove the line ---")
	}
	b, err := yaml.YAMLToJSONStrict(file)
	if err != nil {
		return fmt.Errorf("parse YAML: %w", err)
	}
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // as written: no 1e+06
	if err := d.Decode(&values); err != nil {
		return errors.New("the file must be a map of settings, as in `port: 8872`")
	}
	known := map[string]*pflag.Flag{}
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(Config).settings(own)
	own.VisitAll(func(f *pflag.Flag) { known[f.Name] = fs.Lookup(f.Name) })
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		f := known[key]
		if f == nil {
			errs = append(errs, unknownSetting(key, slices.Sorted(maps.Keys(known))))
			continue
		}
		text, err := scalar(values[key])
		if err == nil && !f.Changed {
			err = f.Value.Set(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

// scalar is a YAML value as one would write it in a flag.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return fmt.Sprint(v), nil
	case json.Number:
		return v.String(), nil
	case nil:
		return "", errors.New("has no value: give it one, or remove the line")
	}
	return "", errors.New("must be one value, not a list or a map")
}

func unknownSetting(key string, known []string) error {
	near, best := "", 1+len(key)/2
	for _, k := range known {
		if d := distance(strings.ReplaceAll(strings.ToLower(key), "_", "-"), k); d < best {
			near, best = k, d
		}
	}
	if near != "" {
		return fmt.Errorf("unknown setting %q: did you mean %q?", key, near)
	}
	return fmt.Errorf("unknown setting %q: there are %s", key, strings.Join(known, ", "))
}

// distance is how many characters must be inserted, deleted or replaced to make b
// of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
