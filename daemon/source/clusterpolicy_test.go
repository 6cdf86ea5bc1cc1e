package source

import (
	"fmt"
	"strings"
	"testing"
)

// clusterPolicyText is a policy as a person reads it: "-" is all.
func clusterPolicyText(p *ClusterPolicy) string {
	text := fmt.Sprintf("%s %s %d of %s", p.Name, map[bool]string{false: "admin", true: "baseline"}[p.Baseline], p.Priority,
		clusterPeerText(ClusterPeer{Namespaces: p.Namespaces, Pods: p.Pods}))
	for _, d := range []struct {
		word  string
		rules []ClusterRule
	}{{" ingress", p.Ingress}, {" egress", p.Egress}} {
		for i, r := range d.rules {
			if i == 0 {
				text += d.word
			}
			var peers []string
			for _, peer := range r.Peers {
				peers = append(peers, clusterPeerText(peer))
			}
			action := map[ClusterAction]string{ClusterAccept: "accept", ClusterDeny: "deny", ClusterPass: "pass"}[r.Action]
			text += fmt.Sprintf(" (%s: %s : %s)", strings.TrimPrefix(r.Name+" "+action, " "), strings.Join(peers, ", "), portsText(r.Ports))
		}
	}
	return text
}

func clusterPeerText(p ClusterPeer) (text string) {
	if p.Namespaces != nil {
		text = fmt.Sprintf("namespaces {%s}", p.Namespaces)
	}
	if p.Pods != nil {
		text += fmt.Sprintf("pods {%s}", p.Pods)
	}
	if p.Nodes != nil {
		text += fmt.Sprintf("nodes {%s}", p.Nodes)
	}
	if p.Networks != nil {
		text += fmt.Sprint(p.Networks)
	}
	return text
}

func clusterPolicyYAML(name, spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec: {%s}\n", name, spec)
}

const (
	ofAll    = "tier: Admin, priority: 7, subject: {namespaces: {}}, "
	ofAllIs  = "p admin 7 of namespaces {}"
	denyAlls = "deny: [0.0.0.0/0 ::/0] : -)"
)

func TestClusterPoliciesAreRead(t *testing.T) {
	for spec, want := range map[string]string{
		`tier: Baseline, priority: 0, subject: {namespaces: {}}`: "p baseline 0 of namespaces {}",
		`tier: Admin, priority: 1000, subject: {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchExpressions: [{key: c, operator: Exists}]}}}`: "p admin 1000 of namespaces {a=b}pods {c}",
		`tier: Admin, priority: 7, subject: {pods: {podSelector: {}}}`:                                                                                            "p admin 7 of namespaces {}pods {}",
		ofAll + `ingress: [], egress: []`: ofAllIs,
		ofAll + `ingress: [{action: Accept, from: [{namespaces: {matchLabels: {a: b}}}, {pods: {podSelector: {}}}]}]`:                                                                                                                                       ofAllIs + " ingress (accept: namespaces {a=b}, namespaces {}pods {} : -)",
		ofAll + `ingress: [{name: one, action: Deny, from: [{namespaces: {}}]}, {action: Pass, from: [{namespaces: {}}], protocols: []}]`:                                                                                                                   ofAllIs + " ingress (one deny: namespaces {} : -) (pass: namespaces {} : -)",
		ofAll + `egress: [{action: Deny, to: [{nodes: {matchLabels: {a: b}}}, {networks: [10.0.0.7/8, '::/0']}, {namespaces: {}}]}]`:                                                                                                                        ofAllIs + " egress (deny: nodes {a=b}, [10.0.0.0/8 ::/0], namespaces {} : -)",
		ofAll + `ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 65535}}}}, {sctp: {destinationPort: {number: 9}}}, {destinationNamedPort: http}]}]`: ofAllIs + " ingress (deny: namespaces {} : TCP 80-80, UDP 1-65535, SCTP 9-9, http)",
	} {
		got, err := decode([]byte(clusterPolicyYAML("p", spec)))
		if err != nil || len(got.cluster) != 1 || got.cluster[0].Problem != "" {
			t.Errorf("%s: got %d policies, %v", spec, len(got.cluster), err)
			continue
		}
		if text := clusterPolicyText(got.cluster[0]); text != want {
			t.Errorf("%s:\ngot  %s\nwant %s", spec, text, want)
		}
	}
}

