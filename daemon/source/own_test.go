package source

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

func endpoint(container, ifname, namespace, name string, ips ...string) api.Endpoint {
	e := api.Endpoint{Ref: api.Ref{ContainerID: container, IfName: ifname}, PodNamespace: namespace, PodName: name}
	for _, ip := range ips {
		e.IPs = append(e.IPs, netip.MustParseAddr(ip))
	}
	return e
}

func (p *place) write(e api.Endpoint, gone bool) {
	p.t.Helper()
	if err := p.WritePod(e, gone); err != nil {
		p.t.Fatal(err)
	}
}

// files lists what is in a folder below that of the source.
func (p *place) files(name string) string {
	entries, err := os.ReadDir(filepath.Join(p.dir, name))
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// What one node writes, the others know; the labels are those of the folder's Pod.
func TestNodesLearnEachOthersPods(t *testing.T) {
	a := start(t, "", Options{Labels: func(r api.Ref) map[string]string { return map[string]string{"app": "of-" + r.ContainerID} }})
	b := start(t, a.dir, Options{Node: "node-b"})
	a.put("pods.yaml", podYAML("shop", "web", "web", "node-a"))
	a.wait("pod shop/web node-a web []")
	a.write(endpoint("c1", "eth0", "shop", "web", "10.0.1.2", "fd00::2"), false)
	a.write(endpoint("c2", "eth0", "", "", "10.0.1.3"), false)
	a.write(endpoint("c1", "net1", "shop", "web", "10.0.1.4"), false)
	want := "pod default/c2 node-a of-c2 [10.0.1.3]\npod shop/web node-a web [10.0.1.2 fd00::2 10.0.1.4]"
	a.wait(want)
	b.wait(want)
	if got, want := a.files("status/node-a"), "default_c2.yaml shop_web.yaml shop_web_net1.yaml"; got != want {
		t.Errorf("files: got %s, want %s", got, want)
	}
	a.put("pods.yaml", podYAML("shop", "web", "new", "node-a"))
	b.wait(strings.Replace(want, "a web", "a new", 1))
	a.write(endpoint("c2", "eth0", "", "", "10.0.1.3"), true)
	a.write(endpoint("c1", "net1", "shop", "web"), true)
	b.wait("pod shop/web node-a new [10.0.1.2 fd00::2]")
	a.remove("status/node-a")
	b.wait("pod shop/web node-a new []")
}

// The DEL of a former sandbox comes after the ADD of the next one.
func TestFormerSandboxDoesNotRemoveItsSuccessor(t *testing.T) {
	p := start(t, "", Options{})
	p.wait("")
	p.write(endpoint("old", "eth0", "default", "web", "10.0.1.2"), false)
	p.write(endpoint("new", "eth0", "default", "web", "10.0.1.3"), false)
	p.write(endpoint("old", "eth0", "default", "web", "10.0.1.2"), true)
	p.write(endpoint("never", "eth0", "default", "was", "10.0.1.9"), true)
	p.wait("pod default/web node-a  [10.0.1.3]")
	if got := p.files("status/node-a"); got != "default_web.yaml" {
		t.Errorf("files: got %s", got)
	}
}

func TestStartRemovesStaleFiles(t *testing.T) {
	p := start(t, "", Options{Poll: 50 * time.Millisecond})
	p.put("status/node-a/default_dead.yaml", "old")
	p.put("status/node-a/.default_x.yaml.tmp", "half")
	p.put("status/node-b/default_other.yaml", podYAML("default", "other", "x", "node-b"))
	other := "\npod default/other node-b x []"
	p.wait(strings.TrimSpace(other))
	live := []api.Endpoint{
		endpoint("c1", "eth0", "default", "live", "10.0.1.2"),
		endpoint("c2", "eth0", "default", "deleted", "10.0.1.3"),
	}
	p.write(live[1], true) // while the list was made
	p.write(endpoint("c3", "eth0", "default", "new", "10.0.1.4"), false)
	if err := p.SyncPods(live); err != nil {
		t.Fatal(err)
	}
	want := "default_live.yaml default_new.yaml"
	if got := p.files("status/node-a"); got != want {
		t.Errorf("files: got %s, want %s", got, want)
	}
	p.wait("pod default/live node-a  [10.0.1.2]\npod default/new node-a  [10.0.1.4]" + other)
	if got := p.files("status/node-b"); got != "default_other.yaml" {
		t.Errorf("files of node-b: %s", got)
	}
	// Somebody meddles: it is put right.
	status := filepath.Join(p.dir, "status/node-a")
	for name, meddle := range map[string]func(){
		"removed":  func() { p.remove("status/node-a/default_live.yaml") },
		"replaced": func() { p.put("status/node-a/default_new.yaml", "meddled") },
		"added":    func() { p.put("status/node-a/default_foreign.yaml", "meddled") },
		"written to in place": func() {
			if err := os.WriteFile(filepath.Join(status, "default_new.yaml"), []byte("meddled"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
	} {
		testnet.Until(t, 20*time.Second, func() error {
			p.own.writing.Lock()
			defer p.own.writing.Unlock()
			if p.own.trust == 0 {
				return errors.New("the folder is not trusted")
			}
			return nil
		})
		meddle()
		testnet.Until(t, 20*time.Second, func() error {
			data, _ := os.ReadFile(filepath.Join(status, "default_new.yaml"))
			if got := p.files("status/node-a"); got != want || !strings.Contains(string(data), "10.0.1.4") {
				return fmt.Errorf("a file %s: files are %s, want %s; content %s", name, got, want, data)
			}
			return nil
		})
	}
}

// A write that failed is made up for at the next look, whatever went well since.
func TestFolderIsNotTrustedAfterAFailure(t *testing.T) {
	d, err := Open("dir:"+t.TempDir(), Options{Node: "node-a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SyncPods([]api.Endpoint{endpoint("c1", "eth0", "default", "web", "10.0.1.2")}); err != nil {
		t.Fatal(err)
	}
	d.own.writing.Lock()
	defer d.own.writing.Unlock()
	if err := d.own.restore(); err != nil { // finds what was written
		t.Fatal(err)
	}
	if !d.own.trusted() {
		t.Error("it is not trusted although all is right")
	}
	_ = d.own.fail(errors.New("no file"))
	_ = d.own.fail(nil)
	if d.own.trusted() {
		t.Error("it is trusted after a failure")
	}
}

// Without the folder an ADD goes on; the file is written when the folder is there.
func TestStatusIsWrittenLater(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "source"), Options{})
	if err := p.WritePod(endpoint("c1", "eth0", "default", "web", "10.0.1.2"), false); err == nil {
		t.Error("written without a folder")
	}
	p.put("node.yaml", nodeYAML("node-a", 1))
	p.wait(nodeA + "pod default/web node-a  [10.0.1.2]")
	if got := p.files("status/node-a"); got != "default_web.yaml" {
		t.Errorf("files: got %s", got)
	}
}

func TestClaimsOfNodesAreChecked(t *testing.T) {
	p := start(t, "", Options{})
	p.put("pods.yaml", podYAML("default", "web", "web", "node-c"))
	p.put("status/node-b/default_web.yaml", podYAML("default", "web", "x", "node-b"))
	p.put("status/node-b/default_liar.yaml", podYAML("default", "liar", "x", "node-c"))
	p.put("status/node-b/default_both.yaml", podYAML("default", "both", "b", "node-b"))
	p.put("status/node-c/default_both.yaml", podYAML("default", "both", "c", "node-c"))
	p.wait("pod default/both node-b b []\npod default/web node-c web []\n" +
		`problem source-file: status/node-b/default_liar.yaml: Pod default/liar has spec.nodeName "node-c" in the folder of node node-b; it is left out` +
		"\nproblem source-duplicate: Pod default/web is on node node-c by pods.yaml, but status/node-b/default_web.yaml claims it" +
		"\nproblem source-duplicate: Pod default/both is claimed by nodes node-b and node-c; the first counts")
}

func TestNamesOfRuntimesStayInTheFolder(t *testing.T) {
	p := start(t, "", Options{})
	p.wait("")
	p.write(endpoint("../../x", "e/../0", "../..", "../../../name", "10.0.1.2"), false)
	if got := p.files("status/node-a"); !strings.HasPrefix(got, "default_") || !strings.HasSuffix(got, "_e_.._0.yaml") {
		t.Errorf("files: got %s", got)
	}
	if got := p.files("."); got != "status" {
		t.Errorf("files beside the folder: %s", got)
	}
}

func TestOpenChecksItsSettings(t *testing.T) {
	for source, node := range map[string]string{"kube": "a", "dir:": "b", "dir:/x": "../c", "dir:/y": ""} {
		if _, err := Open(source, Options{Node: node}); err == nil {
			t.Errorf("source %q of node %q was accepted", source, node)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(nodeYAML("node-a", 1) + "---\n" + podYAML("default", "web", "web", "node-a")))
	f.Add([]byte("---\n--- a\n...\n---"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"kind":"List","apiVersion":"v1","items":null}]}`))
	f.Add([]byte(serviceYAML(1)))
	f.Add([]byte(zones + pod("w1", "{ip: 10.0.1.2}", ", containers: [{ports: [{name: http, containerPort: 8080}]}]", ", conditions: [{type: Ready, status: 'False'}]", "") +
		`---
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","annotations":{"weft.dev/x":"1"}},"spec":{"type":"LoadBalancer","clusterIPs":["10.96.0.1","fd00::1"],"selector":{"app":"web"},"externalIPs":["192.0.2.1"],
"ports":[{"name":"a","port":80,"targetPort":"http","nodePort":30080},{"name":"b","port":53,"protocol":"UDP","targetPort":53}],"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":5}},
"externalTrafficPolicy":"Local","loadBalancerSourceRanges":["10.0.0.0/8"],"trafficDistribution":"PreferClose"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.2","ipMode":"Proxy"}]}}}`))
	f.Add([]byte(policyYAML("p", "podSelector: {matchLabels: {a: b}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [c, b]}]}}, {ipBlock: {cidr: '::ffff:10.0.0.0/100', except: [10.1.0.0/16]}}], ports: [{port: http}, {port: 1, endPort: 2, protocol: UDP}, {protocol: SCTP}]}], egress: [{}]")))
	f.Add([]byte(clusterPolicyYAML("p", "tier: Baseline, priority: 7, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}, ingress: [{name: r, action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {destinationNamedPort: http}]}], egress: [{action: Accept, to: [{domainNames: [example.com]}, {nodes: {}}, {networks: [10.0.0.1/8, 'fd00::/8']}]}]")))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, _ := decode(data)
		for _, n := range o.nodes {
			if !validName(n.Name) || len(n.PodCIDRs) > 2 {
				t.Errorf("node %+v", n)
			}
		}
		for _, p := range o.pods {
			if !validName(p.Name) || !validName(p.Namespace) {
				t.Errorf("pod %+v", p)
			}
		}
		for _, v := range o.services {
			if !validName(v.Name) || !validName(v.Namespace) || len(v.ClusterIPs) > 2 || (v.Headless && len(v.ClusterIPs) > 0) {
				t.Errorf("service %+v", v)
			}
		}
		for _, p := range o.policies {
			checkPolicy(t, p)
		}
		for _, p := range o.cluster {
			checkClusterPolicy(t, p)
		}
		for e := range build(view{root: []named{{objects: o}}}, nil, nil, newKinds()).Slices.All() {
			if !validName(e.Name) || !validName(e.Namespace) || !validName(e.Service) {
				t.Errorf("slice %+v", e)
			}
			for _, end := range e.Endpoints {
				if end.IP.Is6() != e.IPv6 || special(end.IP) != "" {
					t.Errorf("slice %+v: endpoint %+v", e, end)
				}
			}
		}
	})
}

// To say that there are no policies costs the same, however many pods were attached since.
func TestUnpolicedMakesNoStateForOurPods(t *testing.T) {
	p := start(t, "", Options{})
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); <-time.After(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within 20 s", what)
			}
		}
	}
	until("the folder is read", p.Unpoliced)
	for i := range 50 {
		p.write(endpoint(fmt.Sprint("c", i), "eth0", "default", fmt.Sprint("web-", i), "10.0.1.2"), false)
	}
	unpoliced := p.Unpoliced()
	p.mu.Lock()
	made := !p.ownStale
	p.mu.Unlock()
	if !unpoliced || made {
		t.Errorf("after 50 pods: no policies %v, a new state was made %v, want true, false", unpoliced, made)
	}
	if got := len(p.Snapshot().Pods); got != 50 {
		t.Errorf("the state has %d pods, want 50", got)
	}
	p.put("policy.yaml", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: default}\nspec: {podSelector: {}}\n")
	until("the policy is known", func() bool { return !p.Unpoliced() })
}
