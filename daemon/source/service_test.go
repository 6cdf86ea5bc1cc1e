package source

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var equalAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func ips(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestServicesAreRead(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml string
		want Service
	}{
		"both families": {`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {weft.dev/x: on-it, other: z}}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  selector: {tier: front, app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP, targetPort: domain}
  - {name: sig, port: 2905, protocol: SCTP}
`, Service{
			Namespace: "shop", Name: "web", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1", "fd00:96::1"),
			Selector: []Label{{"app", "web"}, {"tier", "front"}}, Annotations: map[string]string{"weft.dev/x": "on-it"},
			Ports: []ServicePort{
				{Name: "http", Protocol: TCP, Port: 80, TargetPort: "8080"},
				{Name: "dns", Protocol: UDP, Port: 53, TargetPort: "domain"},
				{Name: "sig", Protocol: SCTP, Port: 2905},
			},
		}},
		"everything": {`
apiVersion: v1
kind: Service
metadata:
  name: lb
  labels: {service.kubernetes.io/service-proxy-name: other}
  annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: "192.0.2.0/24"}
spec:
  type: LoadBalancer
  clusterIP: fd00:96::2
  externalIPs: [203.0.113.7]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 32000
  publishNotReadyAddresses: true
  loadBalancerSourceRanges: [" 10.0.0.9/8 ", "2001:db8::/32"]
  loadBalancerClass: example.com/x
  trafficDistribution: PreferSameNode
  ports: [{port: 443, nodePort: 30443, protocol: TCP, targetPort: "https"}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.1}, {hostname: a.example}, {ip: "2001:db8::9", ipMode: Proxy}]}}
`, Service{
			Namespace: "default", Name: "lb", Type: "LoadBalancer", ClusterIPs: ips("fd00:96::2"), ExternalIPs: ips("203.0.113.7"),
			LoadBalancerIPs: []LoadBalancerIP{{IP: ips("198.51.100.1")[0]}, {IP: ips("2001:db8::9")[0], Proxy: true}},
			Ports:           []ServicePort{{Protocol: TCP, Port: 443, NodePort: 30443, TargetPort: "https"}},
			Affinity:        time.Minute, ExternalLocal: true, InternalLocal: true, HealthCheckNodePort: 32000, PublishNotReady: true,
			SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			Distribution: "PreferSameNode", ProxyName: "other", LoadBalancerClass: "example.com/x", Balancer: &Balancer{IPv6: true, IPv6First: true},
		}},
		"ranges of the annotation, default affinity": {`
apiVersion: v1
kind: Service
metadata: {name: a, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: " 10.1.0.0/16 , 192.0.2.1/32"}}
spec: {clusterIPs: [10.96.0.1], sessionAffinity: ClientIP, ports: [{port: 1}]}
`, Service{
			Namespace: "default", Name: "a", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1"), Affinity: 3 * time.Hour,
			Ports:        []ServicePort{{Protocol: TCP, Port: 1}},
			SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.0.2.1/32")},
		}},
		"headless": {`{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: None, clusterIPs: [None], selector: {app: db}}}`,
			Service{Namespace: "default", Name: "db", Type: "ClusterIP", Headless: true, Selector: []Label{{"app", "db"}}}},
		"headless by its label": {`{apiVersion: v1, kind: Service, metadata: {name: db, labels: {service.kubernetes.io/headless: ""}}, spec: {clusterIP: 10.96.0.1, ports: [{port: 1}]}}`,
			Service{Namespace: "default", Name: "db", Type: "ClusterIP", Headless: true, Ports: []ServicePort{{Protocol: TCP, Port: 1}}}},
		"addresses as they were written once": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 010.096.000.001, externalIPs: [192.0.2.07], loadBalancerSourceRanges: [010.0.0.0/8, "::ffff:192.0.2.0/120"], ports: [{port: 1}]}, status: {loadBalancer: {ingress: [{ip: 198.051.100.1}]}}}`,
			Service{Namespace: "default", Name: "a", Type: "LoadBalancer", ClusterIPs: ips("10.96.0.1"), ExternalIPs: ips("192.0.2.7"),
				LoadBalancerIPs: []LoadBalancerIP{{IP: ips("198.51.100.1")[0]}}, Ports: []ServicePort{{Protocol: TCP, Port: 1}}, Balancer: &Balancer{IPv4: true},
				SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}}},
		"for a proxy without a name": {`{apiVersion: v1, kind: Service, metadata: {name: db, labels: {service.kubernetes.io/service-proxy-name: ""}}, spec: {clusterIP: 10.96.0.1, ports: [{port: 1}]}}`,
			Service{Namespace: "default", Name: "db", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1"), Ports: []ServicePort{{Protocol: TCP, Port: 1}}, ProxyName: "nobody"}},
		"another name": {`{apiVersion: v1, kind: Service, metadata: {name: out}, spec: {type: ExternalName, externalName: example.com}}`,
			Service{Namespace: "default", Name: "out", Type: "ExternalName"}},
		"no address": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}`,
			Service{Namespace: "default", Name: "a", Type: "ClusterIP", Ports: []ServicePort{{Protocol: TCP, Port: 1}},
				Problem: "no spec.clusterIP"}},
		"no ports": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1}}`,
			Service{Namespace: "default", Name: "a", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1"), Problem: "no spec.ports"}},
		"no nodePort": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 1}]}}`,
			Service{Namespace: "default", Name: "a", Type: "NodePort", ClusterIPs: ips("10.96.0.1"), Ports: []ServicePort{{Protocol: TCP, Port: 1}},
				Problem: "a port without nodePort; without Kubernetes nobody chooses one"}},
		"distribution of tomorrow": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, trafficDistribution: Near, ports: [{port: 1}]}}`,
			Service{Namespace: "default", Name: "a", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1"), Ports: []ServicePort{{Protocol: TCP, Port: 1}},
				Problem: `spec.trafficDistribution: "Near" is not known; it is left out`}},
		"what is asked of a load balancer": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1, loadBalancerIP: 192.0.2.7, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: RequireDualStack, ports: [{port: 1}]}, status: {conditions: [{type: Other, status: "True", reason: R}, {type: weft.dev/LoadBalancerAddress, status: "False", reason: Exhausted, message: none is free}]}}`,
			Service{Namespace: "default", Name: "a", Type: "LoadBalancer", ClusterIPs: ips("10.96.0.1"), Ports: []ServicePort{{Protocol: TCP, Port: 1}},
				Balancer: &Balancer{IPv4: true, IPv6: true, IPv6First: true, NeedsBoth: true, Requested: "192.0.2.7", Condition: Condition{Reason: "Exhausted", Message: "none is free"}}}},
		"a load balancer no more": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ClusterIP, clusterIPs: [10.96.0.1, "fd00::1"], ports: [{port: 1}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}, conditions: [{type: weft.dev/LoadBalancerAddress, status: "True", reason: Allocated, message: it has 192.0.2.1}]}}`,
			Service{Namespace: "default", Name: "a", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1", "fd00::1"), Ports: []ServicePort{{Protocol: TCP, Port: 1}},
				Balancer: &Balancer{IPv4: true, IPv6: true, Condition: Condition{True: true, Reason: ReasonAllocated}}}},
		"loopback from a load balancer": {`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 1}]}, status: {loadBalancer: {ingress: [{ip: 127.0.0.1}, {ip: 192.0.2.1, ipMode: VIP}]}}}`,
			Service{Namespace: "default", Name: "a", Type: "LoadBalancer", ClusterIPs: ips("10.96.0.1"), Ports: []ServicePort{{Protocol: TCP, Port: 1}},
				LoadBalancerIPs: []LoadBalancerIP{{IP: ips("192.0.2.1")[0]}},
				Balancer:        &Balancer{IPv4: true},
				Problem:         "status.loadBalancer.ingress[0].ip: 127.0.0.1 is a loopback address; it is left out"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decode([]byte(tc.yaml))
			if err != nil || len(got.services) != 1 {
				t.Fatalf("got %d services, %v", len(got.services), err)
			}
			if diff := cmp.Diff(tc.want, *got.services[0], equalAddrs); diff != "" {
				t.Errorf("service, -want +got:\n%s", diff)
			}
		})
	}
}

func TestBadServicesAreRefused(t *testing.T) {
	for spec, want := range map[string]string{
		`type: Magic`:                                     `spec.type: "Magic" is none of ClusterIP, NodePort, LoadBalancer, ExternalName`,
		`clusterIP: 10.96.0`:                              `spec.clusterIP[0]: "10.96.0" is not an IP address`,
		`clusterIPs: [10.96.0.1, 10.96.0.2]`:              `spec.clusterIPs: more than one of a family: [10.96.0.1 10.96.0.2]`,
		`clusterIPs: [None, 10.96.0.2]`:                   `spec.clusterIPs[0]: "None" is not an IP address`,
		`clusterIP: 127.0.0.1`:                            `spec.clusterIP[0]: 127.0.0.1 is a loopback address`,
		`externalIPs: [0.0.0.0]`:                          `spec.externalIPs[0]: 0.0.0.0 is the unspecified address`,
		`externalIPs: ["fe80::1"]`:                        `spec.externalIPs[0]: fe80::1 is a link-local address`,
		`externalIPs: [224.0.0.1]`:                        `spec.externalIPs[0]: 224.0.0.1 is a multicast address`,
		`ports: [{port: 0}]`:                              `spec.ports[0].port: 0 is not a port (1 to 65535)`,
		`ports: [{port: 65536}]`:                          `spec.ports[0].port: 65536 is not a port (1 to 65535)`,
		`ports: [{port: "80"}]`:                           `Service: spec.ports.port: got string, want int`,
		`ports: [{port: 1, protocol: ICMP}]`:              `spec.ports[0].protocol: "ICMP" is none of TCP, UDP, SCTP`,
		`ports: [{port: 1, targetPort: 99999}]`:           `spec.ports[0].targetPort: 99999 is not a port (1 to 65535)`,
		`ports: [{port: 1, targetPort: "a b"}]`:           `spec.ports[0].targetPort: "a b" is neither a port nor the name of one (a-z, 0-9 and -, at most 15)`,
		`ports: [{port: 1, targetPort: 1.5}]`:             `Service: spec.ports.targetPort: got number 1.5, want a number or a string`,
		`ports: [{port: 1, targetPort: [1]}]`:             `Service: spec.ports.targetPort: got array, want a number or a string`,
		`ports: [{port: 1, nodePort: 3}]`:                 `spec.ports[0].nodePort: a Service of type ClusterIP has none`,
		`ports: [{port: 1}, {port: 2, name: b}]`:          `spec.ports[0].name: missing; with more than one port each needs a name`,
		`sessionAffinity: Cookie`:                         `spec.sessionAffinity: "Cookie" is none of None, ClientIP`,
		`externalTrafficPolicy: Near`:                     `spec.externalTrafficPolicy: "Near" is none of Cluster, Local`,
		`internalTrafficPolicy: Near`:                     `spec.internalTrafficPolicy: "Near" is none of Cluster, Local`,
		`healthCheckNodePort: -1`:                         `spec.healthCheckNodePort: -1 is not a port (1 to 65535)`,
		`loadBalancerSourceRanges: ["10.0.0.1"]`:          `spec.loadBalancerSourceRanges[0]: "10.0.0.1" is not a CIDR`,
		`ports: [{port: 1, name: a}, {port: 1, name: b}]`: `spec.ports[1]: TCP 1 is spec.ports[0], too`,
		`ports: [{port: 1, name: a}, {port: 2, name: a}]`: `spec.ports[1].name: "a" is the name of spec.ports[0], too`,
		`type: NodePort, ports: [{port: 1, name: a, nodePort: 7}, {port: 2, name: b, nodePort: 7}]`: `spec.ports[1]: nodePort TCP 7 is that of spec.ports[0], too`,
		`sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}`:         `spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not 1 to 86400`,
	} {
		_, err := decode([]byte("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {" + spec + "}}"))
		if !strings.HasPrefix(want, "Service: ") {
			want = "Service: default/web: " + want
		}
		if want = "document 1: " + want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", spec, err, want)
		}
	}
	for object, want := range map[string]string{
		"metadata: {name: ../x}":                                                                                             `metadata.name: "../x" is not a name (a-z, 0-9, - and . only)`,
		"metadata: {name: x, namespace: ../y}":                                                                               `x: metadata.namespace: "../y" is not a name (a-z, 0-9, - and . only)`,
		"metadata: {name: x, annotations: {" + sourceRangesAnnotation + ": 'a,b'}}":                                          `default/x: metadata.annotations: ` + sourceRangesAnnotation + `[0]: "a" is not a CIDR`,
		"metadata: {name: x}, spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: x}]}}":                      `default/x: status.loadBalancer.ingress[0].ip: "x" is not an IP address`,
		"metadata: {name: x}, spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: Any}]}}": `default/x: status.loadBalancer.ingress[0].ipMode: "Any" is none of VIP, Proxy`,
	} {
		_, err := decode([]byte("{apiVersion: v1, kind: Service, " + object + "}"))
		if want = "document 1: Service: " + want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", object, err, want)
		}
	}
}

func TestListsOfServices(t *testing.T) {
	got, err := decode([]byte(`
apiVersion: v1
kind: ServiceList
items: [{metadata: {name: a}}, {metadata: {name: b}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items: [{metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}, addressType: IPv4}]
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: c}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: c-1, labels: {kubernetes.io/service-name: c}}, addressType: IPv6}
- {apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: c-1}}
---
{apiVersion: discovery.k8s.io/v1, kind: List}
---
{apiVersion: v1, kind: ConfigMapList}
`))
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%d services, %d slices, %d ignored", len(got.services), len(got.slices), got.ignored); s != "3 services, 2 slices, 3 ignored" {
		t.Errorf("got %s", s)
	}
}

func TestProtocolsHaveNames(t *testing.T) {
	if got := fmt.Sprint(TCP, UDP, SCTP, Protocol(1)); got != "TCP UDP SCTP protocol 1" {
		t.Errorf("got %s", got)
	}
}
