package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/bpf"
)

// load is what weftd does with its arguments and its file.
func load(t *testing.T, file string, args ...string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weftd.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	c := Settings(fs)
	if err := fs.Parse(append([]string{"--node-name=a"}, args...)); err != nil {
		return *c, err
	}
	err := Load(fs, c, path, false)
	return *c, err
}

func TestSettingsComeFromFlagsThenFileThenDefaults(t *testing.T) {
	base := DefaultConfig()
	base.NodeName = "a"
	with := func(f func(*Config)) Config {
		c := base
		f(&c)
		return c
	}
	for _, tc := range []struct {
		name, file string
		args       []string
		want       Config
	}{
		{"nothing set", "{}", nil, base},
		{"empty file", "", nil, base},
		{"comments only", "# nothing\n", nil, base},
		{"one document, marked", "# settings\n\n---\n# of this node\nvni: 5\n", nil, with(func(c *Config) { c.VNI = 5 })},
		{"file", "port: 4789\nvni: 5\n", nil, with(func(c *Config) { c.Port, c.VNI = 4789, 5 })},
		{"flag", "", []string{"--mtu=1400"}, with(func(c *Config) { c.MTU = 1400 })},
		{"flag wins", "mtu: 1300", []string{"--mtu=1400"}, with(func(c *Config) { c.MTU = 1400 })},
		{"flag wins with the default's value", "mtu: 1300", []string{"--mtu=0"}, base},
		{"big number", "max-pods: 1000000", nil, with(func(c *Config) { c.MaxPods = 1000000 })},
		{"duration", "reuse-delay: 1m30s", nil, with(func(c *Config) { c.ReuseDelay = 90 * time.Second })},
		{"boolean", "masquerade: false", nil, with(func(c *Config) { c.Masquerade = false })},
		{"services", "services: false\nnodeport-addresses: 192.0.2.0/24, 2001:db8::/64", nil, with(func(c *Config) {
			c.Services, c.NodePortAddresses = false, "192.0.2.0/24, 2001:db8::/64"
		})},
		{"pools", "load-balancer-pools: '[{name: a, addresses: [192.0.2.0/28]}]'\nload-balancer-default: true", nil, with(func(c *Config) {
			c.LoadBalancerPools, c.LoadBalancerDefault = "[{name: a, addresses: [192.0.2.0/28]}]", true
		})},
		{"chain", `cni-chain: '[{"type": "tuning"}]'`, nil, with(func(c *Config) { c.CNIChain = `[{"type": "tuning"}]` })},
		{"quoted", `masquerade: "false"`, nil, with(func(c *Config) { c.Masquerade = false })},
		{"number as text", "node-name: 7", []string{}, base},
		{"the API", "source: kube\napi-servers: '10.0.0.1, https://api.example.com'\nkubelet-kubeconfig: /k", nil, with(func(c *Config) {
			c.Source, c.APIServers, c.KubeletKubeconfig = "kube", "10.0.0.1, https://api.example.com", "/k"
		})},
		{"the API by a kubeconfig", "source: kube:/k", nil, with(func(c *Config) { c.Source = "kube:/k" })},
		{"text", "source: dir:/x\noverlay: auto", nil, with(func(c *Config) { c.Source, c.Overlay = "dir:/x", "auto" })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := load(t, tc.file, tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("settings (-want +got):\n%s", d)
			}
		})
	}
}

func TestBadSettingsSayWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		args       []string
		want       []string // parts of the message
	}{
		{"unknown key", "prot: 1", nil, []string{`unknown setting "prot"`, `did you mean "port"?`}},
		{"key of another style", "stateDir: /x", nil, []string{`did you mean "state-dir"?`}},
		{"nothing near", "zzzzzzzzzzzz: 1", nil, []string{`unknown setting "zzzzzzzzzzzz": there are announce-port, api-servers, bpf-dir, `}},
		{"all bad keys at once", "aa: 1\nvni: x\n", nil, []string{`unknown setting "aa"`, "vni:"}},
		{"file cut in half", "port: 87\nsource: \"dir", nil, []string{"weftd.yaml", "parse YAML"}},
		{"key twice", "port: 1\nport: 2\n", nil, []string{"already set"}},
		{"not a map", "- port", nil, []string{"must be a map of settings"}},
		{"list", "port: [1]", nil, []string{"port: must be one value"}},
		{"null", "port:", nil, []string{"port: has no value"}},
		{"port too big", "port: 70000", nil, []string{"port:", "70000"}},
		{"the overlay's port for probes", "announce-port: 8872", nil, []string{"announce-port: 8872", "use 8874"}},
		{"the port two after the overlay's for probes", "port: 8871", nil, []string{"port: the one two after 8871", "use 8872"}},
		{"port zero", "port: 0", nil, []string{"port: 0 is no UDP port"}},
		{"the probes' port for the overlay", "port: 8873", nil, []string{"port: 8873 is no UDP port, or that of the overlay's probes", "use 8872"}},
		{"two documents", "port: 1\n---\nport: 2\n", nil, []string{"more than one document", "---"}},
		{"vni too big", "vni: 16777216", nil, []string{"vni: 16777216 is not in 1…16777214"}},
		{"no node name", "", []string{"--node-name="}, []string{"node-name:", "metadata.name"}},
		{"node name as path", "", []string{"--node-name=../x"}, []string{"node-name:"}},
		{"node name in capitals", "", []string{"--node-name=Node-A"}, []string{"node-name:", "a-z, 0-9"}},
		{"source", "source: etcd:/x", nil, []string{"source:", "dir:/PATH", "kube:/PATH"}},
		{"source without its path", "source: dir", nil, []string{"source:", "dir:/PATH"}},
		{"relative source", "source: dir:x", nil, []string{"dir:/PATH"}},
		{"relative kubeconfig", "source: kube:x", nil, []string{"source:", "kube:/PATH"}},
		{"API server", "api-servers: 'http://10.0.0.1'", nil, []string{"api-servers:", "https"}},
		{"relative kubelet's kubeconfig", "kubelet-kubeconfig: x", nil, []string{"kubelet-kubeconfig:", "begin it with /"}},
		{"relative path", "state-dir: x", nil, []string{`state-dir: "x" is not an absolute path`}},
		{"long socket", "socket: /" + strings.Repeat("x", 120), nil, []string{"socket: the path has 121 bytes"}},
		{"overlay", "overlay: ipip", nil, []string{`"ipip" is none of vxlan, direct, auto`}},
		{"empty overlay", `overlay: ""`, nil, []string{`"" is none of vxlan, direct, auto`}},
		{"node port addresses", "nodeport-addresses: 192.0.2.1", nil, []string{`nodeport-addresses: "192.0.2.1" is no prefix`, "192.0.2.0/24,"}},
		{"pools without addresses", `load-balancer-pools: '[{name: a}]'`, nil, []string{"load-balancer-pools: pool 1: a: addresses: none; write them"}},
		{"pools without Services", "load-balancer-pools: '[{name: a, addresses: [192.0.2.1]}]'\nservices: false", nil, []string{"load-balancer-pools: there are pools, but services is false"}},
		{"chain cut short", `cni-chain: '[{"type": "tuning"}'`, nil, []string{"cni-chain: not a JSON list as in [{"}},
		{"chain without type", `cni-chain: '[{"type": "tuning"}, {"name": "x"}]'`, nil, []string{`cni-chain: plugin 2: the type "" is no name of a binary`}},
		{"chain by a path", `cni-chain: '[{"type": "../tuning"}]'`, nil, []string{`the type "../tuning" is no name`}},
		{"chain with ours", `cni-chain: '[{"type": "weft-cni"}]'`, nil, []string{"weft-cni comes before the list by itself"}},
		{"relative cgroup", "cgroup: x", nil, []string{`cgroup: "x" is neither none nor an absolute path`}},
		{"small mtu", "mtu: 100", nil, []string{"mtu: 100 is not in 576…65535: use 0"}},
		{"negative delay", "reuse-delay: -1s", nil, []string{"reuse-delay: -1s"}},
		{"delay without unit", "reuse-delay: 30", nil, []string{"reuse-delay:", "30"}},
		{"no pods", "max-pods: 0", nil, []string{"max-pods: 0 is not in"}},
		{"metrics address", "metrics-address: nine", nil, []string{"ADDRESS:PORT"}},
		{"web address", "web-address: \"8087\"", nil, []string{`web-address: "8087" is not ADDRESS:PORT`, "127.0.0.1:8087"}},
		{"log level", "log-level: loud", nil, []string{"debug, info, warn, error"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, tc.file, tc.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

// Whose sockets are served: the highest cgroup's, those of one that is named, or none.
func TestWhoseSocketsAreServed(t *testing.T) {
	highest, err := bpf.FindCgroup()
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"": highest, "cgroup: " + highest: highest, "cgroup: none": "", "services: false": highest, // of host ports
	} {
		c, err := load(t, file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.cgroup(); got != want || err != nil {
			t.Errorf("with %q: cgroup %q, %v, want %q", file, got, err, want)
		}
	}
}

func TestFolderThatIsNoCgroupIsSaid(t *testing.T) {
	plain := t.TempDir()
	for path, want := range map[string]string{plain: "not on a cgroup2 file system", plain + "/none": "no such file"} {
		c, err := load(t, "cgroup: "+path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.cgroup(); got != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s: cgroup %q, %v, want an error that says %q", path, got, err, want)
		}
	}
}

func TestMissingFileIsAnErrorOnlyIfAskedFor(t *testing.T) {
	for optional, want := range map[bool]bool{true: true, false: false} {
		fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
		c := Settings(fs)
		c.NodeName = "a"
		if err := Load(fs, c, "/nonexistent/weftd.yaml", optional); (err == nil) != want {
			t.Errorf("optional %v: got error %v", optional, err)
		}
	}
}

// Whatever the file says, it is refused or gives settings that hold, without a panic.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{"port: 1", "vni: 0x10", "a: [", "reuse-delay: 1h", "{}", "mtu: !!float 1", "&a port: *a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
		c := Settings(fs)
		if apply(fs, file) != nil || c.Validate() != nil {
			return
		}
		if c.Port == 0 || c.VNI == 0 || c.VNI > maxVNI || c.MaxPods == 0 || !filepath.IsAbs(c.Socket) {
			t.Errorf("accepted %q as %+v", file, c)
		}
	})
}
