package charttest

import (
	"context"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/deploy"
)

// policies are those of the manifest, as the oldest API server compiles them on which
// Weft can be installed.
func policies(t *testing.T) []admissionv1.ValidatingAdmissionPolicy {
	t.Helper()
	list, err := deploy.Render(deploy.Defaults(), deploy.DefaultNamespace)
	if err != nil {
		t.Fatal(err)
	}
	var out []admissionv1.ValidatingAdmissionPolicy
	for _, o := range list {
		if o.Kind != "ValidatingAdmissionPolicy" {
			continue
		}
		var p admissionv1.ValidatingAdmissionPolicy
		if err := yaml.UnmarshalStrict(o.YAML, &p); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func compile(t *testing.T, p admissionv1.ValidatingAdmissionPolicy) validating.Validator {
	t.Helper()
	c, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(version.MajorMinor(1, 30)))
	if err != nil {
		t.Fatal(err)
	}
	vars := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	for _, v := range p.Spec.Variables {
		if r := c.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, vars, environment.NewExpressions); r.Error != nil {
			t.Fatalf("%s: variable %s: %v", p.Name, v.Name, r.Error)
		}
	}
	condition := func(list ...cel.ExpressionAccessor) cel.ConditionEvaluator {
		f := c.CompileCondition(list, vars, environment.NewExpressions)
		if errs := f.CompilationErrors(); len(errs) > 0 {
			t.Fatalf("%s: %v", p.Name, errs)
		}
		return f
	}
	var validations, matches []cel.ExpressionAccessor
	for _, v := range p.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message})
	}
	var matcher matchconditions.Matcher
	for i := range p.Spec.MatchConditions {
		matches = append(matches, (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i]))
	}
	if len(matches) > 0 {
		matcher = matchconditions.NewMatcher(condition(matches...), p.Spec.FailurePolicy, "policy", "validate", p.Name)
	}
	return validating.NewValidator(condition(validations...), matcher, condition(), condition(), p.Spec.FailurePolicy, nil)
}

// call is a request that the API server asks its policies about.
type call struct {
	resource string // with the subresource after a slash
	user     user.Info
	old, now runtime.Object
}

// denials is what the policies that are about the resource say against a call.
func (c call) denials(t *testing.T, list []admissionv1.ValidatingAdmissionPolicy) []string {
	t.Helper()
	resource, sub, _ := strings.Cut(c.resource, "/")
	operation, options := admission.Create, runtime.Object(&metav1.CreateOptions{})
	if c.old != nil {
		operation, options = admission.Update, &metav1.UpdateOptions{}
	}
	kind := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	switch c.now.(type) {
	case *corev1.Binding:
		kind.Kind = "Binding"
	case *corev1.Service:
		kind.Kind = "Service"
	}
	gvr := schema.GroupVersionResource{Version: "v1", Resource: resource}
	attr := &admission.VersionedAttributes{
		Attributes:      admission.NewAttributesRecord(c.now, c.old, kind, "default", "p", gvr, sub, operation, options, false, c.user),
		VersionedObject: admission.NewLazyObject(c.now), VersionedOldObject: admission.NewLazyObject(c.old), VersionedKind: kind,
	}
	var out []string
	for _, p := range list {
		if !about(p, c.resource, string(operation)) {
			continue
		}
		r := compile(t, p).Validate(context.Background(), gvr, attr, nil, &corev1.Namespace{}, celconfig.RuntimeCELCostBudget, nil)
		for _, d := range r.Decisions {
			if d.Action == validating.ActionDeny {
				out = append(out, p.Name+": "+d.Message)
			}
		}
	}
	return out
}

func about(p admissionv1.ValidatingAdmissionPolicy, resource, operation string) bool {
	for _, r := range p.Spec.MatchConstraints.ResourceRules {
		if slices.Contains(r.Resources, resource) && slices.Contains(r.Operations, admissionv1.OperationType(operation)) {
			return true
		}
	}
	return false
}

const key = "weft.dev/pod-ips"

// pod is a Pod on node n1 with these annotations.
func pod(annotations map[string]string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"app": "a"}, Annotations: annotations},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func ips(s string) map[string]string { return map[string]string{key: s, "other": "1"} }

