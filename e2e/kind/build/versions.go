package build

// The versions of all that is built. Images have upstream's names and tags, so what is in
// them is what the tag says: CoreDNS and etcd are the ones that kubeadm of this
// Kubernetes asks for.
const (
	kubernetes  = "v1.37.2"
	etcd        = "v3.7.0"
	coredns     = "v1.14.6"
	containerd  = "v2.4.2"
	runc        = "v1.5.2"
	crictl      = "v1.37.0"
	kind        = "v0.33.0"
	cniPlugins  = "v1.9.1"
	debianSuite = "bookworm"

	// The names that kubeadm of this Kubernetes gives to the images of its parts; the
	// node image's recipe compares them with what kubeadm says.
	pauseImage   = "registry.k8s.io/pause:3.10.2"
	etcdImage    = "registry.k8s.io/etcd:3.7.0-0"
	corednsImage = "registry.k8s.io/coredns/coredns:" + coredns
)

// kubernetesStamp is what upstream's build writes into its binaries: without a version
// kubeadm and kubelet refuse each other.
func kubernetesStamp() map[string]string {
	stamp := map[string]string{}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		stamp[pkg+".gitVersion"] = kubernetes
		stamp[pkg+".gitMajor"] = "1"
		stamp[pkg+".gitMinor"] = "37"
		stamp[pkg+".gitTreeState"] = "clean"
		stamp[pkg+".gitCommit"] = "0000000000000000000000000000000000000000"
		stamp[pkg+".buildDate"] = "2026-01-01T00:00:00Z"
	}
	return stamp
}

// Kubernetes is the node's and the control plane's programs and agnhost, the program that
// upstream's tests run in pods.
func Kubernetes() GoBuild {
	return GoBuild{Label: "kubernetes", Module: "k8s.io/kubernetes", Version: kubernetes, Stamp: kubernetesStamp(),
		Packages: []string{
			"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager",
			"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kube-proxy",
			"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kubeadm", "k8s.io/kubernetes/cmd/kubectl",
			"k8s.io/kubernetes/test/images/agnhost",
		}}
}

// Kubectl is kubectl alone, for nodes that need no building.
func Kubectl() GoBuild {
	return GoBuild{Label: "kubectl", Module: "k8s.io/kubernetes", Version: kubernetes, Stamp: kubernetesStamp(),
		Packages: []string{"k8s.io/kubernetes/cmd/kubectl"}}
}

// UpstreamTests is e2e.test.
func UpstreamTests() GoBuild {
	return GoBuild{Label: "e2e-test", Module: "k8s.io/kubernetes", Version: kubernetes, Stamp: kubernetesStamp(),
		Test: true, Packages: []string{"k8s.io/kubernetes/test/e2e"}}
}

// Helpers are ginkgo, which runs e2e.test in several processes, of the version that
// Kubernetes requires, and a server that one of the tests needs.
func Helpers() GoBuild {
	return GoBuild{Label: "e2e-helpers", Module: "k8s.io/kubernetes", Version: kubernetes,
		Packages: []string{"github.com/onsi/ginkgo/v2/ginkgo", "k8s.io/kubernetes/test/images/regression-issue-74839"}}
}

// Etcd is the API server's database.
func Etcd() GoBuild {
	return GoBuild{Label: "etcd", Module: "go.etcd.io/etcd/server/v3", Version: etcd,
		Packages: []string{"go.etcd.io/etcd/server/v3"}, Rename: map[string]string{"server": "etcd"}}
}

// CoreDNS is the cluster's name server.
func CoreDNS() GoBuild {
	return GoBuild{Label: "coredns", Module: "github.com/coredns/coredns", Version: coredns,
		Packages: []string{"github.com/coredns/coredns"}}
}

// Containerd is the node's container runtime.
func Containerd() GoBuild {
	const at = "github.com/containerd/containerd/v2"
	return GoBuild{Label: "containerd", Module: at, Version: containerd, Tags: "no_btrfs",
		Stamp:    map[string]string{at + "/version.Version": containerd},
		Packages: []string{at + "/cmd/containerd", at + "/cmd/containerd-shim-runc-v2", at + "/cmd/ctr"}}
}

// Runc starts the node's containers.
func Runc() GoBuild {
	return GoBuild{Label: "runc", Module: "github.com/opencontainers/runc", Version: runc,
		CGO: true, Tags: "seccomp,netgo,osusergo", Stamp: map[string]string{"main.version": runc[1:]},
		Packages: []string{"github.com/opencontainers/runc"}}
}

// Crictl speaks to the node's runtime as the kubelet does.
func Crictl() GoBuild {
	return GoBuild{Label: "crictl", Module: "sigs.k8s.io/cri-tools", Version: crictl,
		Packages: []string{"sigs.k8s.io/cri-tools/cmd/crictl"}}
}

// Plugins are the CNI project's plugins: kind's nodes have them, the reference network
// and Weft's tests of chains use them.
func Plugins() GoBuild {
	const at = "github.com/containernetworking/plugins"
	return GoBuild{Label: "cni-plugins", Module: at, Version: cniPlugins,
		Packages: []string{at + "/plugins/main/bridge", at + "/plugins/main/loopback", at + "/plugins/main/ptp",
			at + "/plugins/ipam/host-local", at + "/plugins/meta/portmap", at + "/plugins/meta/bandwidth",
			at + "/plugins/meta/tuning"}}
}

// Kind makes the cluster.
func Kind() GoBuild {
	return GoBuild{Label: "kind", Module: "sigs.k8s.io/kind", Version: kind, Packages: []string{"sigs.k8s.io/kind"}}
}
