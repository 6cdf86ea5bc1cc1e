package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestConfigIsWhatKindShallMake(t *testing.T) {
	for name, tc := range map[string]struct {
		spec       Spec
		networking map[string]any
		nodes      int
	}{
		"zero value": {Spec{}, map[string]any{
			"disableDefaultCNI": true, "ipFamily": "dual", "kubeProxyMode": "none", "dnsSearch": []any{},
			"podSubnet": "10.244.0.0/16,fd00:10:244::/56", "serviceSubnet": "10.96.0.0/16,fd00:10:96::/112",
		}, 3},
		"IPv6 with kube-proxy": {Spec{Family: IPv6, Workers: 1, KubeProxy: true}, map[string]any{
			"disableDefaultCNI": true, "ipFamily": "ipv6", "kubeProxyMode": "nftables", "dnsSearch": []any{},
			"podSubnet": "fd00:10:244::/56", "serviceSubnet": "fd00:10:96::/112",
		}, 2},
	} {
		var got struct {
			Kind       string         `json:"kind"`
			Networking map[string]any `json:"networking"`
			Nodes      []struct {
				Role   string            `json:"role"`
				Labels map[string]string `json:"labels"`
			} `json:"nodes"`
		}
		if err := yaml.Unmarshal([]byte(tc.spec.withDefaults().config()), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Kind != "Cluster" || len(got.Nodes) != tc.nodes || got.Nodes[0].Role != "control-plane" {
			t.Errorf("%s: got %s of %v, want a Cluster of %d nodes", name, got.Kind, got.Nodes, tc.nodes)
		}
		zones := map[string]bool{}
		for _, n := range got.Nodes {
			zones[n.Labels["topology.kubernetes.io/zone"]] = true
		}
		if len(zones) != tc.nodes {
			t.Errorf("%s: zones are %v, want %d", name, zones, tc.nodes)
		}
		if diff := cmp.Diff(tc.networking, got.Networking); diff != "" {
			t.Errorf("%s: networking (-want +got):\n%s", name, diff)
		}
	}
}
