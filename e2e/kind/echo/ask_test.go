package echo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// answered asks a server until it was asked some times, and returns what came of it.
func answered(t *testing.T, h http.HandlerFunc) Answers {
	t.Helper()
	var asked atomic.Int32
	in, end := io.Pipe()
	defer end.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 4 {
			end.Close()
		}
		h(w, r)
	}))
	defer server.Close()
	go func() { _ = json.NewEncoder(end).Encode(Questions{URL: server.URL, Rate: 1000, Most: 2}) }()
	var out bytes.Buffer
	if err := ask(in, &out); err != nil {
		t.Fatal(err)
	}
	var a Answers
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a.Asked < 4 || a.Asked != int(asked.Load()) {
		t.Errorf("got %d asked, want %d", a.Asked, asked.Load())
	}
	return a
}

func TestAnswersAreCountedByPodAndByWhatFailed(t *testing.T) {
	bad := func(why string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprintf(w, `{"pod": "o", "error": %q}`, why)
		}
	}
	for name, tt := range map[string]struct {
		h               http.HandlerFunc
		ok, cut, failed int // of one
	}{
		"answer":                  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"pod": "o", "user": {"pod": "u"}}`) }, 1, 0, 0},
		"no user":                 {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"pod": "o"}`) }, 0, 0, 1},
		"cut":                     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, 1, 0},
		"user's connection ended": {bad(`ask user-service: Get "http://user-service": EOF`), 0, 1, 0},
		"user's connection reset": {bad(`ask user-service: Get "http://user-service": read tcp 10.0.0.1:2->10.0.0.2:80: read: connection reset by peer`), 0, 1, 0},
		"no connection to user":   {bad(`ask user-service: Get "http://user-service": dial tcp 10.0.0.2:80: connect: connection refused`), 0, 0, 1},
		"reset while connecting":  {bad(`ask user-service: Get "http://user-service": dial tcp 10.0.0.2:80: connect: connection reset by peer`), 0, 0, 1},
		"no name":                 {bad(`ask user-service: Get "http://user-service": dial tcp: lookup user-service: no such host`), 0, 0, 1},
		"too slow":                {bad(`ask user-service: Get "http://user-service": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`), 0, 0, 1},
	} {
		a := answered(t, tt.h)
		if a.Order["o"] != a.Asked*tt.ok || a.User["u"] != a.Asked*tt.ok || a.Cut != a.Asked*tt.cut || a.Failed != a.Asked*tt.failed {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func TestNobodyThereIsAFailure(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	a := asker{url: server.URL, client: http.DefaultClient, answers: Answers{}}
	a.once()
	if a.answers.Failed != 1 || a.answers.Cut != 0 || len(a.answers.Errors) != 1 {
		t.Errorf("got %+v, want one failure", a.answers)
	}
	if err := ask(bytes.NewBufferString("{}\n"), io.Discard); err == nil {
		t.Error("questions without a rate are asked")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if a := (Questions{URL: server.URL, Rate: 1, Most: 1}).ask(ctx); a.Asked != 0 {
		t.Errorf("asked %d after the end", a.Asked)
	}
}
