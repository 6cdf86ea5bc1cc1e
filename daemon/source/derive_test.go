package source

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
)

const zones = `
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDRs: [10.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
spec: {podCIDRs: [10.0.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
`

const nodesOfZones = "node node-a [10.0.1.0/24] [192.168.0.1 2001:db8::1]\nnode node-b [10.0.2.0/24] [192.168.0.2]\n"

// pod is a Pod of app web on node-a; more is added to its spec and status.
func pod(name, ips, spec, status, meta string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: web, x: y-z}%s}\nspec: {nodeName: node-a%s}\nstatus: {podIPs: [%s]%s}\n", name, meta, spec, ips, status)
}

func TestEndpointsAreDerived(t *testing.T) {
	web := "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web, x: y-z}, clusterIPs: [10.96.0.1, 'fd00:96::1'], ports: [{name: http, port: 80, targetPort: 8080}, {name: m, port: 81}]}\n"
	byName := strings.Replace(web, "targetPort: 8080", "targetPort: http", 1)
	container := func(port int) string {
		return fmt.Sprintf(", containers: [{name: c, ports: [{containerPort: 1}, {name: http, containerPort: 7, protocol: UDP}, {name: http, containerPort: %d}]}]", port)
	}
	ports := " of web [{http TCP 8080} {m TCP 81}]"
	for name, tc := range map[string]struct{ yaml, want string }{
		"both families": {web + pod("w1", "{ip: 10.0.1.2}, {ip: 'fd00::2'}", "", "", "") + pod("w2", "{ip: 'fd00::3'}, {ip: 10.0.1.3}", "", "", "") +
			pod("no-address", "", "", "", "") + "---\n" + podYAML("other", "w3", "web", "node-a") + "---\n" + podYAML("default", "w3", "web", "node-a"),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready on node-a in z1 10.0.1.3 ready on node-a in z1\n" +
				"slice default/web-weft-1" + ports + " fd00::2 ready on node-a in z1 fd00::3 ready on node-a in z1"},
		"one family": {strings.Replace(web, ", 'fd00:96::1'", "", 1) + pod("w1", "{ip: 10.0.1.2}, {ip: 'fd00::2'}", "", "", ""),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready on node-a in z1"},
		"headless": {strings.Replace(web, "[10.96.0.1, 'fd00:96::1']", "[None]", 1) + pod("w1", "{ip: 'fd00::2'}", "", "", ""),
			"slice default/web-weft-0" + ports + " fd00::2 ready on node-a in z1"},
		"states of pods": {web + pod("w1", "{ip: 10.0.1.2}", "", ", conditions: [{type: Initialized, status: 'True'}, {type: Ready, status: 'False'}]", "") +
			pod("w2", "{ip: 10.0.1.3}", "", ", conditions: [{type: Ready, status: 'True'}]", ", deletionTimestamp: 2026-01-01T00:00:00Z") +
			pod("w3", "{ip: 10.0.1.4}", "", ", phase: Failed", "") + pod("w4", "{ip: 10.0.1.5}", "", ", phase: Running", ""),
			"slice default/web-weft-0" + ports + " 10.0.1.2 on node-a in z1 10.0.1.3 serving terminating on node-a in z1 10.0.1.5 ready on node-a in z1"},
		"published not ready": {strings.Replace(web, "spec: {", "spec: {publishNotReadyAddresses: true, ", 1) +
			pod("w1", "{ip: 10.0.1.2}", "", ", conditions: [{type: Ready, status: 'False'}]", ", deletionTimestamp: '2026-01-01T00:00:00Z'"),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready terminating on node-a in z1"},
		"close by": {strings.Replace(web, "spec: {", "spec: {trafficDistribution: PreferClose, ", 1) +
			pod("w1", "{ip: 10.0.1.2}", "", "", "") + strings.Replace(pod("w2", "{ip: 10.0.2.2}", "", "", ""), "node-a", "node-b", 1),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready on node-a in z1 for [z1] [] 10.0.2.2 ready on node-b"},
		"on the same node": {strings.Replace(web, "spec: {", "spec: {trafficDistribution: PreferSameNode, ", 1) +
			pod("w1", "{ip: 10.0.1.2}", "", "", "") + strings.Replace(pod("w2", "{ip: 10.0.2.2}", "", "", ""), "node-a", "node-b", 1),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready on node-a in z1 for [z1] [node-a] 10.0.2.2 ready on node-b for [] [node-b]"},
		"host network": {web + pod("w1", "{ip: 10.9.9.9}", ", hostNetwork: true", "", ""),
			"slice default/web-weft-0" + ports + " 192.168.0.1 ready on node-a in z1\nslice default/web-weft-1" + ports + " 2001:db8::1 ready on node-a in z1"},
		"named ports": {byName + pod("w1", "{ip: 10.0.1.2}, {ip: 'fd00::2'}", container(8080), "", "") + pod("w2", "{ip: 10.0.1.3}", container(9090), "", "") +
			pod("w3", "{ip: 10.0.1.4}", strings.Replace(container(8080), "containers: [{", "initContainers: [{restartPolicy: Always, ", 1), "", "") +
			pod("w4", "{ip: 10.0.1.5}", strings.Replace(container(8080), "containers", "initContainers", 1), "", ""),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready on node-a in z1 10.0.1.4 ready on node-a in z1\n" +
				"slice default/web-weft-1" + strings.Replace(ports, "8080", "9090", 1) + " 10.0.1.3 ready on node-a in z1\n" +
				"slice default/web-weft-2 of web [{m TCP 81}] 10.0.1.5 ready on node-a in z1\n" +
				"slice default/web-weft-3" + ports + " fd00::2 ready on node-a in z1\n" +
				`problem source-service: endpoint slice default/web-weft-2: pod default/w4 has no port named "http" (TCP)`},
		"bad address": {web + pod("w1", "{ip: 127.0.0.1}", "", "", "") + pod("w2", "{ip: 10.0.1.2}", "", "", ""),
			"slice default/web-weft-0" + ports + " 10.0.1.2 ready on node-a in z1\n" +
				"problem source-service: endpoint slice default/web-weft-0: pod default/w1: 127.0.0.1 is a loopback address; it is left out"},
		"has slices": {web + pod("w1", "{ip: 10.0.1.2}", "", "", "") +
			"---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: mine, labels: {kubernetes.io/service-name: web}}, addressType: IPv4}",
			"slice default/mine of web []"},
		"taken name": {web + pod("w1", "{ip: 10.0.1.2}", "", "", "") +
			"---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-weft-0, labels: {kubernetes.io/service-name: other}}, addressType: IPv4}",
			"slice default/web-weft-0 of other []\nslice default/web-weft-1" + ports + " 10.0.1.2 ready on node-a in z1"},
		"no selector, another name": {strings.Replace(web, "selector: {app: web, x: y-z}, ", "", 1) + strings.NewReplacer("spec: {", "spec: {type: ExternalName, ", "name: web", "name: out").Replace(web) +
			pod("w1", "{ip: 10.0.1.2}", "", "", ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decode([]byte(zones + tc.yaml))
			if err != nil {
				t.Fatal(err)
			}
			s := build(view{root: []named{{file: "all.yaml", objects: got}}, complete: true}, nil, nil, newKinds())
			if text := text(State{Slices: s.Slices, Problems: s.Problems, Complete: true}); text != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", text, tc.want)
			}
		})
	}
}

func TestBadContainerPorts(t *testing.T) {
	for port, want := range map[string]string{
		"containers: [{ports: [{name: a, containerPort: 0}]}]":                                         "spec.containers[0].ports[0].containerPort: 0 is not a port (1 to 65535)",
		"initContainers: [{restartPolicy: Always, ports: [{name: a, containerPort: 1, protocol: x}]}]": `spec.initContainers[0].ports[0].protocol: "x" is none of TCP, UDP, SCTP`,
	} {
		_, err := decode([]byte("{apiVersion: v1, kind: Pod, metadata: {name: w}, spec: {" + port + "}}"))
		if want = "document 1: Pod: default/w: " + want; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Endpoints follow what the nodes say of their pods; also of our own, of which Changed
// tells then. What the folder says of the Pod counts for them.
func TestDerivedEndpointsFollowThePods(t *testing.T) {
	p := start(t, "", Options{})
	service := func(name string) string {
		return "{apiVersion: v1, kind: Service, metadata: {name: " + name + "}, spec: {selector: {app: " + name + "}, clusterIP: None, ports: [{port: 80}]}}"
	}
	p.put("web.yaml", service("web"))
	p.put("db.yaml", service("db"))
	p.put("node.yaml", zones)
	p.put("pod.yaml", pod("w1", "", "", ", conditions: [{type: Ready, status: 'False'}]", "")+"---\n"+podYAML("default", "other", "other", "node-a"))
	p.put("status/node-b/default_w2.yaml", podYAML("default", "w2", "web", "node-b")+"status: {podIP: 10.0.2.2}\n")
	p.put("status/node-b/default_d.yaml", podYAML("default", "d", "db", "node-b")+"status: {podIP: 10.0.2.3}\n")
	services := "service default/db []\nservice default/web []\n"
	db := "slice default/db-weft-0 of db [{ TCP 80}] 10.0.2.3 ready on node-b\n"
	before := p.wait(nodesOfZones + "pod default/d node-b db [10.0.2.3]\npod default/other node-a other []\npod default/w1 node-a web []\npod default/w2 node-b web [10.0.2.2]\n" +
		services + db + "slice default/web-weft-0 of web [{ TCP 80}] 10.0.2.2 ready on node-b")
	for done := false; !done; { // what the folder made
		select {
		case <-p.Changed():
		default:
			done = true
		}
	}
	p.write(endpoint("c0", "eth0", "default", "other", "10.0.1.9"), false)
	select {
	case <-p.Changed():
		t.Error("told of a pod that no Service selects")
	default:
	}
	p.write(endpoint("c1", "eth0", "default", "w1", "10.0.1.2"), false)
	select {
	case <-p.Changed():
	default:
		t.Error("not told of an own endpoint")
	}
	now := p.Snapshot()
	if got, want := text(State{Slices: now.Slices, Complete: true}), db+"slice default/web-weft-0 of web [{ TCP 80}] 10.0.1.2 on node-a in z1 10.0.2.2 ready on node-b"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if before.flat[0] != now.flat[0] {
		t.Error("the slice of db has not changed, but is another object")
	}
	p.write(endpoint("c1", "eth0", "default", "w1"), true)
	select {
	case <-p.Changed():
	default:
		t.Error("not told of the end of an own endpoint")
	}
}

// A Pod that is taken out of the folder is being deleted, though it has its address until
// DEL: nobody is sent to it any more, as long as there are others. One that never was in
// the folder is as its node says.
func TestPodTakenOutOfTheFolderTerminates(t *testing.T) {
	labels := func(api.Ref) map[string]string { return map[string]string{"app": "web"} }
	a := start(t, "", Options{Labels: labels})
	b := start(t, a.dir, Options{Node: "node-b"})
	a.put("web.yaml", "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, clusterIP: None, ports: [{port: 80}]}}")
	a.put("node.yaml", zones)
	a.put("pod.yaml", pod("w1", "", "", "", ""))
	slices := func(p *place, want string) {
		t.Helper()
		want = "slice default/web-weft-0 of web [{ TCP 80}] " + want
		deadline := time.After(20 * time.Second)
		for {
			got := text(State{Slices: p.Snapshot().Slices, Complete: true})
			if got == want {
				return
			}
			select {
			case <-p.Changed():
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("got:\n%s\nwant:\n%s", got, want)
			}
		}
	}
	a.wait(nodesOfZones + "pod default/w1 node-a web []\nservice default/web []")
	a.write(endpoint("c1", "eth0", "default", "w1", "10.0.1.2"), false)
	a.write(endpoint("c2", "eth0", "default", "w2", "10.0.1.3"), false)
	for _, p := range []*place{a, b} {
		slices(p, "10.0.1.2 ready on node-a in z1 10.0.1.3 ready on node-a in z1")
	}
	a.remove("pod.yaml")
	for _, p := range []*place{a, b} {
		slices(p, "10.0.1.2 serving terminating on node-a in z1 10.0.1.3 ready on node-a in z1")
	}
	a.put("pod.yaml", pod("w1", "", "", "", "")) // it is back
	for _, p := range []*place{a, b} {
		slices(p, "10.0.1.2 ready on node-a in z1 10.0.1.3 ready on node-a in z1")
	}
}
