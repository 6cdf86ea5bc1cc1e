package kube

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// userAgent is how the API's log, and the managedFields of what we write, name us.
const userAgent = "weftd"

// newScheme knows the kinds that are read, and no others: client-go's own scheme, with all
// kinds of Kubernetes, is what makes its clients big.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Node{}, &corev1.NodeList{}, &corev1.Pod{}, &corev1.PodList{}, &corev1.Service{}, &corev1.ServiceList{},
		&corev1.Namespace{}, &corev1.NamespaceList{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	s.AddKnownTypeWithName(clusterPolicyVersion.WithKind("ClusterNetworkPolicy"), &clusterPolicy{})
	s.AddKnownTypeWithName(clusterPolicyVersion.WithKind("ClusterNetworkPolicyList"), &clusterPolicyList{})
	for _, v := range []schema.GroupVersion{corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, clusterPolicyVersion} {
		metav1.AddToGroupVersion(s, v)
	}
	return s
}

// clients is one for each API group that is read.
type clients struct{ core, discovery, networking, policy rest.Interface }

// newClients makes clients that send by way.
func newClients(way http.RoundTripper) (c clients, err error) {
	codecs := serializer.NewCodecFactory(newScheme()).WithoutConversion()
	for _, of := range []struct {
		client  *rest.Interface
		path    string
		version schema.GroupVersion
		form    string
	}{
		{&c.core, "/api", corev1.SchemeGroupVersion, runtime.ContentTypeProtobuf},
		{&c.discovery, "/apis", discoveryv1.SchemeGroupVersion, runtime.ContentTypeProtobuf},
		{&c.networking, "/apis", networkingv1.SchemeGroupVersion, runtime.ContentTypeProtobuf},
		{&c.policy, "/apis", clusterPolicyVersion, runtime.ContentTypeJSON}, // custom resources know no other
	} {
		accept := runtime.ContentTypeJSON
		if of.form != accept {
			accept = of.form + "," + accept
		}
		*of.client, err = rest.RESTClientForConfigAndClient(&rest.Config{
			Host:    "https://" + apiName, // way sends it where it will
			APIPath: of.path,
			ContentConfig: rest.ContentConfig{
				GroupVersion: &of.version, NegotiatedSerializer: codecs, ContentType: of.form, AcceptContentTypes: accept,
			},
			// A few watches, and patches one after the other: there is nothing to limit.
			RateLimiter:    flowcontrol.NewFakeAlwaysRateLimiter(),
			WarningHandler: rest.NoWarnings{},
		}, &http.Client{Transport: way})
		if err != nil {
			return c, fmt.Errorf("make API client: %w", err)
		}
	}
	return c, nil
}