// A rule that cannot be read matches nothing if it accepts; else it denies everything.
func TestBadClusterPolicyIsClosed(t *testing.T) {
	const good = `{action: Pass, from: [{namespaces: {}}]}`
	const goodIs = " (pass: namespaces {} : -)"
	rule := func(action, peers, more string) string {
		return ofAll + "ingress: [{name: r, action: " + action + ", from: [" + peers + "]" + more + "}, " + good + "]"
	}
	const nothing = ofAllIs + " ingress (r accept:  : -)" + goodIs
	const everything = ofAllIs + " ingress (r " + denyAlls + goodIs
	const all = "{namespaces: {}}"
	for spec, want := range map[string][2]string{
		rule("Accept", "", ""):                                    {nothing, "spec.ingress[0].from: missing; the rule matches nothing"},
		rule("Deny", "", ""):                                      {everything, "spec.ingress[0].from: missing; the rule denies everything"},
		rule("Accept", all+", {}", ""):                            {nothing, "spec.ingress[0].from[1]: not one of namespaces, pods; the rule matches nothing"},
		rule("Pass", all+", {}", ""):                              {everything, "spec.ingress[0].from[1]: not one of namespaces, pods; the rule denies everything"},
		rule("Deny", "{networks: [10.0.0.0/8]}", ""):              {everything, "spec.ingress[0].from[0]: not one of namespaces, pods; the rule denies everything"},
		rule("Deny", "{nodes: {}, namespaces: {}}", ""):           {everything, "spec.ingress[0].from[0]: not one of namespaces, pods; the rule denies everything"},
		rule("Allow", all, ""):                                    {everything, `spec.ingress[0].action: "Allow" is none of Accept, Deny, Pass; the rule denies everything`},
		rule("Deny", "{namespaces: {matchLabels: {a: '?'}}}", ""): {everything, "spec.ingress[0].from[0].namespaces: "},
		rule("Deny", "{pods: {namespaceSelector: {matchLabels: {a: '?'}}, podSelector: {}}}", ""):            {everything, "spec.ingress[0].from[0].pods.namespaceSelector: "},
		rule("Deny", "{pods: {podSelector: {matchLabels: {a: '?'}}}}", ""):                                   {everything, "spec.ingress[0].from[0].pods.podSelector: "},
		rule("Accept", all, ", protocols: [{}]"):                                                             {nothing, "spec.ingress[0].protocols[0]: not one of tcp, udp, sctp, destinationNamedPort; the rule matches nothing"},
		rule("Accept", all, ", protocols: [{tcp: {destinationPort: {number: 1}}, destinationNamedPort: a}]"): {nothing, "spec.ingress[0].protocols[0]: not one of tcp, udp, sctp, destinationNamedPort; the rule matches nothing"},
		rule("Accept", all, ", protocols: [{destinationNamedPort: '1'}]"):                                    {nothing, `spec.ingress[0].protocols[0].destinationNamedPort: "1" is not the name of a port: must contain at least one letter (a-z); the rule matches nothing`},
		rule("Accept", all, ", protocols: [{tcp: {}}]"):                                                      {nothing, "spec.ingress[0].protocols[0].tcp.destinationPort: not one of number, range; the rule matches nothing"},
		rule("Accept", all, ", protocols: [{udp: {destinationPort: {number: 70000}}}]"):                      {nothing, "spec.ingress[0].protocols[0].udp.destinationPort.number: 70000 is not a port (1 to 65535); the rule matches nothing"},
		rule("Accept", all, ", protocols: [{udp: {destinationPort: {range: {start: 0, end: 2}}}}]"):          {nothing, "spec.ingress[0].protocols[0].udp.destinationPort.range.start: 0 is not a port (1 to 65535); the rule matches nothing"},
		rule("Accept", all, ", protocols: [{udp: {destinationPort: {range: {start: 1, end: 70000}}}}]"):      {nothing, "spec.ingress[0].protocols[0].udp.destinationPort.range.end: 70000 is not a port (1 to 65535); the rule matches nothing"},
		rule("Accept", all, ", protocols: [{sctp: {destinationPort: {range: {start: 2, end: 2}}}}]"):         {nothing, "spec.ingress[0].protocols[0].sctp.destinationPort.range: start 2 is not less than end 2; the rule matches nothing"},
		ofAll + "egress: [{action: Deny, to: [{}]}]":                                                         {ofAllIs + " egress (" + denyAlls, "spec.egress[0].to[0]: not one of namespaces, pods, nodes, networks, domainNames; the rule denies everything"},
		ofAll + "egress: [{action: Deny, to: [{networks: [10.0.0.0]}]}]":                                     {ofAllIs + " egress (" + denyAlls, `spec.egress[0].to[0].networks[0]: "10.0.0.0" is not a CIDR; the rule denies everything`},
		ofAll + "egress: [{action: Accept, to: [{networks: ['::ffff:10.0.0.0/104']}]}]":                      {ofAllIs + " egress (accept:  : -)", `spec.egress[0].to[0].networks[0]: "::ffff:10.0.0.0/104" is not a CIDR; the rule matches nothing`},
		ofAll + "egress: [{action: Deny, to: [{nodes: {matchLabels: {a: '?'}}}]}]":                           {ofAllIs + " egress (" + denyAlls, "spec.egress[0].to[0].nodes: "},
		ofAll + "egress: [{action: Accept, to: [{nodes: {}}], protocols: [{destinationNamedPort: http}]}]":   {ofAllIs + " egress (accept:  : -)", "spec.egress[0].protocols[0].destinationNamedPort: nodes and networks have no ports with names; the rule matches nothing"},
		ofAll + "egress: [{action: Deny, to: [{domainNames: [example.com]}]}]":                               {ofAllIs + " egress (" + denyAlls, "spec.egress[0].to[0].domainNames: names are not supported; the rule denies everything"},
		"tier: Network, priority: 7, subject: {namespaces: {}}, ingress: [" + good + "]":                     {"p admin 0 of namespaces {} ingress (" + denyAlls, `spec.tier: "Network" is none of Admin, Baseline; it denies everything`},
		"tier: Baseline, subject: {namespaces: {}}, ingress: [" + good + "]":                                 {"p baseline 0 of namespaces {} ingress (" + denyAlls, "spec.priority: missing; it denies everything"},
		"tier: Admin, priority: 1001, subject: {namespaces: {}}, ingress: [" + good + "]":                    {"p admin 0 of namespaces {} ingress (" + denyAlls, "spec.priority: 1001 is not 0 to 1000; it denies everything"},
		"tier: Admin, priority: 7, ingress: [" + good + "]":                                                  {"p admin 7 of namespaces {} ingress" + goodIs, "spec.subject: not one of namespaces, pods; it is about no pods"},
		ofAll + "ingres: []": {ofAllIs, `spec: json: unknown field "ingres"; it is left out`},
		ofAll + "ingress: 5": {"p admin 0 of namespaces {} ingress (" + denyAlls + " egress (" + denyAlls, "spec: ingress: got number, want []source.clusterRuleObject; it denies everything"},
	} {
		got, err := decode([]byte(clusterPolicyYAML("p", spec)))
		if len(got.cluster) != 1 {
			t.Errorf("%s: got %d policies, %v", spec, len(got.cluster), err)
			continue
		}
		if text := clusterPolicyText(got.cluster[0]); text != want[0] {
			t.Errorf("%s:\ngot  %s\nwant %s", spec, text, want[0])
		}
		problem := got.cluster[0].Problem
		if !strings.HasPrefix(problem, want[1]) || got.unsure {
			t.Errorf("%s:\ngot  %s (unsure %v)\nwant %s", spec, problem, got.unsure, want[1])
		}
		if wantErr := "document 1: ClusterNetworkPolicy: p: " + problem; err == nil || err.Error() != wantErr {
			t.Errorf("%s:\ngot  %v\nwant %s", spec, err, wantErr)
		}
	}
}

