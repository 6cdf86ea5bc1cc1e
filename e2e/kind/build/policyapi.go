package build

import "strings"

// What the conformance suite of network-policy-api writes, once for each question, where it
// is changed not to ask by SCTP.
const (
	Asked   = "weft: this is asked"
	Unasked = "weft: this is not asked, for it is by SCTP"
)

// The files of [PolicyAPI]'s artefact.
const (
	PolicyAPITests = "conformance.test"
	PolicyAPICRD   = "policy.networking.k8s.io_clusternetworkpolicies.yaml" // of the experimental channel, which has all fields
	Test2JSON      = "test2json"
)

// PolicyAPI is the conformance suite of sigs.k8s.io/network-policy-api, with the CRD that it
// is about. Its pods run the agnhost that there is. Without sctp, a kernel that has no SCTP
// sockets, the pods have no SCTP servers, which could not start, and no question is asked by
// SCTP.
func PolicyAPI(sctp bool) ChangedTests {
	const manifests = "conformance/base/manifests.yaml"
	agnhost := Tests().Agnhost
	t := ChangedTests{
		Label: "network-policy-api-0.2.0", Module: "sigs.k8s.io/network-policy-api", Version: "v0.2.0",
		Package: "conformance",
		Edits:   []Edit{{manifests, `\Q` + agnhost[:strings.LastIndex(agnhost, ":")] + `:\E[0-9.]+`, agnhost, 35}},
		Files:   []string{"config/crd/experimental/" + PolicyAPICRD},
	}
	if sctp {
		return t
	}
	t.Label += "-without-sctp"
	t.Edits = append(t.Edits,
		Edit{manifests, `(?m)^ +- name: .*\n +image: .*\n +command: .*/agnhost porter"\]\n +env:\n +- name: SERVE_SCTP_PORT_.*\n +value: .*\n`, "", 10},
		Edit{"conformance/utils/kubernetes/helper.go", `(?m)^\trequire\.Eventually\(t, func\(\) bool \{$`,
			"\tif protocol == \"sctp\" {\n\t\tt.Log(\"" + Unasked + "\")\n\t\treturn\n\t}\n\tt.Log(\"" + Asked + "\")\n${0}", 1})
	return t
}