func TestPoliciesLetNobodyElseSayAPodsAddresses(t *testing.T) {
	weft := func(node ...string) user.Info {
		return &user.DefaultInfo{Name: "system:serviceaccount:kube-system:weft", Groups: []string{"system:serviceaccounts"},
			Extra: map[string][]string{"authentication.kubernetes.io/node-name": node}}
	}
	joe := &user.DefaultInfo{Name: "joe", Groups: []string{"system:masters"}}
	kubelet := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
	none, other := map[string]string(nil), map[string]string{"other": "1"}
	binding := func(annotations map[string]string) *corev1.Binding {
		return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: annotations}, Target: corev1.ObjectReference{Name: "n1"}}
	}
	const foreign, account = "pod-ips.weft.dev: the annotation weft.dev/pod-ips is written by Weft alone", "account.weft.dev: "
	for _, tc := range []struct {
		name string
		call call
		want string // the beginning of the only denial; empty: it passes
	}{
		{"create without", call{"pods", joe, nil, pod(none)}, ""},
		{"create with others", call{"pods", joe, nil, pod(other)}, ""},
		{"create a copy", call{"pods", joe, nil, pod(ips("u1/10.0.0.1"))}, ""}, // UIDs come later: whose it is shows
		{"change something else", call{"pods", joe, pod(ips("10.0.0.1")), pod(ips("10.0.0.1"), func(p *corev1.Pod) { p.Labels["app"] = "b" })}, ""},
		{"change", call{"pods", joe, pod(ips("10.0.0.1")), pod(ips("10.0.0.2"))}, foreign},
		{"add", call{"pods", joe, pod(none), pod(ips("10.0.0.1"))}, foreign},
		{"remove", call{"pods", joe, pod(ips("10.0.0.1")), pod(other)}, foreign},
		{"remove all", call{"pods", joe, pod(ips("10.0.0.1")), pod(none)}, foreign},
		{"status", call{"pods/status", kubelet, pod(ips("10.0.0.1")), pod(ips("10.0.0.1"), func(p *corev1.Pod) { p.Status.PodIP = "10.0.0.1" })}, ""},
		{"by the status", call{"pods/status", kubelet, pod(none), pod(ips("10.0.0.1"))}, foreign},
		{"by ephemeral containers", call{"pods/ephemeralcontainers", joe, pod(none), pod(ips("10.0.0.1"))}, foreign},
		{"by a resize", call{"pods/resize", joe, pod(none), pod(ips("10.0.0.1"))}, foreign},
		{"bind", call{"pods/binding", joe, nil, binding(other)}, ""},
		{"by a binding", call{"pods/binding", joe, nil, binding(ips("10.0.0.1"))}, foreign},
		{"by an old form of binding", call{"bindings", joe, nil, binding(ips("10.0.0.1"))}, foreign},

		{"Weft adds", call{"pods", weft("n1"), pod(none), pod(map[string]string{key: "10.0.0.1"})}, ""},
		{"Weft adds to others", call{"pods", weft("n1"), pod(other), pod(ips("10.0.0.1"))}, ""},
		{"Weft changes", call{"pods", weft("n1"), pod(ips("10.0.0.1")), pod(ips("10.0.0.2"))}, ""},
		{"Weft removes", call{"pods", weft("n1"), pod(ips("10.0.0.1")), pod(other)}, ""},
		{"Weft of another node", call{"pods", weft("n2"), pod(other), pod(ips("10.0.0.1"))}, account + "Weft's account may change the pods of its own node"},
		{"Weft of no node", call{"pods", weft(), pod(other), pod(ips("10.0.0.1"))}, account + "Weft's account may change the pods of its own node"},
		{"Weft changes the image", call{"pods", weft("n1"), pod(none), pod(none, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "evil" })}, account + "Weft's account may change nothing"},
		{"Weft changes a label", call{"pods", weft("n1"), pod(none), pod(none, func(p *corev1.Pod) { p.Labels["app"] = "b" })}, account + "Weft's account may change nothing"},
		{"Weft adds a finalizer", call{"pods", weft("n1"), pod(none), pod(none, func(p *corev1.Pod) { p.Finalizers = []string{"x/y"} })}, account + "Weft's account may change nothing"},
		{"Weft adds an owner", call{"pods", weft("n1"), pod(none), pod(none, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "u"}}
		})}, account + "Weft's account may change nothing"},
		{"Weft changes another annotation", call{"pods", weft("n1"), pod(other), pod(map[string]string{"other": "2"})}, account + "Weft's account may change nothing"},
		{"Weft adds another annotation", call{"pods", weft("n1"), pod(none), pod(other)}, account + "Weft's account may change nothing"},
		{"Weft adds an empty one", call{"pods", weft("n1"), pod(none), pod(map[string]string{"x": ""})}, account + "Weft's account may change nothing"},
		{"Weft removes another annotation", call{"pods", weft("n1"), pod(other), pod(none)}, account + "Weft's account may change nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := tc.call.denials(t, policies(t))
			if tc.want == "" && len(got) > 0 {
				t.Errorf("denied: %q", got)
			}
			if tc.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.want)) {
				t.Errorf("got %q, want one that begins with %q", got, tc.want)
			}
		})
	}
}

