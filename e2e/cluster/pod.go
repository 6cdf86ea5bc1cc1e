package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/internal/testnet"
)

// Pod is a network namespace that the plugin has attached, or is to.
type Pod struct {
	Namespace string // empty: default
	Name      string
	UID       string // empty: the runtime does not tell it
	ID        string // of the container
	NS        *testnet.NS
	Node      *Node
	Result    *types100.Result
	IP4       netip.Addr
	IP6       netip.Addr
	// Capabilities are passed as runtimeConfig.
	Capabilities map[string]any
}

// NewPod makes a pod's namespace. [Pod.Add] attaches it.
func (n *Node) NewPod(name string) (*Pod, error) {
	var id [16]byte
	rand.Read(id[:])
	ns, err := n.cluster.ns("pod")
	if err != nil {
		return nil, err
	}
	return &Pod{Name: name, ID: hex.EncodeToString(id[:]), NS: ns, Node: n}, nil
}

// AddPod makes a pod and attaches it.
func (n *Node) AddPod(ctx context.Context, name string) (*Pod, error) {
	p, err := n.NewPod(name)
	if err != nil {
		return nil, err
	}
	return p, p.Add(ctx)
}

// CNI is libcni with the node's folders. What plugins say beside their answers is appended to
// the file weft-cni.log in the node's folder.
func (n *Node) CNI() *libcni.CNIConfig {
	plugins := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: appendTo(n.Path("weft-cni.log"))}}
	return libcni.NewCNIConfigWithCacheDir([]string{n.Path("bin")}, n.Path("cache"), plugins)
}

// appendTo is a file to which each Write is appended.
type appendTo string

func (a appendTo) Write(b []byte) (int, error) {
	f, err := os.OpenFile(string(a), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Write(b)
}

// ConfList reads the configuration that the daemon has written.
func (n *Node) ConfList() (*libcni.NetworkConfigList, error) {
	return libcni.NetworkConfFromFile(n.Path("net.d", "05-weft.conflist"))
}

// Runtime is what a runtime says of the pod.
func (p *Pod) Runtime() *libcni.RuntimeConf {
	args := [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", cmp.Or(p.Namespace, "default")}, {"K8S_POD_NAME", p.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", p.ID},
	}
	if p.UID != "" {
		args = append(args, [2]string{"K8S_POD_UID", p.UID})
	}
	return &libcni.RuntimeConf{
		ContainerID: p.ID, NetNS: p.NS.Path(), IfName: "eth0", Args: args, CapabilityArgs: p.Capabilities,
	}
}

// Add attaches the pod.
func (p *Pod) Add(ctx context.Context) error {
	list, err := p.Node.ConfList()
	if err != nil {
		return fmt.Errorf("read CNI configuration: %w", err)
	}
	r, err := p.Node.CNI().AddNetworkList(ctx, list, p.Runtime())
	if err != nil {
		return fmt.Errorf("ADD %s: %w", p.Name, err)
	}
	return p.Take(r)
}

// Take takes over what the result of an ADD says.
func (p *Pod) Take(r types.Result) (err error) {
	if p.Result, err = types100.NewResultFromResult(r); err != nil {
		return fmt.Errorf("read result: %w", err)
	}
	for _, ip := range p.Result.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return fmt.Errorf("result of %s has a bad address %v", p.Name, ip.Address)
		}
		if a = a.Unmap(); a.Is4() {
			p.IP4 = a
		} else {
			p.IP6 = a
		}
	}
	return nil
}

// Check checks the pod.
func (p *Pod) Check(ctx context.Context) error {
	list, err := p.Node.ConfList()
	if err != nil {
		return err
	}
	return p.Node.CNI().CheckNetworkList(ctx, list, p.Runtime())
}

// Detach runs DEL. It can be repeated.
func (p *Pod) Detach(ctx context.Context) error {
	list, err := p.Node.ConfList()
	if err != nil {
		return fmt.Errorf("read CNI configuration: %w", err)
	}
	if err := p.Node.CNI().DelNetworkList(ctx, list, p.Runtime()); err != nil {
		return fmt.Errorf("DEL %s: %w", p.Name, err)
	}
	return nil
}

// Del detaches the pod and removes its namespace.
func (p *Pod) Del(ctx context.Context) error {
	return errors.Join(p.Detach(ctx), p.NS.Close())
}

// Addrs returns the pod's addresses.
func (p *Pod) Addrs() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{p.IP4, p.IP6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// GC runs the GC verb with these pods as the valid ones.
func (n *Node) GC(ctx context.Context, valid ...*Pod) error {
	list, err := n.ConfList()
	if err != nil {
		return err
	}
	args := &libcni.GCArgs{}
	for _, p := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: p.ID, IfName: "eth0"})
	}
	return n.CNI().GCNetworkList(ctx, list, args)
}