// Whom a policy is about cannot be guessed.
func TestClusterPolicyWithoutSubjectIsAboutNobody(t *testing.T) {
	got, _ := decode([]byte(clusterPolicyYAML("p", "tier: Admin, priority: 7, subject: 5, egress: []")))
	if p := got.cluster[0]; p.Namespaces.Matches(nil) || !strings.Contains(p.Problem, "it denies everything") {
		t.Errorf("policy: got %s: %s", clusterPolicyText(p), p.Problem)
	}
}

// Names are what we do not do: the object is well, and shown as a problem.
func TestClusterPoliciesOfTheFolder(t *testing.T) {
	p := start(t, "", Options{})
	p.put("a.yaml", clusterPolicyYAML("b", ofAll+"egress: [{action: Accept, to: [{domainNames: [example.com]}, {networks: [10.0.0.0/8]}]}]")+"---\n"+
		clusterPolicyYAML("a", "tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: ['0.0.0.0/0']}]}]"))
	const a = "namespace default map[]\ncluster policy a baseline 1 of namespaces {} egress (deny: [0.0.0.0/0] : -)\n"
	const b = "cluster policy b admin 7 of namespaces {} egress (accept: [10.0.0.0/8] : -)\n"
	const problem = "problem source-policy: cluster network policy b: spec.egress[0].to[0].domainNames: names are not supported; nothing is accepted for their sake\n"
	before := p.wait(a + b + problem)
	p.put("c.yaml", clusterPolicyYAML("a", ofAll))
	now := p.wait(a + b + "problem source-duplicate: ClusterNetworkPolicy a is in a.yaml and in c.yaml; the first counts\n" + problem)
	if before.ClusterPolicies[0] != now.ClusterPolicies[0] {
		t.Error("what has not changed is another object")
	}
	p.put("a.yaml", "")
	p.wait("namespace default map[]\ncluster policy " + strings.Replace(ofAllIs, "p", "a", 1))
}

// checkClusterPolicy checks what users of a policy rely on.
func checkClusterPolicy(t *testing.T, p *ClusterPolicy) {
	if !validName(p.Name) || p.Namespaces == nil || p.Priority < 0 || p.Priority > 1000 {
		t.Errorf("policy %+v", p)
	}
	for _, rules := range [][]ClusterRule{p.Ingress, p.Egress} {
		for _, r := range rules {
			if r.Action < ClusterAccept || r.Action > ClusterPass {
				t.Errorf("policy %s: rule %+v", p.Name, r)
			}
			for _, peer := range r.Peers {
				if ways := [3]bool{peer.Namespaces != nil, peer.Nodes != nil, len(peer.Networks) > 0}; ways != [3]bool{true} && ways != [3]bool{1: true} && ways != [3]bool{2: true} {
					t.Errorf("policy %s: peer %+v", p.Name, peer)
				}
				checkPrefixes(t, peer.Networks)
			}
			for _, port := range r.Ports {
				checkPolicyPort(t, port)
			}
		}
	}
}