func TestWeftsAccountChangesOnlyItsOwnOfServices(t *testing.T) {
	weft := &user.DefaultInfo{Name: "system:serviceaccount:kube-system:weft"}
	joe := &user.DefaultInfo{Name: "joe"}
	const ours, class = "weft.dev/LoadBalancerAddress", "balancer.weft.dev: Weft's account may change Services of the class"
	const nothing = "balancer.weft.dev: Weft's account may change nothing of a Service"
	service := func(class string, change ...func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", Labels: map[string]string{"app": "a"}}}
		s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeLoadBalancer, "10.96.0.1"
		if class != "" {
			s.Spec.LoadBalancerClass = &class
		}
		s.Status.Conditions = []metav1.Condition{{Type: "Other", Status: metav1.ConditionTrue}}
		for _, f := range change {
			f(s)
		}
		return s
	}
	ip := func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	}
	condition := func(s *corev1.Service) {
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: ours, Status: metav1.ConditionTrue})
	}
	for _, tc := range []struct {
		name string
		call call
		want string
	}{
		{"address and condition", call{"services/status", weft, service("weft.dev/l2"), service("weft.dev/l2", ip, condition)}, ""},
		{"without a class", call{"services/status", weft, service(""), service("", ip, condition)}, ""},
		{"without conditions", call{"services/status", weft, service("", func(s *corev1.Service) { s.Status.Conditions = nil }), service("", func(s *corev1.Service) { s.Status.Conditions = nil }, condition)}, ""},
		{"taken back", call{"services/status", weft, service("", ip, condition), service("")}, ""},
		{"of another class", call{"services/status", weft, service("other"), service("other", ip)}, class},
		{"another's condition", call{"services/status", weft, service(""), service("", func(s *corev1.Service) { s.Status.Conditions = nil })}, nothing},
		{"a label by the status", call{"services/status", weft, service(""), service("", func(s *corev1.Service) { s.Labels["app"] = "b" })}, nothing},
		{"an annotation by the status", call{"services/status", weft, service(""), service("", func(s *corev1.Service) { s.Annotations = map[string]string{"a": "b"} })}, nothing},
		{"the spec", call{"services", weft, service(""), service("", func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0.2" })}, nothing},
		{"others do as they may", call{"services/status", joe, service("other"), service("other", ip)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := tc.call.denials(t, policies(t))
			if tc.want == "" && len(got) > 0 {
				t.Errorf("denied: %q", got)
			}
			if tc.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.want)) {
				t.Errorf("got %q, want one that begins with %q", got, tc.want)
			}
		})
	}
}

// What cannot be evaluated is refused, and each policy has its binding.
func TestPoliciesAreInForce(t *testing.T) {
	list, err := deploy.Render(deploy.Defaults(), deploy.DefaultNamespace)
	if err != nil {
		t.Fatal(err)
	}
	bound := map[string]bool{}
	for _, o := range list {
		if o.Kind != "ValidatingAdmissionPolicyBinding" {
			continue
		}
		var b admissionv1.ValidatingAdmissionPolicyBinding
		if err := yaml.UnmarshalStrict(o.YAML, &b); err != nil {
			t.Fatal(err)
		}
		bound[b.Spec.PolicyName] = slices.Contains(b.Spec.ValidationActions, admissionv1.Deny)
	}
	for _, p := range policies(t) {
		if !bound[p.Name] || *p.Spec.FailurePolicy != admissionv1.Fail {
			t.Errorf("%s: bound %v, failure policy %s", p.Name, bound[p.Name], *p.Spec.FailurePolicy)
		}
	}
}
