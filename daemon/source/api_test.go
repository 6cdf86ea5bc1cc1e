package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// What one object of each kind may say, good and bad. Each must be the same whether it
// comes from the folder or from the API.
var objectsOfBoth = map[string][]string{
	"Node": {
		`{metadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}, spec: {podCIDRs: [10.0.1.7/24, 'fd00::/64']}, status: {addresses: [{type: Hostname, address: x}, {type: InternalIP, address: 192.0.2.1}]}}`,
		`{metadata: {name: n1}, spec: {podCIDR: 10.0.1.0/24}, status: {addresses: [{type: InternalIP, address: '2001:db8::1'}]}}`,
		`{metadata: {name: n1}}`,
		`{metadata: {name: n1}, spec: {podCIDRs: [10.0.1.0/24]}}`,
		`{metadata: {name: n1}, spec: {podCIDRs: [10.0.1.0/24, 10.0.2.0/24]}}`,
		`{metadata: {name: n1}, spec: {podCIDRs: [ten]}}`,
		`{metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: nowhere}]}}`,
		`{metadata: {name: N_1}}`,
		`{metadata: {labels: {a: b}}}`,
	},
	"Pod": {
		`{metadata: {name: p, namespace: shop, uid: u1, labels: {app: a}}, spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 80}, {containerPort: 81}]}]}, status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], conditions: [{type: Ready, status: 'False'}]}}`,
		`{metadata: {name: p, deletionTimestamp: '2026-01-02T03:04:05Z'}, spec: {hostNetwork: true}, status: {podIP: 10.0.0.1}}`,
		`{metadata: {name: p}, status: {phase: Failed, podIP: 10.0.0.1}}`,
		`{metadata: {name: p}, spec: {initContainers: [{restartPolicy: Always, ports: [{name: s, containerPort: 7, protocol: UDP}]}, {ports: [{name: x, containerPort: 8}]}]}}`,
		`{metadata: {name: p}, spec: {containers: [{ports: [{name: http, containerPort: 0}]}]}}`,
		`{metadata: {name: p}, spec: {containers: [{ports: [{name: http, containerPort: 1, protocol: IPX}]}]}}`,
		`{metadata: {name: p}, status: {podIPs: [{ip: x}]}}`,
	},
	"Service": {
		`{metadata: {name: s, namespace: shop, annotations: {weft.dev/forwarding: dsr, other: x}}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00:96::1'], selector: {b: c, a: b}, ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP, targetPort: dns}]}}`,
		`{metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.96.0.1, externalIPs: [192.0.2.9], sessionAffinity: ClientIP, internalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}}`,
		`{metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80}]}}`,
		`{metadata: {name: s}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1, externalTrafficPolicy: Local, healthCheckNodePort: 31000, loadBalancerSourceRanges: [10.0.0.0/8], loadBalancerClass: weft.dev/l2, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, trafficDistribution: PreferClose, publishNotReadyAddresses: true, ports: [{port: 80}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: x}, {ip: 127.0.0.1}]}}}`,
		`{metadata: {name: s, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, 192.0.2.0/24'}}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]}}`,
		`{metadata: {name: s}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1, loadBalancerIP: 192.0.2.7, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}, status: {conditions: [{type: Other, status: 'True', reason: R}, {type: weft.dev/LoadBalancerAddress, status: 'False', reason: Exhausted, message: none is free}]}}`,
		`{metadata: {name: s}, spec: {type: ClusterIP, clusterIP: 'fd00::1', ports: [{port: 80}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}, conditions: [{type: weft.dev/LoadBalancerAddress, status: 'True', reason: Allocated, message: x}]}}`,
		`{metadata: {name: s}, spec: {clusterIP: None, clusterIPs: [None]}}`,
		`{metadata: {name: s}, spec: {type: ExternalName, externalName: example.com}}`,
		`{metadata: {name: s, labels: {service.kubernetes.io/service-proxy-name: other}}, spec: {clusterIP: 10.96.0.1}}`,
		`{metadata: {name: s, labels: {service.kubernetes.io/headless: ""}}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}`,
		`{metadata: {name: s}, spec: {ports: [{port: 80}]}}`,
		`{metadata: {name: s}, spec: {type: Magic}}`,
		`{metadata: {name: s}, spec: {clusterIP: 127.0.0.1}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 81}]}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 99999}]}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: Not_A_Name}]}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, internalTrafficPolicy: Nearby}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, trafficDistribution: Newest, ports: [{port: 80}]}}`,
		`{metadata: {name: s}, spec: {clusterIP: 10.96.0.1, loadBalancerSourceRanges: [ten]}}`,
	},
	"Namespace": {
		`{metadata: {name: shop, labels: {team: red}}}`,
		`{metadata: {name: S_}}`,
	},
	"NetworkPolicy": {
		`{metadata: {name: p, namespace: shop, uid: u}, spec: {podSelector: {matchLabels: {a: b}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [c, b]}]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: http}, {port: 1, endPort: 2, protocol: UDP}, {protocol: SCTP}]}], egress: [{}]}}`,
		`{metadata: {name: p}}`,
		`{metadata: {name: p}, spec: {egress: [{to: [{ipBlock: {cidr: x}}]}]}}`,
		`{metadata: {name: p}, spec: {ingress: [{ports: [{port: 0}]}]}}`,
		`{metadata: {name: p}, spec: {ingress: [{ports: [{port: '80'}]}]}}`,
		`{metadata: {name: p}, spec: {policyTypes: [Out]}}`,
		`{metadata: {name: P}}`,
	},
	"ClusterNetworkPolicy": {
		`{metadata: {name: p, uid: u}, spec: {tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [{name: r, action: Accept, from: [{namespaces: {matchLabels: {a: b}}}, {pods: {namespaceSelector: {}, podSelector: {}}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {destinationNamedPort: http}]}], egress: [{action: Deny, to: [{nodes: {}}, {networks: [10.0.0.0/8]}]}]}}`,
		`{metadata: {name: p}, spec: {tier: Admin, priority: 7, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [example.com]}]}]}}`,
		`{metadata: {name: p}, spec: {tier: Mine, priority: 7, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {}}]}]}}`,
		`{metadata: {name: p}, spec: 5}`,
		`{metadata: {name: P}}`,
	},
	"EndpointSlice": {
		`{metadata: {name: e, namespace: shop, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: http, port: 80, protocol: TCP}, {name: none}], endpoints: [{addresses: [10.0.0.1, 10.0.0.9], nodeName: n1, zone: z, conditions: {ready: false, serving: true, terminating: true}, hints: {forZones: [{name: z}], forNodes: [{name: n1}]}, targetRef: {kind: Pod, name: p, uid: u}}, {addresses: [10.0.0.2]}, {addresses: [127.0.0.1]}]}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: IPv6, endpoints: [{addresses: ['fd00::1'], conditions: {ready: true}, targetRef: {kind: Node, namespace: x, name: m}}]}`,
		`{metadata: {name: e}, addressType: IPv4}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s, service.kubernetes.io/headless: ''}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.2]}]}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: FQDN, endpoints: [{addresses: [example.com]}]}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: IPX}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: S_}}, addressType: IPv4}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, endpoints: [{addresses: ['fd00::1']}]}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, endpoints: [{addresses: []}]}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{port: 0}]}`,
		`{metadata: {name: e, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{port: 1, protocol: X}]}`,
	},
}

