package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/loadbalancer"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source/kube"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/web"
	"github.com/weftnet/weft/overlay"
	"github.com/weftnet/weft/plugin"
)

// DefaultConfigFile is read if it exists; another one must exist.
const DefaultConfigFile = "/etc/weft/weftd.yaml"

// Config is the daemon's settings. [DefaultConfig] is what holds where neither a
// flag nor the file says otherwise; the settings' names and documentation are in
// [Config.settings].
type Config struct {
	NodeName string
	Source   string // dir:PATH, kube or kube:PATH
	// Where the source kube finds the API: a list with commas between, and the kubelet's
	// kubeconfig.
	APIServers, KubeletKubeconfig string

	Socket    string
	StateDir  string
	BPFDir    string
	ConfDir   string // cni-conf-dir
	BinDir    string // cni-bin-dir
	CNIBinary string // what is installed; empty: weft-cni beside the running program
	CNIChain  string // plugins after ours, as plugin.ParseChain reads them

	Overlay    string // an overlay.Mode
	VNI        uint32
	Port       uint16
	MTU        int // 0: follow the uplinks
	Masquerade bool

	Services          bool
	NodePortAddresses string // prefixes with commas between; empty: all
	Forwarding        string // service.SNAT or service.DSR
	Cgroup            string // empty: the highest that there is; none

	LoadBalancerPools   string // as loadbalancer.ParsePools reads them; empty: none
	LoadBalancerDefault bool   // Services without a class are ours, too
	AnnouncePort        uint16 // UDP, of probes; 0: the one two after Port

	ReuseDelay time.Duration
	MaxPods    uint32
	MaxNodes   uint32

	MetricsAddress string // empty: on the socket only
	WebAddress     string // empty: nowhere
	HealthPort     uint16 // on 127.0.0.1; 0: none
	LogLevel       string
}

// DefaultConfig returns the settings of a node on which nothing was set. The name
// is the host's, in lower case, as the kubelet takes it.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "" // Validate then asks for node-name
	}
	return Config{
		NodeName: strings.ToLower(host),
		Source:   "dir:/etc/weft/objects",

		KubeletKubeconfig: kube.DefaultKubelet,

		Socket:     api.DefaultSocket,
		StateDir:   api.DefaultStateDir,
		BPFDir:     "/sys/fs/bpf/weft",
		ConfDir:    "/etc/cni/net.d",
		BinDir:     "/opt/cni/bin",
		Overlay:    string(overlay.ModeVXLAN),
		VNI:        overlay.DefaultVNI,
		Port:       overlay.DefaultPort,
		Masquerade: true,
		Services:   true,
		Forwarding: service.SNAT,
		ReuseDelay: 30 * time.Second,
		MaxPods:    1024,
		MaxNodes:   8192,
		LogLevel:   "info",
	}
}

// Limits of settings.
const (
	maxVNI   = 1<<24 - 2 // RFC 7348: 24 bits; and the next is that of forwarding dsr
	minMTU   = 576       // RFC 791: what every IPv4 host must take
	maxMTU   = 65535
	maxRows  = 1 << 20
	maxDelay = 24 * time.Hour
	// maxSocketPath is what sockaddr_un holds (linux/un.h UNIX_PATH_MAX), with its end.
	maxSocketPath = 107
)

// nodeName is a name as the API server takes it (RFC 1123 subdomain).
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

const maxNodeName = 253

// announcePort is the UDP port of the nodes' probes.
func (c Config) announcePort() uint16 { return cmp.Or(c.AnnouncePort, c.Port+2) }

