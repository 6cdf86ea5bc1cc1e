package cluster

import (
	"cmp"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Family is a cluster's address families, in kind's words.
type Family string

// The families.
const (
	Dual Family = "dual" // IPv4 first
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Spec says what cluster to make. Its zero value, but for Image, is one control plane and
// two workers, dual-stack, without kube-proxy, and pods run on all three.
type Spec struct {
	Name    string // empty: weft
	Family  Family // empty: dual
	Workers int    // 0: 2
	// Zones is how many zones the workers are spread over. The control plane is in none and
	// then takes no pods: Kubernetes gives no topology hints for its pods.
	Zones     int
	KubeProxy bool
	Image     string // of the nodes
}

func (s Spec) withDefaults() Spec {
	s.Name = cmp.Or(s.Name, "weft")
	s.Family = cmp.Or(s.Family, Dual)
	s.Workers = cmp.Or(s.Workers, 2)
	return s
}

// Families is how many addresses a pod has.
func (s Spec) Families() int {
	if s.Family == Dual {
		return 2
	}
	return 1
}

// Takers is how many nodes take pods.
func (s Spec) Takers() int {
	if s.Zones > 0 {
		return s.Workers
	}
	return s.Workers + 1
}

// Subnets of the cluster's pods and Services, in kind's form.
var subnets = map[Family][2]string{
	Dual: {"10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/16,fd00:10:96::/112"},
	IPv4: {"10.244.0.0/16", "10.96.0.0/16"},
	IPv6: {"fd00:10:244::/56", "fd00:10:96::/112"},
}

// config is kind's configuration.
func (s Spec) config() string {
	var b strings.Builder
	line := func(parts ...string) { b.WriteString(strings.Join(parts, "") + "\n") }
	line("kind: Cluster")
	line("apiVersion: kind.x-k8s.io/v1alpha4")
	line("networking:")
	line("  disableDefaultCNI: true")
	line("  ipFamily: ", string(s.Family))
	line("  podSubnet: ", `"`, subnets[s.Family][0], `"`)
	line("  serviceSubnet: ", `"`, subnets[s.Family][1], `"`)
	line("  dnsSearch: []") // the machine's is not the cluster's
	mode := "none"
	if s.KubeProxy {
		mode = "nftables"
	}
	line("  kubeProxyMode: ", mode)
	line("nodes:")
	line("- role: control-plane")
	for i := range s.Workers {
		line("- role: worker")
		if s.Zones > 0 {
			line("  labels: {topology.kubernetes.io/zone: zone-", strconv.Itoa(i%s.Zones+1), "}")
		}
	}
	line("kubeadmConfigPatches:")
	line("- |")
	line("  kind: KubeletConfiguration")
	line("  apiVersion: kubelet.config.k8s.io/v1beta1")
	line("  maxPods: 200") // by default there is no room for 110 beside the cluster's own
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		line("  failCgroupV1: false") // since 1.35 the kubelet wants version 2
	}
	if set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err == nil && set == 0 {
		// No OOM score may be lowered.
		line("  oomScoreAdj: 0")
		if s.KubeProxy {
			line("- |")
			line("  kind: KubeProxyConfiguration")
			line("  apiVersion: kubeproxy.config.k8s.io/v1alpha1")
			line("  oomScoreAdj: 0")
		}
		line("containerdConfigPatches:")
		line("- |")
		line(`  [plugins."io.containerd.grpc.v1.cri"]`)
		line("    restrict_oom_score_adj = true")
	}
	return b.String()
}
