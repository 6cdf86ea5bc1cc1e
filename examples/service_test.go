package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/deploy"
	"github.com/weftnet/weft/internal/testnet"
)

// get asks once, on a connection of its own.
func get(url string) (status int, body string, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func TestOrderServiceAsksUserService(t *testing.T) {
	user := httptest.NewServer((&service{name: "user-service", pod: "u1", node: "n1"}).handler())
	defer user.Close()
	order := httptest.NewServer((&service{name: "order-service", pod: "o1", node: "n2", user: user.URL}).handler())
	defer order.Close()
	status, body, err := get(order.URL)
	if err != nil || status != http.StatusOK {
		t.Fatalf("status %d, %v", status, err)
	}
	var got answer
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := answer{Service: "order-service", Pod: "o1", Node: "n2", Client: "127.0.0.1",
		User: &answer{Service: "user-service", Pod: "u1", Node: "n1", Client: "127.0.0.1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/other": 404} {
		if status, _, err := get(order.URL + path); status != want || err != nil {
			t.Errorf("%s: status %d, %v; want %d", path, status, err, want)
		}
	}
}

func TestOrderServiceSaysThatUserServiceFails(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"500 Internal": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"invalid char": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"unexpected EOF": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			fmt.Fprint(w, "{")
		},
		"ask user-service": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		user := httptest.NewServer(h)
		order := httptest.NewServer((&service{name: "order-service", user: user.URL}).handler())
		status, body, err := get(order.URL)
		if err != nil || status != http.StatusBadGateway || !strings.Contains(body, name) {
			t.Errorf("%s: status %d, %v, %s", name, status, err, body)
		}
		order.Close()
		user.Close()
	}
}

// After SIGTERM: not ready at once, but every request is answered, and clients are sent
// away from their connections; what is under way at the end is finished.
func TestServiceEndsWithoutAFailedRequest(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	user := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		fmt.Fprint(w, "{}")
	}))
	defer user.Close()
	finish := sync.OnceFunc(func() { close(release) })
	defer finish() // or user would not close
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	drained := make(chan time.Time)
	s := &service{name: "order-service", user: user.URL, drain: func() <-chan time.Time { return drained }}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, l) }()

	under := make(chan error, 1)
	go func() {
		res, err := (&http.Client{Transport: &http.Transport{}}).Get(url) // would use the connection again
		if err == nil {
			if _, err = io.ReadAll(res.Body); err == nil && (res.StatusCode != http.StatusOK || !res.Close) {
				err = fmt.Errorf("status %d, connection ends: %v", res.StatusCode, res.Close)
			}
			res.Body.Close()
		}
		under <- err
	}()
	<-arrived
	cancel()
	testnet.Until(t, 20*time.Second, func() error {
		status, _, err := get(url + "/readyz")
		if err == nil && status != http.StatusServiceUnavailable {
			err = fmt.Errorf("/readyz answers %d", status)
		}
		return err
	})
	if status, _, err := get(url + "/healthz"); status != http.StatusOK || err != nil {
		t.Errorf("in the drain: status %d, %v", status, err)
	}
	close(drained)
	testnet.Until(t, 20*time.Second, func() error { // it no longer listens
		if _, _, err := get(url + "/healthz"); err == nil {
			return fmt.Errorf("it still answers")
		}
		return nil
	})
	select {
	case err := <-ended:
		t.Errorf("it ended before the request under way: %v", err)
	default:
	}
	finish()
	if err := <-under; err != nil {
		t.Errorf("request under way: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestCommandLineIsChecked(t *testing.T) {
	for _, args := range [][]string{nil, {"-role=cart"}, {"-role=user", "-listen=nowhere"}, {"-unknown"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// The objects are those that the story tells, as Kubernetes knows them, with the image
// that is made beside Weft's.
func TestObjectsOfTheExample(t *testing.T) {
	weft, _ := deploy.Defaults()["image"].(string)
	for name, port := range map[string]int32{"user-service": 8080, "order-service": 8081} {
		text, err := os.ReadFile(name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		first, second, _ := strings.Cut(string(text), "\n---\n")
		var d appsv1.Deployment
		var s corev1.Service
		if err := yaml.UnmarshalStrict([]byte(first), &d); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict([]byte(second), &s); err != nil {
			t.Fatal(err)
		}
		c := d.Spec.Template.Spec.Containers[0]
		if d.Name != name || *d.Spec.Replicas != 3 || c.Ports[0].ContainerPort != port || len(c.Resources.Limits) != 2 {
			t.Errorf("%s: Deployment %s of %d, container %+v", name, d.Name, *d.Spec.Replicas, c)
		}
		if c.Image != strings.Replace(weft, "/weft:", "/example:", 1) {
			t.Errorf("%s: image %s beside Weft's %s", name, c.Image, weft)
		}
		if role := "-role=" + strings.TrimSuffix(name, "-service"); c.Args[0] != role || c.Args[1] != fmt.Sprintf("-listen=:%d", port) {
			t.Errorf("%s: args %v", name, c.Args)
		}
		for _, a := range []string{"kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"} {
			if d.Spec.Template.Annotations[a] == "" {
				t.Errorf("%s: no annotation %s", name, a)
			}
		}
		p := s.Spec.Ports[0]
		if s.Name != name || s.Spec.Type != corev1.ServiceTypeLoadBalancer || p.Port != 80 || p.TargetPort.IntVal != port {
			t.Errorf("%s: Service %s of type %s, port %+v", name, s.Name, s.Spec.Type, p)
		}
		if cmp.Diff(s.Spec.Selector, d.Spec.Template.Labels) != "" {
			t.Errorf("%s: selector %v, labels %v", name, s.Spec.Selector, d.Spec.Template.Labels)
		}
	}
}
