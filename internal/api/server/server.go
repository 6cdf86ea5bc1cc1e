// Package server is the daemon's side of the socket. It is apart from package api so
// that the plugin, which imports api, carries no net/http.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/internal/api"
)

// CNI does what the plugin asks. Errors should be [*api.Error]; any other becomes
// one of code [api.CodeInternal]. A context ends when the plugin was killed: a moment
// later, but its Err knows at once.
type CNI interface {
	Add(context.Context, api.Attach) (*types100.Result, error)
	Del(context.Context, api.Attach) error
	Check(context.Context, api.Attach) error
	GC(context.Context, api.GC) error
	Status() error // must not block
}

// Info is what the CLI shows.
type Info interface {
	Status() api.Status
	Endpoints() []api.Endpoint
	Nodes() []api.Node
	// Services returns all, or with a name (NAME or NAMESPACE/NAME) that one with its
	// backends; an [*api.Error] if there is none, or more than one.
	Services(name string) ([]api.Service, error)
	// FindServices returns some; the query is valid.
	FindServices(api.ServiceQuery) (api.ServicePage, error)
	// WatchedService is Services for one name, for who asks every moment.
	WatchedService(name string) ([]api.Service, error)
	// Drops returns what was dropped lately, the oldest first.
	Drops() []api.Drop
	// WatchDrops calls each with what is dropped from now on, and with nil now and then
	// if there is nothing, until ctx or the daemon is done, or each fails.
	WatchDrops(ctx context.Context, each func([]api.Drop) error)
	Policies() []api.Policy
	// PodPolicy returns what policies mean for a pod's interfaces on this node; an
	// [*api.Error] if there is none, or more than one pod.
	PodPolicy(pod string) ([]api.PodPolicy, error)
	// Explain returns what becomes of a packet; an [*api.Error] if it cannot be told.
	Explain(api.ExplainRequest) (api.Explanation, error)
}

// Handler serves the paths of package api. Without metrics, [api.PathMetrics] is
// not found. It decodes requests strictly and bounds their size.
func Handler(cni CNI, info Info, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	attach := func(path string, do func(context.Context, api.Attach) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			a, err := api.DecodeAttach(r.Body)
			if err != nil {
				refuse(w, err)
				return
			}
			ctx, end := callerOf(r)
			defer end()
			out, err := do(ctx, a)
			reply(w, out, err)
		})
	}
	get := func(path string, do func() (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			out, err := do()
			reply(w, out, err)
		})
	}
	attach(api.PathAdd, func(ctx context.Context, a api.Attach) (any, error) { return cni.Add(ctx, a) })
	attach(api.PathDel, func(ctx context.Context, a api.Attach) (any, error) { return nothing{}, cni.Del(ctx, a) })
	attach(api.PathCheck, func(ctx context.Context, a api.Attach) (any, error) {
		if len(a.PrevResult) == 0 {
			return nil, &api.Error{Code: api.CodeBadConfig, Msg: "prevResult is missing"}
		}
		return nothing{}, cni.Check(ctx, a)
	})
	mux.HandleFunc("POST "+api.PathGC, func(w http.ResponseWriter, r *http.Request) {
		g, err := api.DecodeGC(r.Body)
		if err != nil {
			refuse(w, err)
			return
		}
		ctx, end := callerOf(r)
		defer end()
		reply(w, nothing{}, cni.GC(ctx, g))
	})
	get(api.PathCNIStatus, func() (any, error) { return nothing{}, cni.Status() })
	get(api.PathStatus, func() (any, error) { return info.Status(), nil })
	get(api.PathEndpoints, func() (any, error) { return list(info.Endpoints()), nil })
	get(api.PathNodes, func() (any, error) { return list(info.Nodes()), nil })
	get(api.PathServices, func() (any, error) { s, err := info.Services(""); return list(s), err })
	mux.HandleFunc("GET "+api.PathServices+"/{name...}", func(w http.ResponseWriter, r *http.Request) {
		s, err := info.Services(r.PathValue("name"))
		reply(w, list(s), err)
	})
	mux.HandleFunc("POST "+api.PathFindServices, func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeServiceQuery(r.Body)
		if err != nil {
			refuse(w, err)
			return
		}
		p, err := info.FindServices(q)
		p.Services = list(p.Services)
		reply(w, p, err)
	})
	mux.HandleFunc("GET "+api.PathWatchedService+"/{name...}", func(w http.ResponseWriter, r *http.Request) {
		s, err := info.WatchedService(r.PathValue("name"))
		reply(w, list(s), err)
	})
	get(api.PathDrops, func() (any, error) { return list(info.Drops()), nil })
	mux.HandleFunc("GET "+api.PathWatchDrops, func(w http.ResponseWriter, r *http.Request) { watchDrops(w, r, info) })
	get(api.PathPolicies, func() (any, error) { return list(info.Policies()), nil })
	mux.HandleFunc("GET "+api.PathPodPolicy+"/{name...}", func(w http.ResponseWriter, r *http.Request) {
		p, err := info.PodPolicy(r.PathValue("name"))
		reply(w, list(p), err)
	})
	mux.HandleFunc("POST "+api.PathExplain, func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeExplain(r.Body)
		if err != nil {
			refuse(w, err)
			return
		}
		e, err := info.Explain(q)
		reply(w, e, err)
	})
	if metrics != nil {
		mux.Handle("GET "+api.PathMetrics, metrics)
	}
	return jsonErrors(mux)
}

