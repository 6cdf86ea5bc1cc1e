package plugin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/internal/api"
)

// runtimeConfig holds the capabilities (CONVENTIONS.md, "Dynamic Plugin specific
// fields"). Other ones are left alone: a runtime may pass more than it was told of.
type runtimeConfig struct {
	IPs          []string      `json:"ips"`
	MAC          string        `json:"mac"`
	PortMappings []portMapping `json:"portMappings"`
	Bandwidth    *bandwidth    `json:"bandwidth"`
	DNS          *struct {
		Servers  []string `json:"servers"`
		Searches []string `json:"searches"`
		Options  []string `json:"options"`
	} `json:"dns"`
}

// portMapping is an api.PortMapping with numbers that need not be ports.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// bandwidth is an api.Bandwidth with numbers that need not be positive.
type bandwidth struct {
	IngressRate  int64 `json:"ingressRate"`
	IngressBurst int64 `json:"ingressBurst"`
	EgressRate   int64 `json:"egressRate"`
	EgressBurst  int64 `json:"egressBurst"`
}

// cniArgs is args.cni (CONVENTIONS.md, "args in network config").
type cniArgs struct {
	CNI struct {
		IPs    []string `json:"ips"`
		Labels labels   `json:"labels"`
	} `json:"cni"`
}

// labels are a list of {key, value} by the conventions; the short form of an object
// is taken as well.
type labels map[string]string

func (l *labels) UnmarshalJSON(b []byte) error {
	var pairs []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(b, &pairs); err != nil {
		return json.Unmarshal(b, (*map[string]string)(l))
	}
	*l = make(labels, len(pairs))
	for _, p := range pairs {
		(*l)[p.Key] = p.Value
	}
	return nil
}

// asked fills in what the runtime asks for beyond an interface.
func (c *conf) asked(a *api.Attach) error {
	var rc runtimeConfig
	if err := c.get("runtimeConfig", &rc); err != nil {
		return err
	}
	var args cniArgs
	if err := c.get("args", &args); err != nil {
		return err
	}
	if len(args.CNI.Labels) > 0 {
		a.Labels = args.CNI.Labels
	}
	var err error
	a.MAC = rc.MAC
	if a.IPs, err = addresses("runtimeConfig", rc.IPs); err != nil {
		return err
	}
	if a.IPs == nil {
		if a.IPs, err = addresses("args", args.CNI.IPs); err != nil {
			return err
		}
	}
	for _, m := range rc.PortMappings {
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return badKey("runtimeConfig", "portMappings: no ports: %d to %d", m.HostPort, m.ContainerPort)
		}
		a.PortMappings = append(a.PortMappings, api.PortMapping{
			HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort),
			Protocol: strings.ToLower(m.Protocol), HostIP: m.HostIP,
		})
	}
	if b := rc.Bandwidth; b != nil {
		if b.IngressRate < 0 || b.IngressBurst < 0 || b.EgressRate < 0 || b.EgressBurst < 0 {
			return badKey("runtimeConfig", "bandwidth: a negative number")
		}
		a.Bandwidth = &api.Bandwidth{
			IngressRate: uint64(b.IngressRate), IngressBurst: uint64(b.IngressBurst),
			EgressRate: uint64(b.EgressRate), EgressBurst: uint64(b.EgressBurst),
		}
	}
	return c.dns(a, rc)
}

// dns takes the key dns of the configuration, over which the capability goes.
func (c *conf) dns(a *api.Attach, rc runtimeConfig) error {
	var dns types.DNS
	if err := c.get("dns", &dns); err != nil {
		return err
	}
	if r := rc.DNS; r != nil {
		if len(r.Servers) > 0 {
			dns.Nameservers = r.Servers
		}
		if len(r.Searches) > 0 {
			dns.Search = r.Searches
		}
		if len(r.Options) > 0 {
			dns.Options = r.Options
		}
	}
	if dns.IsEmpty() {
		return nil
	}
	b, err := json.Marshal(dns)
	if err != nil {
		return fmt.Errorf("encode dns: %w", err)
	}
	a.DNS = b
	return nil
}

// addresses parses addresses with or without a prefix length; Weft's pods have /32
// and /128 whatever is asked.
func addresses(key string, texts []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, text := range texts {
		host, _, _ := strings.Cut(text, "/")
		addr, err := netip.ParseAddr(host)
		if err == nil && host != text {
			_, err = netip.ParsePrefix(text)
		}
		if err != nil {
			return nil, badKey(key, "ips: %v", err)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}
