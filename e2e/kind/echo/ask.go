package echo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"sync"
	"time"
)

// Questions are HTTP requests of the example's order-service, each on a connection of its own.
type Questions struct {
	URL  string `json:"url"`
	Rate int    `json:"rate"` // per second, if the answers come fast enough
	Most int    `json:"most"` // that are under way at a time
}

// Answers are what came of them.
type Answers struct {
	Asked   int            `json:"asked"`
	Order   map[string]int `json:"order"` // answers by pod of order-service
	User    map[string]int `json:"user"`  // and by pod of user-service
	Cut     int            `json:"cut"`   // connections that ended before the answer, of order-service's clients or its own
	Failed  int            `json:"failed"`
	Errors  []string       `json:"errors"` // some of Cut and Failed
	Took    time.Duration  `json:"took"`   // all
	Slowest time.Duration  `json:"slowest"`
}

// ask is the life of the client that asks: until its input ends.
func ask(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	order, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to ask: %w", err)
	}
	var q Questions
	if err := json.Unmarshal(order, &q); err != nil || q.Rate < 1 || q.Most < 1 {
		return fmt.Errorf("read what to ask: %s: %w", order, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		stop()
	}()
	return json.NewEncoder(out).Encode(q.ask(ctx))
}

// ask asks until ctx is done, and waits for what is under way then.
func (q Questions) ask(ctx context.Context) Answers {
	began := time.Now()
	a := &asker{url: q.URL, answers: Answers{Order: map[string]int{}, User: map[string]int{}},
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}}
	due := make(chan struct{})
	var askers sync.WaitGroup
	for range q.Most {
		askers.Go(func() {
			for range due {
				a.once()
			}
		})
	}
	tick := time.NewTicker(time.Second / time.Duration(q.Rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			select {
			case due <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}
	close(due)
	askers.Wait()
	a.answers.Took = time.Since(began)
	return a.answers
}

type asker struct {
	url    string
	client *http.Client

	mu      sync.Mutex
	answers Answers
}

// reply is the example's answer.
type reply struct {
	Pod   string
	User  *struct{ Pod string }
	Error string
}

func (a *asker) once() {
	began := time.Now()
	r, err := a.get()
	took := time.Since(began)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers.Asked++
	a.answers.Slowest = max(a.answers.Slowest, took)
	if err == nil {
		a.answers.Order[r.Pod]++
		a.answers.User[r.User.Pod]++
		return
	}
	if cut := (cutError{}); errors.As(err, &cut) {
		a.answers.Cut++
	} else {
		a.answers.Failed++
	}
	if len(a.answers.Errors) < 5 {
		a.answers.Errors = append(a.answers.Errors, fmt.Sprintf("after %s: %v", took.Round(time.Millisecond), err))
	}
}

// cutError is of a connection that was made and ended before the answer.
type cutError struct{ error }

func (a *asker) get() (reply, error) {
	var r reply
	res, err := a.client.Get(a.url)
	if err != nil {
		return r, classed(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return r, classed(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("status %s: %w", res.Status, err)
	}
	if res.StatusCode == http.StatusOK && r.Pod != "" && r.User != nil {
		return r, nil
	}
	err = fmt.Errorf("status %s: %s", res.Status, r.Error)
	if res.StatusCode == http.StatusBadGateway && ended.MatchString(r.Error) {
		err = cutError{err}
	}
	return r, err
}

// ended is how net/http says that a connection ended; dials, which it names so, are others'.
var ended = regexp.MustCompile(`(: read tcp [^:].*: (connection reset by peer|software caused connection abort)|: write tcp .*: (broken pipe|connection reset by peer)|EOF)$`)

// classed tells whether a connection was cut: nothing but the peer's end, or a reset, of one
// that was there.
func classed(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" || !ended.MatchString(err.Error()) {
		return err
	}
	return cutError{err}
}
