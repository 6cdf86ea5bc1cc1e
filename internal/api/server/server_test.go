package server

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/internal/api"
)

// fake answers each verb with err, and before calls begun, if set, with the verb's context.
type fake struct {
	err   error
	begun func(context.Context)
}

func (f *fake) verb(ctx context.Context) error {
	if f.begun != nil {
		f.begun(ctx)
	}
	return f.err
}

func (f *fake) Add(ctx context.Context, _ api.Attach) (*types100.Result, error) {
	return &types100.Result{CNIVersion: "1.1.0"}, f.verb(ctx)
}
func (f *fake) Del(ctx context.Context, _ api.Attach) error   { return f.verb(ctx) }
func (f *fake) Check(ctx context.Context, _ api.Attach) error { return f.verb(ctx) }
func (f *fake) GC(ctx context.Context, _ api.GC) error        { return f.verb(ctx) }
func (f *fake) Status() error                                 { return f.err }

type info struct{}

func (info) Status() api.Status        { return api.Status{Node: "n1"} }
func (info) Endpoints() []api.Endpoint { return nil }
func (info) Nodes() []api.Node         { return []api.Node{{Name: "n1"}} }

func (info) Services(name string) ([]api.Service, error) {
	if name != "" && name != "default/web" {
		return nil, &api.Error{Code: api.CodeUnknown, Msg: "there is no Service " + name}
	}
	return []api.Service{{Namespace: "default", Name: "web"}}, nil
}

func (info) FindServices(q api.ServiceQuery) (api.ServicePage, error) {
	if q.Offset > 0 {
		return api.ServicePage{Found: 1}, nil
	}
	return api.ServicePage{Found: 1, Services: []api.Service{{Namespace: "default", Name: q.Text}}}, nil
}

func (i info) WatchedService(name string) ([]api.Service, error) { return i.Services(name) }

func (info) Drops() []api.Drop { return []api.Drop{{Reason: "no-peer"}} }

func (info) WatchDrops(ctx context.Context, each func([]api.Drop) error) {
	if each(nil) != nil || each([]api.Drop{{Reason: "no-peer"}, {Reason: "no-route"}}) != nil {
		return
	}
	<-ctx.Done()
}

func (info) Policies() []api.Policy { return nil }

func (info) PodPolicy(pod string) ([]api.PodPolicy, error) {
	if pod != "default/web" {
		return nil, &api.Error{Code: api.CodeUnknown, Msg: "there is no pod " + pod}
	}
	return []api.PodPolicy{{Name: "web"}}, nil
}

func (info) Explain(r api.ExplainRequest) (api.Explanation, error) {
	return api.Explanation{Ways: []api.ExplainedWay{{Service: r.To}}}, nil
}

func do(h http.Handler, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

const attach = `{"containerID":"c1","ifName":"eth0","network":"weft","prevResult":{}}`

func TestHandlerRefuses(t *testing.T) {
	h := Handler(&fake{}, info{}, nil)
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
		code               uint
	}{
		"wrong method":             {"GET", api.PathAdd, "", 405, api.CodeInternal},
		"unknown path":             {"GET", "/v1/frob", "", 404, api.CodeInternal},
		"no metrics":               {"GET", api.PathMetrics, "", 404, api.CodeInternal},
		"bad body":                 {"POST", api.PathAdd, "{", 400, api.CodeDecode},
		"bad names":                {"POST", api.PathDel, "{}", 400, api.CodeBadEnv},
		"bad GC":                   {"POST", api.PathGC, `{"valid":[]}`, 400, api.CodeBadConfig},
		"CHECK without prevResult": {"POST", api.PathCheck, strings.Replace(attach, `,"prevResult":{}`, "", 1), 400, api.CodeBadConfig},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := do(h, tc.method, tc.path, tc.body)
			var e api.Error
			if err := json.Unmarshal([]byte(body), &e); err != nil || status != tc.status || e.Code != tc.code || e.Msg == "" {
				t.Errorf("got %d %s, want %d and an error of code %d", status, body, tc.status, tc.code)
			}
		})
	}
}

func TestErrorsGetAStatus(t *testing.T) {
	for code, want := range map[uint]int{
		api.CodeBadConfig: 400, api.CodeUnknown: 404, api.CodeExists: 409, api.CodeMissing: 409,
		api.CodeTryAgain: 503, api.CodeNotAvailable: 503, api.CodeLimited: 503, api.CodeIO: 500, api.CodeInternal: 500,
	} {
		h := Handler(&fake{err: &api.Error{Code: code, Msg: "x"}}, info{}, nil)
		for _, path := range []string{api.PathAdd, api.PathDel, api.PathCheck} {
			if got, body := do(h, "POST", path, attach); got != want {
				t.Errorf("%s, code %d: HTTP %d %s, want %d", path, code, got, body, want)
			}
		}
		if got, _ := do(h, "GET", api.PathCNIStatus, ""); got != want {
			t.Errorf("status, code %d: HTTP %d, want %d", code, got, want)
		}
	}
	h := Handler(&fake{err: errors.New("plain")}, info{}, nil)
	if got, body := do(h, "POST", api.PathAdd, attach); got != 500 || body != `{"code":100,"msg":"plain"}`+"\n" {
		t.Errorf("a plain error: HTTP %d %s", got, body)
	}
}

func TestInfo(t *testing.T) {
	h := Handler(&fake{}, info{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) }))
	if code, body := do(h, "GET", api.PathEndpoints, ""); code != 200 || body != "[]\n" {
		t.Errorf("no endpoints: %d %q, want an empty list", code, body)
	}
	if code, body := do(h, "GET", api.PathNodes, ""); code != 200 || !strings.Contains(body, `"n1"`) {
		t.Errorf("nodes: %d %s", code, body)
	}
	if code, _ := do(h, "GET", api.PathMetrics, ""); code != 299 {
		t.Errorf("metrics: %d, want the handler's 299", code)
	}
}

