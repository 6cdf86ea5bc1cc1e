package source

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// policyText is a policy as a person reads it: "-" is all.
func policyText(p *NetworkPolicy) string {
	text := fmt.Sprintf("%s/%s of {%s}", p.Namespace, p.Name, p.Pods)
	for _, d := range []struct {
		word string
		*PolicyRules
	}{{"ingress", p.Ingress}, {"egress", p.Egress}} {
		if d.PolicyRules == nil {
			continue
		}
		text += " " + d.word
		for _, r := range d.Rules {
			text += " (" + peersText(r.Peers) + " : " + portsText(r.Ports) + ")"
		}
	}
	return text
}

func peersText(peers []PolicyPeer) string {
	if peers == nil {
		return "-"
	}
	var out []string
	for _, p := range peers {
		text := ""
		if p.Block != nil {
			text = fmt.Sprint("block ", p.Block.CIDR)
			if len(p.Block.Except) > 0 {
				text += fmt.Sprint(" but ", p.Block.Except)
			}
		}
		if p.Namespaces != nil {
			text += fmt.Sprintf("namespaces {%s}", p.Namespaces)
		}
		if p.Pods != nil {
			text += fmt.Sprintf("pods {%s}", p.Pods)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func portsText(ports []PolicyPort) string {
	if ports == nil {
		return "-"
	}
	var out []string
	for _, p := range ports {
		text := p.Name
		if p.Name == "" {
			text = fmt.Sprintf("%d-%d", p.First, p.Last)
		}
		if p.Protocol != 0 {
			text = fmt.Sprint(p.Protocol, " ", text)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func policyYAML(name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: shop}\nspec: {%s}\n", name, spec)
}

func TestNetworkPoliciesAreRead(t *testing.T) {
	for spec, want := range map[string]string{
		``:                                     "of {} ingress",
		`podSelector: {}`:                      "of {} ingress",
		`podSelector: {}, ingress: []`:         "of {} ingress",
		`podSelector: {}, ingress: [{}]`:       "of {} ingress (- : -)",
		`podSelector: {}, egress: []`:          "of {} ingress",
		`podSelector: {}, egress: [{}]`:        "of {} ingress egress (- : -)",
		`policyTypes: [Egress]`:                "of {} egress",
		`policyTypes: [Egress, Ingress]`:       "of {} ingress egress",
		`policyTypes: [Egress], ingress: [{}]`: "of {} egress",
		`policyTypes: [Ingress], egress: [{}]`: "of {} ingress",
		`podSelector: {matchLabels: {b: c, a: b}, matchExpressions: [{key: x, operator: NotIn, values: [v, z]}, {key: w, operator: Exists}]}`: "of {a=b,b=c,w,x notin (v,z)} ingress",
		`ingress: [{from: [], ports: []}]`:             "of {} ingress (- : -)",
		`ingress: [{from: [{podSelector: {}}]}]`:       "of {} ingress (pods {} : -)",
		`ingress: [{from: [{namespaceSelector: {}}]}]`: "of {} ingress (namespaces {} : -)",
		`ingress: [{from: [{namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}, {podSelector: {matchLabels: {c: d}}}]}]`:                                            "of {} ingress (namespaces {a=b}pods {}, pods {c=d} : -)",
		`egress: [{to: [{ipBlock: {cidr: 10.0.0.7/8, except: [10.1.0.0/16, 10.2.0.1/32]}}, {ipBlock: {cidr: '::/0'}}]}]`:                                                    "of {} ingress egress (block 10.0.0.0/8 but [10.1.0.0/16 10.2.0.1/32], block ::/0 : -)",
		`ingress: [{from: [{ipBlock: {cidr: 010.0.00.0/8}}, {ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]`:                                                                    "of {} ingress (block 10.0.0.0/8, block 10.0.0.0/8 : -)",
		`ingress: [{ports: [{port: 80}, {protocol: UDP, port: 53, endPort: 53}, {protocol: SCTP}, {port: 1, endPort: 65535}, {port: http}, {protocol: UDP, port: dns-2}]}]`: "of {} ingress (- : TCP 80-80, UDP 53-53, SCTP 0-65535, TCP 1-65535, TCP http, UDP dns-2)",
	} {
		got, err := decode([]byte(policyYAML("p", spec)))
		if err != nil || len(got.policies) != 1 || got.policies[0].Problem != "" {
			t.Errorf("%s: got %d policies, %v", spec, len(got.policies), err)
			continue
		}
		if text := policyText(got.policies[0]); text != "shop/p "+want {
			t.Errorf("%s:\ngot  %s\nwant shop/p %s", spec, text, want)
		}
	}
}

// Of a policy that cannot be read wholly, what can be read counts; nothing else passes.
func TestBadNetworkPolicyIsClosed(t *testing.T) {
	const good = `{ports: [{port: 1}]}`
	for spec, want := range map[string][2]string{
		`ingress: [{from: [{}]}, ` + good + `]`: {"of {} ingress (- : TCP 1-1)",
			"spec.ingress[0].from[0]: none of podSelector, namespaceSelector, ipBlock; the rule allows nothing"},
		`ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}, ` + good + `]`: {"of {} ingress (- : TCP 1-1)",
			"spec.ingress[0].from[0].ipBlock: it cannot be with podSelector or namespaceSelector; the rule allows nothing"},
		`egress: [` + good + `, {to: [{ipBlock: {cidr: 10.0.0.0}}]}]`: {"of {} ingress egress (- : TCP 1-1)",
			`spec.egress[1].to[0].ipBlock.cidr: "10.0.0.0" is not a CIDR; the rule allows nothing`},
		`ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]`: {"of {} ingress",
			`spec.ingress[0].from[0].ipBlock.except[0]: "10.0.0.0/8" is not a part of "10.0.0.0/8"; the rule allows nothing`},
		`ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}]}]`: {"of {} ingress",
			`spec.ingress[0].from[0].ipBlock.except[0]: "fd00::/64" is not a part of "10.0.0.0/8"; the rule allows nothing`},
		`ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]`: {"of {} ingress",
			`spec.ingress[0].from[0].ipBlock.except[0]: "x" is not a CIDR; the rule allows nothing`},
		`ingress: [{ports: [{port: 1}, {port: 0}]}]`: {"of {} ingress", "spec.ingress[0].ports[1].port: 0 is not a port (1 to 65535); the rule allows nothing"},
		`ingress: [{ports: [{port: "80"}]}]`: {"of {} ingress",
			`spec.ingress[0].ports[0].port: "80" is not the name of a port: must contain at least one letter (a-z); the rule allows nothing`},
		`ingress: [{ports: [{port: 9, endPort: 8}]}]`:                                            {"of {} ingress", "spec.ingress[0].ports[0].endPort: 8 is less than port 9; the rule allows nothing"},
		`ingress: [{ports: [{port: 9, endPort: 70000}]}]`:                                        {"of {} ingress", "spec.ingress[0].ports[0].endPort: 70000 is not a port (1 to 65535); the rule allows nothing"},
		`ingress: [{ports: [{port: http, endPort: 8}]}]`:                                         {"of {} ingress", "spec.ingress[0].ports[0].endPort: without a number of the first port; the rule allows nothing"},
		`ingress: [{ports: [{endPort: 8}]}]`:                                                     {"of {} ingress", "spec.ingress[0].ports[0].endPort: without a number of the first port; the rule allows nothing"},
		`ingress: [{ports: [{protocol: ICMP}]}]`:                                                 {"of {} ingress", `spec.ingress[0].ports[0].protocol: "ICMP" is none of TCP, UDP, SCTP; the rule allows nothing`},
		`policyTypes: [ingress], ingress: [` + good + `]`:                                        {"of {} ingress (- : TCP 1-1) egress", `spec.policyTypes[0]: "ingress" is none of Ingress, Egress; it isolates in both directions`},
		`podSelector: {matchLabels: {a: b}}, ingress: [{form: [{podSelector: {}}]}]`:             {"of {a=b} ingress egress", `spec: json: unknown field "form"; it allows nothing`},
		`podSelector: {matchLabels: {a: b}}, ingress: 5`:                                         {"of {a=b} ingress egress", `spec: ingress: got number, want []v1.NetworkPolicyIngressRule; it allows nothing`},
		`podSelector: 5, ingress: []`:                                                            {"of {} ingress egress", `spec: podSelector: got number, want v1.LabelSelector; it allows nothing`},
		`podSelector: {matchLabels: {a: "?"}}, ingress: [` + good + `]`:                          {"of {} ingress (- : TCP 1-1)", "spec.podSelector: "},
		`ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}]`:       {"of {} ingress", "spec.ingress[0].from[0].podSelector: "},
		`ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: a, operator: Is}]}}]}]`: {"of {} ingress", "spec.ingress[0].from[0].namespaceSelector: "},
	} {
		got, err := decode([]byte(policyYAML("p", spec)))
		if len(got.policies) != 1 {
			t.Errorf("%s: got %d policies, %v", spec, len(got.policies), err)
			continue
		}
		if text := policyText(got.policies[0]); text != "shop/p "+want[0] {
			t.Errorf("%s:\ngot  %s\nwant shop/p %s", spec, text, want[0])
		}
		problem := got.policies[0].Problem
		if !strings.HasPrefix(problem, want[1]) || got.unsure {
			t.Errorf("%s:\ngot  %s (unsure %v)\nwant %s", spec, problem, got.unsure, want[1])
		}
		if wantErr := "document 1: NetworkPolicy: shop/p: " + problem; err == nil || err.Error() != wantErr {
			t.Errorf("%s:\ngot  %v\nwant %s", spec, err, wantErr)
		}
	}
}

// While a file is wrong, the policies are those that it had last; if it never had any,
// what can be read of them isolates.
func TestPoliciesOfTheFolder(t *testing.T) {
	p := start(t, "", Options{})
	p.wait("")
	p.put("a.yaml", policyYAML("a", "ingress: [{ports: [{port: 80}]}]"))
	p.put("b.yaml", policyYAML("b", "ingress: [{ports: [{port: 0}]}]"))
	const a = "namespace default map[]\nnamespace shop map[]\npolicy shop/a of {} ingress (- : TCP 80-80)\n"
	const b = "policy shop/b of {} ingress\n"
	problemB := `problem source-file: b.yaml: document 1: NetworkPolicy: shop/b: spec.ingress[0].ports[0].port: 0 is not a port (1 to 65535); the rule allows nothing
problem source-policy: network policy shop/b: spec.ingress[0].ports[0].port: 0 is not a port (1 to 65535); the rule allows nothing
incomplete but for policies`
	before := p.wait(a + b + problemB)
	p.put("a.yaml", policyYAML("a", "ingress: [{ports: [{port: 0}]}]"))
	now := p.wait(a + b + `problem source-file: a.yaml: document 1: NetworkPolicy: shop/a: spec.ingress[0].ports[0].port: 0 is not a port (1 to 65535); the rule allows nothing` + "\n" + problemB)
	if before.Policies[0] != now.Policies[0] || before.Policies[1] != now.Policies[1] {
		t.Error("what has not changed is another object")
	}
	p.put("a.yaml", policyYAML("a", "podSelector: {}, ingress: [{ports: [{port: 80}]}]"))
	p.remove("b.yaml")
	now = p.wait(a)
	if before.Policies[0] != now.Policies[0] {
		t.Error("what says the same is another object")
	}
	p.put("c.yaml", policyYAML("a", ""))
	p.wait(a + "problem source-duplicate: NetworkPolicy shop/a is in a.yaml and in c.yaml; the first counts")
}

// Who makes a pod by hand need not make its namespace; a policy can select it all the same.
func TestNamespacesThatAreNotInTheFolderAreThereForPolicies(t *testing.T) {
	p := start(t, "", Options{})
	p.put("pods.yaml", podYAML("web", "one", "a", "node-a")+"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: tools, labels: {team: red}}\n")
	p.wait("pod web/one node-a a []\nnamespace tools map[team:red]")
	p.put("policy.yaml", clusterPolicyYAML("c", ofAll))
	before := p.wait("pod web/one node-a a []\nnamespace default map[]\nnamespace tools map[team:red]\nnamespace web map[]\ncluster policy " + strings.Replace(ofAllIs, "p", "c", 1))
	p.put("node.yaml", nodeYAML("node-a", 1))
	after := p.wait(nodeA + "pod web/one node-a a []\nnamespace default map[]\nnamespace tools map[team:red]\nnamespace web map[]\ncluster policy " + strings.Replace(ofAllIs, "p", "c", 1))
	if before.Namespaces[2] != after.Namespaces[2] {
		t.Error("a namespace that is in no file is another object each time")
	}
}

// A new pod of this node may be another's peer: policies hear of it at once.
func TestOwnPodIsToldWherePoliciesAre(t *testing.T) {
	p := start(t, "", Options{})
	p.wait("")
	p.put("policy.yaml", policyYAML("a", ""))
	p.wait("namespace default map[]\nnamespace shop map[]\npolicy shop/a of {} ingress")
	for done := false; !done; { // what the folder made
		select {
		case <-p.Changed():
		default:
			done = true
		}
	}
	p.write(endpoint("c1", "eth0", "shop", "web-1", "10.0.1.2"), false)
	select {
	case <-p.Changed():
	default:
		t.Error("nobody was told of the pod")
	}
	if s := p.Snapshot(); len(s.Pods) != 1 || s.Pods[0].Name != "web-1" {
		t.Errorf("state:\n%s", text(s))
	}
}

// What may be a policy, or what one needs, makes policies incomplete, at the start only: a
// bad file that comes later must not close a cluster.
func TestPoliciesAreCompleteWithoutWhatTheyDoNotNeed(t *testing.T) {
	dir := t.TempDir()
	p := place{t: t, dir: dir}
	p.put("s.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: Magic}}")
	p.put("y.yaml", "kind: [")
	s := start(t, dir, Options{})
	const service = `problem source-file: s.yaml: document 1: Service: default/x: spec.type: "Magic" is none of ClusterIP, NodePort, LoadBalancer, ExternalName` + "\n"
	const broken = "problem source-file: y.yaml: document 1: yaml: line 1: did not find expected node content\n"
	s.wait(service + broken + "incomplete")
	for name, text := range map[string]string{
		"namespace": "{apiVersion: v1, kind: Namespace, metadata: {name: X}}",
		"no name":   "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: x}}",
		"list":      "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList, items: 5}",
		"no kind":   "{a: b}",
		"scalar":    "5",
		"nested":    "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List}]}",
	} {
		if o, err := decode([]byte(text)); err == nil || !o.unsure {
			t.Errorf("%s: got %v, unsure %v", name, err, o.unsure)
		}
	}
	s.remove("y.yaml")
	s.wait(service + "incomplete but for policies")
	s.put("y.yaml", "kind: [")
	s.wait(service + broken + "incomplete but for policies")
}

// checkPolicy checks what users of a policy rely on.
func checkPolicy(t *testing.T, p *NetworkPolicy) {
	if !validName(p.Name) || !validName(p.Namespace) || p.Pods == nil || (p.Ingress == nil && p.Egress == nil) {
		t.Errorf("policy %+v", p)
	}
	for _, d := range []*PolicyRules{p.Ingress, p.Egress} {
		if d == nil {
			continue
		}
		for _, r := range d.Rules {
			for _, peer := range r.Peers {
				if isPods := peer.Namespaces != nil || peer.Pods != nil; isPods == (peer.Block != nil) {
					t.Errorf("policy %s/%s: peer %+v", p.Namespace, p.Name, peer)
				}
				if peer.Block != nil {
					checkPrefixes(t, append(peer.Block.Except, peer.Block.CIDR))
				}
			}
			for _, port := range r.Ports {
				checkPolicyPort(t, port)
			}
		}
	}
}

func checkPrefixes(t *testing.T, all []netip.Prefix) {
	for _, p := range all {
		if !p.IsValid() || p.Masked() != p || (p.Addr().Is4In6() && p.Bits() >= 96) {
			t.Errorf("prefix %s", p)
		}
	}
}

func checkPolicyPort(t *testing.T, p PolicyPort) {
	if p.First > p.Last || (p.Name != "" && p.Last != 0) || (p.Name == "" && (p.Protocol == 0 || p.Last == 0)) {
		t.Errorf("port %+v", p)
	}
}
