package source

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSlicesAreRead(t *testing.T) {
	got, err := decode([]byte(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-abc, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP, appProtocol: http}
- {name: sig, port: 2905, protocol: SCTP}
- {name: dns, port: 53, protocol: UDP}
- {name: any, port: null}
endpoints:
- addresses: [10.0.1.2, 10.0.1.3]
  nodeName: node-a
  zone: z1
  hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: node-a}]}
  targetRef: {kind: Pod, namespace: shop, name: web-1, uid: 5f3c}
- addresses: [10.0.1.4]
  conditions: {ready: false, serving: true, terminating: true}
  targetRef: {kind: Pod, name: web-2}
- addresses: [10.0.1.5]
  conditions: {ready: false}
- addresses: [127.0.0.1]
- addresses: [10.0.1.6]
  conditions: {ready: null, serving: null, terminating: null}
  targetRef: {kind: Machine, name: m}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports:
- {port: 80}
endpoints:
- addresses: ["fd00::2"]
- addresses: ["fe80::1"]
- addresses: ["::1"]
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: names, labels: {kubernetes.io/service-name: web}}, addressType: FQDN, endpoints: [{addresses: [a.example]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: of-nobody}, addressType: IPv4}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: h, labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ""}}, addressType: IPv4}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: p, labels: {kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: mesh}}, addressType: IPv4}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []*EndpointSlice{{
		Namespace: "shop", Name: "web-abc", Service: "web",
		Ports: []SlicePort{{"http", TCP, 8080}, {"sig", SCTP, 2905}, {"dns", UDP, 53}},
		Endpoints: []SliceEndpoint{
			{IP: ips("10.0.1.2")[0], Ready: true, Serving: true, Node: "node-a", Zone: "z1",
				Hints: &Hints{[]string{"z1", "z2"}, []string{"node-a"}}, TargetUID: "5f3c", TargetPod: "shop/web-1"},
			{IP: ips("10.0.1.4")[0], Serving: true, Terminating: true, TargetUID: "shop/web-2", TargetPod: "shop/web-2"},
			{IP: ips("10.0.1.5")[0]},
			{IP: ips("10.0.1.6")[0], Ready: true, Serving: true, TargetUID: "shop/m"},
		},
		Problem: "endpoints[3].addresses[0]: 127.0.0.1 is a loopback address; it is left out",
	}, {
		Namespace: "default", Name: "web-6", Service: "web", IPv6: true, Ports: []SlicePort{{"", TCP, 80}},
		Endpoints: []SliceEndpoint{{IP: ips("fd00::2")[0], Ready: true, Serving: true}},
		Problem:   "endpoints[1].addresses[0]: fe80::1 is a link-local address; it is left out",
	}}
	if diff := cmp.Diff(want, got.slices, equalAddrs); diff != "" {
		t.Errorf("slices, -want +got:\n%s", diff)
	}
	if got.ignored != 4 {
		t.Errorf("ignored: got %d, want 4", got.ignored)
	}
}

func TestBadSlicesAreRefused(t *testing.T) {
	for object, want := range map[string]string{
		`addressType: IPX`: `addressType: "IPX" is none of IPv4, IPv6, FQDN`,
		`a: b`:             `addressType: "" is none of IPv4, IPv6, FQDN`,
		`addressType: IPv4, ports: [{port: 70000}]`:                        `ports[0].port: 70000 is not a port (1 to 65535)`,
		`addressType: IPv4, ports: [{port: 0}]`:                            `ports[0].port: 0 is not a port (1 to 65535)`,
		`addressType: IPv4, ports: [{port: 1, protocol: icmp}]`:            `ports[0].protocol: "icmp" is none of TCP, UDP, SCTP`,
		`addressType: IPv4, endpoints: [{}]`:                               `endpoints[0].addresses: missing`,
		`addressType: IPv4, endpoints: [{addresses: [10.0.0]}]`:            `endpoints[0].addresses[0]: "10.0.0" is not an IP address`,
		`addressType: IPv4, endpoints: [{addresses: ["fd00::1"]}]`:         `endpoints[0].addresses[0]: fd00::1 is not of the slice's addressType`,
		`addressType: IPv6, endpoints: [{addresses: ["::ffff:10.0.0.1"]}]`: `endpoints[0].addresses[0]: 10.0.0.1 is not of the slice's addressType`,
		`addressType: IPv6, endpoints: [{addresses: ["fe80::1%eth0"]}]`:    `endpoints[0].addresses[0]: "fe80::1%eth0" is not an IP address`,
	} {
		_, err := decode([]byte("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: web}}, " + object + "}"))
		if want = "document 1: EndpointSlice: default/a: " + want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", object, err, want)
		}
	}
	_, err := decode([]byte("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: W}}, addressType: IPv4}"))
	if want := `document 1: EndpointSlice: default/a: metadata.labels: kubernetes.io/service-name: "W" is not a name (a-z, 0-9, - and . only)`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// While a Service's file is wrong, what it said last stays; a slice's bad endpoint is
// shown, and the others serve.
func TestServicesOfTheFolder(t *testing.T) {
	p := start(t, "", Options{})
	p.put("b.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a-b}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}")
	p.put("a.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}")
	p.put("s.yaml", "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: a, labels: {kubernetes.io/service-name: x}}, addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [169.254.0.1]}, {addresses: [10.0.0.1]}]}")
	slice := "slice a/x of x [{ TCP 80}] 10.0.0.1 ready\n"
	problem := "problem source-service: endpoint slice a/x: endpoints[0].addresses[0]: 169.254.0.1 is a link-local address; it is left out\n"
	before := p.wait("service a/x [10.96.0.1]\nservice a-b/x [10.96.0.2]\n" + slice + problem)
	p.put("a.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 99999}]}}")
	p.wait("service a/x [10.96.0.1]\nservice a-b/x [10.96.0.2]\n" + slice +
		"problem source-file: a.yaml: document 1: Service: a/x: spec.ports[0].port: 99999 is not a port (1 to 65535)\n" + problem)
	p.put("a.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.96.0.1}}") // cut short
	p.wait("service a/x [10.96.0.1]\nservice a-b/x [10.96.0.2]\n" + slice +
		"problem source-file: a.yaml: Service: a/x: no spec.ports any more; to remove a Service, remove its object\n" + problem)
	p.put("a.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.96.0.1, trafficDistribution: Near, ports: [{port: 80}]}}")
	p.put("b.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a-b}, spec: {ports: [{port: 80}], clusterIP: 10.96.0.2}}")
	now := p.wait("service a/x [10.96.0.1]\nservice a-b/x [10.96.0.2]\n" + slice + `problem source-service: service a/x: spec.trafficDistribution: "Near" is not known; it is left out` + "\n" + problem)
	if before.Services[1] != now.Services[1] || before.flat[0] != now.flat[0] {
		t.Error("what has not changed is another object")
	}
	if before.Services[0] == now.Services[0] {
		t.Error("a/x was changed in the former state")
	}
}
