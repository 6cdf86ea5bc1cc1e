// Package fake is an API server for tests: it stores objects, answers the calls that
// package deploy makes, and does what a test says in the place of controllers and
// kubelets.
package fake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// Object is an object as JSON.
type Object = map[string]any

// Server is the API server. Its functions are called with its lock held, and may use
// the methods that say so.
type Server struct {
	// Version is of Kubernetes.
	Version string
	// Refuse answers a call before anything else: a status other than 0 is sent.
	Refuse func(r *http.Request) (status int, message string)
	// Changed is called after an object was written or removed; then nil is given.
	Changed func(path string, now Object)
	// Exec answers a command in a pod.
	Exec func(pod string, command []string) (stdout, stderr string, code int)

	t       testing.TB
	url     string
	mu      sync.Mutex
	objects map[string]Object
	calls   []string
}

// New starts a server that lives as long as the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{Version: "v1.37.2", t: t, objects: map[string]Object{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

// URL is the server's.
func (s *Server) URL() string { return s.url }

// Kubeconfig writes one of this server and returns its path.
func (s *Server) Kubeconfig() string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, s.url)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// Calls returns "METHOD path" of all calls so far but reading ones.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Do runs f with the lock held.
func (s *Server) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Put stores an object, or removes it if it is nil; with the lock held. v is anything
// that is an object as JSON.
func (s *Server) Put(path string, v any) {
	if v == nil {
		delete(s.objects, path)
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		s.t.Errorf("encode %s: %v", path, err)
	}
	var o Object
	if err := json.Unmarshal(b, &o); err != nil {
		s.t.Errorf("encode %s: %v", path, err)
	}
	s.objects[path] = o
}

// Get returns an object, nil if there is none; with the lock held.
func (s *Server) Get(path string) Object { return s.objects[path] }

// Under returns the paths of the objects in a collection, in order; with the lock held.
func (s *Server) Under(collection string) []string {
	var out []string
	for path := range s.objects {
		if name, ok := strings.CutPrefix(path, collection+"/"); ok && !strings.Contains(name, "/") {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// ServeHTTP answers a call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/exec") {
		s.exec(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Refuse != nil {
		if status, message := s.Refuse(r); status != 0 {
			refuse(w, status, message)
			return
		}
	}
	if r.Method != http.MethodGet {
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	path := r.URL.Path
	switch {
	case path == "/version":
		major, minor, _ := strings.Cut(strings.TrimPrefix(s.Version, "v"), ".")
		minor, _, _ = strings.Cut(minor, ".")
		reply(w, Object{"major": major, "minor": minor, "gitVersion": s.Version})
	case r.Method == http.MethodGet && isCollection(path):
		list := []Object{}
		for _, p := range s.selected(w, r) {
			list = append(list, s.objects[p])
		}
		reply(w, Object{"items": list})
	case r.Method == http.MethodGet:
		if o := s.objects[path]; o != nil {
			reply(w, o)
			return
		}
		refuse(w, http.StatusNotFound, path+" not found")
	case r.Method == http.MethodPatch:
		s.apply(w, r, body)
	case r.Method == http.MethodPost:
		var o Object
		if err := json.Unmarshal(body, &o); err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		path += "/" + Text(o, "metadata", "name")
		if s.objects[path] != nil {
			refuse(w, http.StatusConflict, path+" already exists")
			return
		}
		s.write(path, o)
		reply(w, s.objects[path])
	case r.Method == http.MethodDelete && isCollection(path):
		for _, p := range s.selected(w, r) {
			s.write(p, nil)
		}
		reply(w, Object{})
	case r.Method == http.MethodDelete:
		if s.objects[path] == nil {
			refuse(w, http.StatusNotFound, path+" not found")
			return
		}
		s.write(path, nil)
		reply(w, Object{})
	default:
		refuse(w, http.StatusMethodNotAllowed, r.Method)
	}
}

// apply takes a server-side apply: what it does not name of an object stays.
func (s *Server) apply(w http.ResponseWriter, r *http.Request, body []byte) {
	if got := r.Header.Get("Content-Type"); got != "application/apply-patch+yaml" || r.URL.Query().Get("fieldManager") == "" {
		refuse(w, http.StatusUnsupportedMediaType, fmt.Sprintf("content type %q without field manager", got))
		return
	}
	var o Object
	if err := json.Unmarshal(body, &o); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	merged := Object{"status": Object{}}
	if old := s.objects[r.URL.Path]; old != nil {
		merged = maps.Clone(old)
	}
	maps.Copy(merged, o)
	s.write(r.URL.Path, merged)
	reply(w, s.objects[r.URL.Path])
}

func (s *Server) write(path string, o Object) {
	if o == nil {
		delete(s.objects, path)
	} else {
		s.objects[path] = o
	}
	if s.Changed != nil {
		s.Changed(path, o)
	}
}

// selected is the objects of a collection that the call's selectors want.
func (s *Server) selected(w http.ResponseWriter, r *http.Request) []string {
	q := r.URL.Query()
	byLabel, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return nil
	}
	byField, err := fields.ParseSelector(q.Get("fieldSelector"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return nil
	}
	return slices.DeleteFunc(s.Under(r.URL.Path), func(path string) bool {
		o := s.objects[path]
		set := labels.Set{}
		m, _ := o["metadata"].(Object)
		l, _ := m["labels"].(Object)
		for k, v := range l {
			set[k] = fmt.Sprint(v)
		}
		return !byLabel.Matches(set) || !byField.Matches(fieldsOf{o})
	})
}

// fieldsOf finds fields by their paths.
type fieldsOf struct{ o Object }

func (f fieldsOf) Has(string) bool         { return true }
func (f fieldsOf) Get(field string) string { return Text(f.o, strings.Split(field, ".")...) }

// Text is a field of an object as text; empty if it has none.
func Text(o Object, path ...string) string {
	var v any = o
	for _, key := range path {
		m, ok := v.(Object)
		if !ok {
			return ""
		}
		v = m[key]
	}
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// isCollection says whether a path is of a collection: /api/v1/nodes, /api/v1/nodes/NAME.
func isCollection(path string) bool {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, "/apis/"), "/api/"), "/")
	if strings.HasPrefix(path, "/apis/") {
		parts = parts[1:] // the group
	}
	if len(parts) > 2 && parts[1] == "namespaces" {
		parts = parts[2:]
	}
	return len(parts)%2 == 0
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that went away is no news
}

func refuse(w http.ResponseWriter, code int, message string) {
	reasons := map[int]metav1.StatusReason{
		http.StatusUnauthorized: metav1.StatusReasonUnauthorized, http.StatusForbidden: metav1.StatusReasonForbidden,
		http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusConflict: metav1.StatusReasonConflict,
	}
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Message: message, Reason: reasons[code], Code: int32(code),
	}) // plain data, always encodable
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes())
}
