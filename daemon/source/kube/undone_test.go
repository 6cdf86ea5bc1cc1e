package kube

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The watch may tell that an announcement was undone before the answer says that it was made.
func TestAnnouncementUndoneBeforeItsAnswerIsMadeAgain(t *testing.T) {
	pod := func(version, annotation string) *corev1.Pod {
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "one", UID: "uid-one", ResourceVersion: version, Annotations: map[string]string{},
		}}
		if annotation != "" {
			p.Annotations[addressesAnnotation] = annotation
		}
		return p
	}
	const said = "uid-one/10.0.1.2"
	var a *announcer
	client, err := rest.RESTClientForConfigAndClient(&rest.Config{
		Host: "http://api.invalid", APIPath: "/api",
		ContentConfig: rest.ContentConfig{GroupVersion: &corev1.SchemeGroupVersion, NegotiatedSerializer: scheme.Codecs.WithoutConversion()},
	}, &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		a.see(pod("5", said))
		a.see(pod("6", ""))
		b, err := json.Marshal(pod("5", said))
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(b))}, err
	})})
	if err != nil {
		t.Fatal(err)
	}
	a = newAnnouncer(client, slog.New(slog.DiscardHandler))
	a.see(pod("4", ""))
	a.put(attachment("one", "uid-one", "10.0.1.2"), false)
	n := name{"shop", "one"}
	a.announce(t.Context(), n, a.wanted[n])
	if a.err != nil {
		t.Fatal(a.err)
	}
	if !a.wanted[n].due {
		t.Error("what was undone is not due again")
	}
}