var equalSelectors = cmp.Comparer(func(a, b labels.Selector) bool { return reflect.DeepEqual(a, b) })

// fromAPI reads an object as the API gives it.
func fromAPI(t *testing.T, kind string, js []byte) (objects, error) {
	t.Helper()
	var out objects
	var err error
	read := func(into any) {
		if err := json.Unmarshal(js, into); err != nil {
			t.Fatalf("%s is none of the API: %v", js, err)
		}
	}
	switch kind {
	case "Node":
		var o corev1.Node
		read(&o)
		err = keepOne(&out.nodes, &out)(FromNode(&o))
	case "Pod":
		var o corev1.Pod
		read(&o)
		err = keepOne(&out.pods, &out)(FromPod(&o))
	case "Service":
		var o corev1.Service
		read(&o)
		err = keepOne(&out.services, &out)(FromService(&o))
	case "Namespace":
		var o corev1.Namespace
		read(&o)
		err = keepOne(&out.namespaces, &out)(FromNamespace(&o))
	case "NetworkPolicy":
		var o networkingv1.NetworkPolicy
		read(&o)
		var p *NetworkPolicy
		p, err = FromNetworkPolicy(&o)
		if err = keepOne(&out.policies, &out)(p, err); err == nil && p.Problem != "" {
			err = errors.New(p.Namespace + "/" + p.Name + ": " + p.Problem)
		}
	case "ClusterNetworkPolicy":
		var o struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Spec     json.RawMessage   `json:"spec"`
		}
		read(&o)
		var p *ClusterPolicy
		p, err = FromClusterPolicy(&o.Metadata, o.Spec)
		err = keepOne(&out.cluster, &out)(p, err)
		if err == nil && p.Problem != "" && !strings.Contains(p.Problem, "not supported") {
			err = errors.New(p.Name + ": " + p.Problem)
		}
	case "EndpointSlice":
		var o discoveryv1.EndpointSlice
		read(&o)
		err = keepOne(&out.slices, &out)(FromSlice(&o, intern))
	}
	return out, err
}

