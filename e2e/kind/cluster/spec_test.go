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
		zones      []string // of the nodes
	}{
		"zero value": {Spec{}, map[string]any{
			"disableDefaultCNI": true, "ipFamily": "dual", "kubeProxyMode": "none", "dnsSearch": []any{},
			"podSubnet": "10.244.0.0/16,fd00:10:244::/56", "serviceSubnet": "10.96.0.0/16,fd00:10:96::/112",
		}, []string{"", "", ""}},
		"IPv6 with kube-proxy": {Spec{Family: IPv6, Workers: 3, Zones: 2, KubeProxy: true}, map[string]any{
			"disableDefaultCNI": true, "ipFamily": "ipv6", "kubeProxyMode": "nftables", "dnsSearch": []any{},
			"podSubnet": "fd00:10:244::/56", "serviceSubnet": "fd00:10:96::/112",
		}, []string{"", "zone-1", "zone-2", "zone-1"}},
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
		if got.Kind != "Cluster" || len(got.Nodes) == 0 || got.Nodes[0].Role != "control-plane" {
			t.Errorf("%s: got %s of %v, want a Cluster that begins with its control plane", name, got.Kind, got.Nodes)
		}
		var zones []string
		for _, n := range got.Nodes {
			zones = append(zones, n.Labels["topology.kubernetes.io/zone"])
		}
		if diff := cmp.Diff(tc.zones, zones); diff != "" {
			t.Errorf("%s: nodes' zones (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(tc.networking, got.Networking); diff != "" {
			t.Errorf("%s: networking (-want +got):\n%s", name, diff)
		}
	}
}