// Validate says what is wrong with the settings and what to do about it, all at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf(name+": "+format, args...))
	}
	if !nodeName.MatchString(c.NodeName) || len(c.NodeName) > maxNodeName {
		bad("node-name", "%q is no node name (a-z, 0-9, - and .): set it to metadata.name of this machine's Node object", c.NodeName)
	}
	if _, _, err := c.source(); err != nil {
		bad("source", "%w", err)
	}
	if _, err := kube.ParseServers(c.APIServers); err != nil {
		bad("api-servers", "%w", err)
	}
	if c.KubeletKubeconfig != "" && !filepath.IsAbs(c.KubeletKubeconfig) {
		bad("kubelet-kubeconfig", "%q is not an absolute path: begin it with /", c.KubeletKubeconfig)
	}
	for _, p := range []struct{ name, path string }{
		{"socket", c.Socket}, {"state-dir", c.StateDir}, {"bpf-dir", c.BPFDir},
		{"cni-conf-dir", c.ConfDir}, {"cni-bin-dir", c.BinDir},
	} {
		if !filepath.IsAbs(p.path) {
			bad(p.name, "%q is not an absolute path: begin it with /", p.path)
		}
	}
	if c.CNIBinary != "" && !filepath.IsAbs(c.CNIBinary) {
		bad("cni-binary", "%q is not an absolute path: begin it with /", c.CNIBinary)
	}
	if _, err := plugin.ParseChain(c.CNIChain); err != nil {
		bad("cni-chain", "%w", err)
	}
	if len(c.Socket) > maxSocketPath {
		bad("socket", "the path has %d bytes, a unix socket's may have %d: choose a shorter one", len(c.Socket), maxSocketPath)
	}
	if _, err := overlay.ParseMode(c.Overlay); err != nil || c.Overlay == "" {
		bad("overlay", "%q is none of vxlan, direct, auto", c.Overlay)
	}
	if c.VNI == 0 || c.VNI > maxVNI {
		bad("vni", "%d is not in 1…%d", c.VNI, maxVNI)
	}
	if c.Port == 0 || c.Port == overlay.ProbePort {
		bad("port", "%d is no UDP port, or that of the overlay's probes (%d): use %d, or another that is the same on all nodes",
			c.Port, overlay.ProbePort, overlay.DefaultPort)
	}
	port := c.announcePort()
	switch taken := port == 0 || port == c.Port || port == overlay.ProbePort; {
	case taken && c.AnnouncePort == 0: // port alone was set
		bad("port", "the one two after %d is that of the nodes' probes, and is no UDP port or that of the overlay's probes (%d): use %d, or another that is the same on all nodes",
			c.Port, overlay.ProbePort, overlay.DefaultPort)
	case taken:
		bad("announce-port", "%d is no UDP port, or that of the overlay or of its probes (%d, %d): use %d, or another that is the same on all nodes",
			port, c.Port, overlay.ProbePort, bpf.DefaultAnnouncePort)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		bad("mtu", "%d is not in %d…%d: use 0 to follow the uplinks", c.MTU, minMTU, maxMTU)
	}
	if _, err := c.nodePortPrefixes(); err != nil {
		bad("nodeport-addresses", "%w", err)
	}
	if c.Forwarding != service.SNAT && c.Forwarding != service.DSR {
		bad("forwarding", "%q is none of %s, %s", c.Forwarding, service.SNAT, service.DSR)
	}
	if pools, err := loadbalancer.ParsePools(c.LoadBalancerPools); err != nil {
		bad("load-balancer-pools", "%w", err)
	} else if len(pools) > 0 && !c.Services {
		bad("load-balancer-pools", "there are pools, but services is false: who serves Services must announce their addresses, too; remove one of both")
	}
	if c.Cgroup != "" && c.Cgroup != noSockets && !filepath.IsAbs(c.Cgroup) {
		bad("cgroup", "%q is neither none nor an absolute path: begin it with /", c.Cgroup)
	}
	if c.ReuseDelay < 0 || c.ReuseDelay > maxDelay {
		bad("reuse-delay", "%s is not in 0s…%s", c.ReuseDelay, maxDelay)
	}
	if c.MaxPods == 0 || c.MaxPods > maxRows {
		bad("max-pods", "%d is not in 1…%d", c.MaxPods, maxRows)
	}
	if c.MaxNodes == 0 || c.MaxNodes > maxRows {
		bad("max-nodes", "%d is not in 1…%d", c.MaxNodes, maxRows)
	}
	if c.MetricsAddress != "" {
		if _, port, err := net.SplitHostPort(c.MetricsAddress); err != nil || port == "" {
			bad("metrics-address", "%q is not ADDRESS:PORT, for example 127.0.0.1:9087 or [::1]:9087", c.MetricsAddress)
		}
	}
	if c.WebAddress != "" {
		if _, port, err := net.SplitHostPort(c.WebAddress); err != nil || port == "" {
			bad("web-address", "%q is not ADDRESS:PORT, for example %s or [::1]:8087", c.WebAddress, web.DefaultAddress)
		}
	}
	if _, err := c.Level(); err != nil {
		bad("log-level", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	return errors.Join(errs...)
}

// Level is the log level.
func (c Config) Level() (slog.Level, error) {
	var l slog.Level
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		err := l.UnmarshalText([]byte(c.LogLevel))
		return l, err
	}
	return l, fmt.Errorf("unknown level %q", c.LogLevel)
}

// nodePortPrefixes are the prefixes of nodeport-addresses; none: all addresses.
func (c Config) nodePortPrefixes() ([]netip.Prefix, error) {
	if c.NodePortAddresses == "" {
		return nil, nil
	}
	var out []netip.Prefix
	for text := range strings.SplitSeq(c.NodePortAddresses, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is no prefix: write them as in 192.0.2.0/24,2001:db8::/64", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// nodePortAddrs are those of a node's addresses that serve node ports, unmapped.
func nodePortAddrs(prefixes []netip.Prefix, addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, a)
		}
	}
	return out
}

// mode is the overlay mode of a validated configuration.
func (c Config) mode() overlay.Mode { return overlay.Mode(c.Overlay) }

// binary is the CNI binary to be installed.
func (c Config) binary() (string, error) {
	if c.CNIBinary != "" {
		return c.CNIBinary, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find weft-cni beside weftd: %w: set cni-binary", err)
	}
	return filepath.Join(filepath.Dir(self), api.PluginType), nil
}