func keepOne[T any](to *[]*T, out *objects) func(*T, error) error {
	return func(o *T, err error) error {
		switch {
		case err != nil:
		case o == nil:
			out.ignored++
		default:
			*to = append(*to, o)
		}
		return err
	}
}

func TestObjectIsTheSameFromFolderAndAPI(t *testing.T) {
	for kind, texts := range objectsOfBoth {
		for i, text := range texts {
			t.Run(fmt.Sprint(kind, " ", i), func(t *testing.T) {
				version := "v1"
				switch kind {
				case "EndpointSlice":
					version = "discovery.k8s.io/v1"
				case "NetworkPolicy":
					version = "networking.k8s.io/v1"
				case "ClusterNetworkPolicy":
					version = "policy.networking.k8s.io/v1alpha2"
				}
				want, wantErr := decode([]byte("{apiVersion: " + version + ", kind: " + kind + ", " + text[1:]))
				want.unsure = false // only the folder has to ask
				js, err := yaml.YAMLToJSON([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				got, gotErr := fromAPI(t, kind, js)
				var errText string
				if wantErr != nil {
					errText = strings.TrimPrefix(wantErr.Error(), "document 1: "+kind+": ")
				}
				if (gotErr == nil) != (wantErr == nil) || (gotErr != nil && gotErr.Error() != errText) {
					t.Errorf("error: got %v, want %q", gotErr, errText)
				}
				if d := cmp.Diff(want, got, cmp.AllowUnexported(objects{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), equalSelectors); d != "" {
					t.Errorf("%s: (-folder +API):\n%s", text, d)
				}
			})
		}
	}
}

// A Pod's owner may write any annotation; what the folder's daemons say by them would be
// a lie.
func TestAnnotationsOfThePodAreNotBelieved(t *testing.T) {
	var o corev1.Pod
	o.Name, o.Annotations = "p", map[string]string{attachmentAnnotation: "c/eth0", declaredAnnotation: "true"}
	p, err := FromPod(&o)
	if err != nil || p.Attachment.ContainerID != "" || p.Declared {
		t.Errorf("pod: got %+v, %v", p, err)
	}
}
