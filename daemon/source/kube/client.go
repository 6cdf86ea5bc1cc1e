package kube

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
		&corev1.Node{}, &corev1.NodeList{}, &corev1.Pod{}, &corev1.PodList{}, &corev1.Service{}, &corev1.ServiceList{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	metav1.AddToGroupVersion(s, discoveryv1.SchemeGroupVersion)
	return s
}

// newClients makes clients of the core and of the discovery API that send by way.
func newClients(way http.RoundTripper) (core, discovery rest.Interface, err error) {
	codecs := serializer.NewCodecFactory(newScheme()).WithoutConversion()
	client := func(path string, version schema.GroupVersion) (rest.Interface, error) {
		c, err := rest.RESTClientForConfigAndClient(&rest.Config{
			Host:    "https://" + apiName, // way sends it where it will
			APIPath: path,
			ContentConfig: rest.ContentConfig{
				GroupVersion: &version, NegotiatedSerializer: codecs,
				ContentType:        runtime.ContentTypeProtobuf,
				AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
			},
			// A few watches, and patches one after the other: there is nothing to limit.
			RateLimiter:    flowcontrol.NewFakeAlwaysRateLimiter(),
			WarningHandler: rest.NoWarnings{},
		}, &http.Client{Transport: way})
		if err != nil {
			return nil, fmt.Errorf("make API client: %w", err)
		}
		return c, nil
	}
	if core, err = client("/api", corev1.SchemeGroupVersion); err != nil {
		return nil, nil, err
	}
	discovery, err = client("/apis", discoveryv1.SchemeGroupVersion)
	return core, discovery, err
}
