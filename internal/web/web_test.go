package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/api/server"
)

// fake is a daemon: it knows 230 nodes, and Services of which one has 130 backends.
type fake struct{ server.Info }

func (fake) Status() api.Status {
	return api.Status{Node: "n1", Ready: true, Problems: []api.Problem{{What: "mtu", Text: "<b>narrow</b>"}}}
}

func (fake) Nodes() []api.Node {
	var out []api.Node
	for i := range 230 {
		n := api.Node{
			Name: fmt.Sprintf("n%03d", 229-i), Self: i == 0, Reach: "ok", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)},
		}
		if i == 7 {
			n.Reach = "no answer"
		}
		out = append(out, n)
	}
	return out
}

func (fake) FindServices(q api.ServiceQuery) (api.ServicePage, error) {
	return api.ServicePage{Found: 30_000, Services: []api.Service{{Namespace: "default", Name: fmt.Sprintf("%+v", q)}}}, nil
}

func (fake) WatchedService(name string) ([]api.Service, error) {
	if name != "default/web" {
		return nil, &api.Error{Code: api.CodeUnknown, Msg: "there is no Service " + name}
	}
	s := api.Service{Namespace: "default", Name: "web"}
	for i := range 130 {
		b := api.ServiceBackend{Addr: fmt.Sprintf("10.0.0.%d:80", i), State: "ready", Pod: fmt.Sprintf("default/web-%d", i), Node: "n1"}
		if i < 2 {
			b.State = "not ready"
		}
		s.Backends = append(s.Backends, b)
	}
	return []api.Service{s}, nil
}

func (fake) Drops() []api.Drop { return []api.Drop{{Reason: "old"}, {Reason: "new"}} }

// daemonAt serves a daemon on a socket until the test ends, and returns its path.
func daemonAt(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: server.Handler(nil, fake{}, nil)}}
	s.Start()
	t.Cleanup(s.Close)
	return socket
}

// ask makes a request as a browser does that has the page open.
func ask(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:8087"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// get is what the page is answered.
func get[T any](t *testing.T, h http.Handler, path string) T {
	t.Helper()
	var out T
	w := ask(h, "GET", path)
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: HTTP %d %s (%v)", path, w.Code, w.Body, err)
	}
	return out
}

func TestStateNamesTheDaemons(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	h := Handler(gone, daemonAt(t))
	s := get[state](t, h, "/api/state?daemon=1")
	if s.Status == nil || s.Status.Node != "n1" || len(s.Daemons) != 2 || s.Daemons[1] != (shownDaemon{"n1", true, ""}) {
		t.Errorf("state of the second: %+v", s)
	}
	s = get[state](t, h, "/api/state")
	if s.Status != nil || s.Daemons[0].Name != gone || !strings.Contains(s.Daemons[0].Error, "no answer") {
		t.Errorf("state of the first, which is gone: %+v", s)
	}
}

// What a browser gets does not grow with the cluster.
func TestListsArePaged(t *testing.T) {
	h := Handler(daemonAt(t))
	n := get[nodesPage](t, h, "/api/nodes?offset=200&limit=50")
	if n.Found != 230 || len(n.Nodes) != 30 || n.Nodes[0].Name != "n200" {
		t.Errorf("nodes from 200: %d of %d, first %+v", len(n.Nodes), n.Found, n.Nodes[:1])
	}
	for query, want := range map[string]int{"text=n01": 10, "text=10.244.9.": 1, "text=192.0.2.22": 11, "troubled=yes": 1, "text=none": 0} {
		if n := get[nodesPage](t, h, "/api/nodes?"+query); n.Found != want || n.Nodes == nil {
			t.Errorf("nodes with %s: %d fit, want %d", query, n.Found, want)
		}
	}
	s := get[api.ServicePage](t, h, "/api/services?text=a&type=NodePort&troubled=yes&offset=150&limit=50")
	if want := "{Text:a Type:NodePort Troubled:true Offset:150 Limit:50}"; s.Found != 30_000 || s.Services[0].Name != want {
		t.Errorf("the daemon was asked %s, want %s", s.Services[0].Name, want)
	}
	one := get[onePage](t, h, "/api/service?name=default/web&offset=100")
	if one.Found != 130 || len(one.Backends) != 30 || one.Services[0].Backends != nil {
		t.Errorf("backends from 100: %d of %d, and %d in the Service", len(one.Backends), one.Found, len(one.Services[0].Backends))
	}
	if d := cmp.Diff(map[string]int{"ready": 128, "not ready": 2}, one.States); d != "" {
		t.Errorf("states of all backends (-want +got):\n%s", d)
	}
	if one := get[onePage](t, h, "/api/service?name=default/web&text=default/web-11"); one.Found != 11 {
		t.Errorf("%d backends fit, want 11", one.Found)
	}
	d := get[map[string]json.RawMessage](t, h, "/api/drops?limit=1")
	if !strings.Contains(string(d["drops"]), `"new"`) || strings.Contains(string(d["drops"]), `"old"`) {
		t.Errorf("drops are %s, want the newest", d["drops"])
	}
}

func TestErrorsAreTold(t *testing.T) {
	h := Handler(daemonAt(t), filepath.Join(t.TempDir(), "gone"))
	for path, want := range map[string]int{
		"/api/nodes?daemon=1":             http.StatusBadGateway,
		"/api/nodes?daemon=2":             http.StatusBadRequest,
		"/api/nodes?daemon=x":             http.StatusBadRequest,
		"/api/nodes?offset=-1":            http.StatusBadRequest,
		"/api/nodes?limit=101":            http.StatusBadRequest,
		"/api/drops?limit=0":              http.StatusBadRequest,
		"/api/service?name=default/none":  http.StatusNotFound,
		"/api/service?name=../status":     http.StatusNotFound,
		"/api/services?type=" + long:      http.StatusBadRequest,
		"/api/services?text=" + long:      http.StatusBadRequest,
		"/api/services?daemon=1&limit=50": http.StatusBadGateway,
	} {
		w := ask(h, "GET", path)
		var e map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != want || e["error"] == "" {
			t.Errorf("%s: HTTP %d %s, want %d and an error", path, w.Code, w.Body, want)
		}
	}
	if w := ask(h, "GET", "/api/frob"); w.Code != http.StatusNotFound {
		t.Errorf("unknown path: HTTP %d", w.Code)
	}
}

var long = strings.Repeat("x", 300)

// The page has all it needs, and its browser gets nothing from elsewhere.
func TestPageIsWhole(t *testing.T) {
	h := Handler("none")
	for path, kind := range map[string]string{
		"/": "text/html", "/app.js": "text/javascript", "/views.js": "text/javascript", "/table.js": "text/javascript",
		"/rates.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml",
	} {
		w := ask(h, "GET", path)
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || !strings.HasPrefix(got, kind) {
			t.Errorf("%s: HTTP %d, %s, want %s", path, w.Code, got, kind)
		}
		text := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "") // a name, not a place
		for _, bad := range []string{"http://", "https://", "//cdn", "innerHTML", "eval(", "onclick=", "<style", "style="} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, daemonAt(t)) }()
	resp, err := http.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || len(b) == 0 {
		t.Errorf("HTTP %d, %d bytes, %v", resp.StatusCode, len(b), err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func askWithoutHost(h http.Handler, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Host = ""
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