// listen serves h on a socket until the test ends.
func listen(t *testing.T, h http.Handler) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, h)
	return api.NewClient(socket)
}

func serve(t *testing.T, l net.Listener, h http.Handler) {
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, &http.Server{Handler: h}, 10*time.Second) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestClientAndServer(t *testing.T) {
	f := &fake{}
	c := listen(t, Handler(f, info{}, nil))
	a := api.Attach{ContainerID: "c1", IfName: "eth0", Network: "weft", PrevResult: json.RawMessage(`{}`)}
	ctx := t.Context()
	result, err := c.Add(ctx, a)
	if err != nil || !strings.Contains(string(result), `"1.1.0"`) {
		t.Errorf("Add: %s, %v", result, err)
	}
	if err := errors.Join(c.Del(ctx, a), c.Check(ctx, a), c.GC(ctx, api.GC{Network: "weft"}), c.CNIStatus(ctx)); err != nil {
		t.Error(err)
	}
	if s, err := c.Status(ctx); err != nil || s.Node != "n1" {
		t.Errorf("Status: %+v, %v", s, err)
	}
	if n, err := c.Nodes(ctx); err != nil || len(n) != 1 {
		t.Errorf("Nodes: %+v, %v", n, err)
	}
	if e, err := c.Endpoints(ctx); err != nil || e == nil {
		t.Errorf("Endpoints: %#v, %v", e, err)
	}
	a.Netns = strings.Repeat("x", api.MaxRequest)
	var refused *api.Error
	if err := c.Del(ctx, a); !errors.As(err, &refused) || !strings.Contains(refused.Msg, "larger") {
		t.Errorf("too large a request: %v, want the daemon's error", err)
	}
}

func TestSomeServicesAreAsked(t *testing.T) {
	c := listen(t, Handler(&fake{}, info{}, nil))
	ctx := t.Context()
	if p, err := c.FindServices(ctx, api.ServiceQuery{Text: "wéb", Limit: 1}); err != nil || len(p.Services) != 1 || p.Services[0].Name != "wéb" {
		t.Errorf("FindServices: %+v, %v", p, err)
	}
	if p, err := c.FindServices(ctx, api.ServiceQuery{Offset: 1, Limit: 1}); err != nil || p.Services == nil || p.Found != 1 {
		t.Errorf("FindServices past the end: %#v, %v", p, err)
	}
	var refused *api.Error
	for name, q := range map[string]api.ServiceQuery{
		"no limit": {}, "large limit": {Limit: api.MaxServicePage + 1}, "offset": {Offset: -1, Limit: 1},
		"long text": {Text: strings.Repeat("x", 300), Limit: 1}, "long type": {Type: strings.Repeat("x", 300), Limit: 1},
	} {
		if _, err := c.FindServices(ctx, q); !errors.As(err, &refused) || refused.Code != api.CodeBadConfig {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	if s, err := c.WatchedService(ctx, "default/web"); err != nil || len(s) != 1 {
		t.Errorf("WatchedService: %+v, %v", s, err)
	}
	for _, name := range []string{"default/none", "../status", ""} {
		if _, err := c.WatchedService(ctx, name); !errors.As(err, &refused) || refused.Code != api.CodeUnknown {
			t.Errorf("WatchedService of %q: %v", name, err)
		}
	}
}

func TestPolicyIsAsked(t *testing.T) {
	c := listen(t, Handler(&fake{}, info{}, nil))
	ctx := t.Context()
	if p, err := c.Policies(ctx); err != nil || p == nil {
		t.Errorf("Policies: %#v, %v", p, err)
	}
	if p, err := c.PodPolicy(ctx, "default/web"); err != nil || len(p) != 1 {
		t.Errorf("PodPolicy: %+v, %v", p, err)
	}
	var refused *api.Error
	if _, err := c.PodPolicy(ctx, "x"); !errors.As(err, &refused) || refused.Code != api.CodeUnknown {
		t.Errorf("PodPolicy of none: %v", err)
	}
	if e, err := c.Explain(ctx, api.ExplainRequest{From: "a", To: "[::1]:80/tcp"}); err != nil || e.Ways[0].Service != "[::1]:80/tcp" {
		t.Errorf("Explain: %+v, %v", e, err)
	}
	if _, err := c.Explain(ctx, api.ExplainRequest{From: "a"}); !errors.As(err, &refused) || refused.Code != api.CodeBadConfig {
		t.Errorf("Explain to nowhere: %v", err)
	}
}

func TestDropsStream(t *testing.T) {
	c := listen(t, Handler(&fake{}, info{}, nil))
	if d, err := c.Drops(t.Context()); err != nil || len(d) != 1 {
		t.Errorf("Drops: %+v, %v", d, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	err := c.WatchDrops(ctx, 10*time.Second, func(d api.Drop) error {
		if got = append(got, d.Reason); len(got) == 2 {
			cancel() // the user has seen enough
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []string{"no-peer", "no-route"}) {
		t.Errorf("got %v and %v", got, err)
	}
	enough := errors.New("enough")
	if err := c.WatchDrops(t.Context(), 10*time.Second, func(api.Drop) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a reader that has enough: %v", err)
	}
	if err := listen(t, http.NotFoundHandler()).WatchDrops(t.Context(), 10*time.Second, nil); err == nil || errors.Is(err, api.ErrNoDaemon) {
		t.Errorf("a server that refuses: %v", err)
	}
}