// watchDrops answers with a drop as JSON in each line, or with an empty line as a sign of
// life, until either side ends.
func watchDrops(w http.ResponseWriter, r *http.Request, info Info) {
	h := w.Header()
	h.Set("Content-Type", "application/jsonl")
	h.Set("X-Content-Type-Options", "nosniff")
	control := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if control.Flush() != nil {
		return
	}
	info.WatchDrops(r.Context(), func(drops []api.Drop) error {
		var lines []byte
		for _, d := range drops {
			b, err := json.Marshal(d)
			if err != nil {
				return err
			}
			lines = append(append(lines, b...), '\n')
		}
		if len(drops) == 0 {
			lines = []byte{'\n'}
		}
		if _, err := w.Write(lines); err != nil {
			return err
		}
		return control.Flush()
	})
}

// nothing is the answer of a call that has no result.
type nothing struct{}

// list makes no rows [] instead of null.
func list[T any](rows []T) []T {
	if rows == nil {
		return []T{}
	}
	return rows
}

func reply(w http.ResponseWriter, out any, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	write(w, http.StatusOK, out)
}

// refuse answers with an [api.Error], and reads no more of the request.
func refuse(w http.ResponseWriter, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Code: api.CodeInternal, Msg: err.Error()}
	}
	write(w, httpStatus(e.Code), e)
}

func write(w http.ResponseWriter, code int, out any) {
	b, err := json.Marshal(out)
	if err != nil {
		code = http.StatusInternalServerError
		b, _ = json.Marshal(api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("encode answer: %v", err)})
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", fmt.Sprint(len(b)+1))
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // nobody is left to tell
}

// httpStatus is the HTTP status (RFC 9110, section 15) of a CNI error code.
func httpStatus(code uint) int {
	switch code {
	case api.CodeIncompatible, api.CodeUnsupported, api.CodeBadEnv, api.CodeDecode, api.CodeBadConfig:
		return http.StatusBadRequest
	case api.CodeUnknown:
		return http.StatusNotFound
	case api.CodeExists, api.CodeMissing:
		return http.StatusConflict
	case api.CodeTryAgain, api.CodeNotAvailable, api.CodeLimited:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// jsonErrors gives the mux's own refusals, unknown path and wrong method, the same
// form as all others.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &statusOnly{header: w.Header(), code: http.StatusNotFound}
		mux.ServeHTTP(probe, r)
		write(w, probe.code, api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, http.StatusText(probe.code))})
	})
}

// statusOnly keeps an answer's headers and status, and drops its body.
type statusOnly struct {
	header http.Header
	code   int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(code int)        { s.code = code }
func (s *statusOnly) Write(b []byte) (int, error) { return io.Discard.Write(b) }
