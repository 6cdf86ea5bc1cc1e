package deploy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is an API server, as the owner of a kubeconfig reaches it. It is safe for
// concurrent use.
//
// It speaks to the few paths that are needed itself: client-go's typed clients would
// double the size of the CLI.
type Cluster struct {
	// Namespace is Weft's.
	Namespace string

	config *rest.Config
	http   *http.Client
	base   *url.URL
}

// HasKubeconfig says whether a kubeconfig would be found without naming one.
func HasKubeconfig() bool {
	for _, path := range clientcmd.NewDefaultClientConfigLoadingRules().Precedence {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// Connect reads a kubeconfig and asks nothing of the API server yet. An empty kubeconfig
// is the usual one ($KUBECONFIG, ~/.kube/config), an empty contextName its current one,
// an empty namespace [DefaultNamespace].
func Connect(kubeconfig, contextName, namespace string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	rules.WarnIfAllMissing = false
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		rules, &clientcmd.ConfigOverrides{CurrentContext: contextName}).ClientConfig()
	if clientcmd.IsEmptyConfig(err) && (kubeconfig != "" || HasKubeconfig()) {
		return nil, fmt.Errorf("read kubeconfig: %s names no cluster", cmp.Or(kubeconfig, strings.Join(rules.Precedence, ", ")))
	} else if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("no kubeconfig: there is none at %s; name one with --kubeconfig", strings.Join(rules.Precedence, ", "))
	} else if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.UserAgent = "weft"
	config.QPS = -1 // what is asked at a time is bounded below
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: server %q: %w", config.Host, err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	client.Timeout = callFor
	if namespace == "" {
		namespace = DefaultNamespace
	}
	return &Cluster{Namespace: namespace, config: config, http: client, base: base}, nil
}

// Server is the URL of the API server.
func (c *Cluster) Server() string { return c.base.String() }

// request is one call of the API.
type request struct {
	method string
	path   string // from the server's root
	query  url.Values
	body   any    // encoded as JSON, unless []byte
	form   string // Content-Type; empty: JSON
}

// callFor bounds one call, with its answer.
const callFor = 30 * time.Second

// maxAnswer bounds what is read of an answer: the pods of one label in a large cluster.
const maxAnswer = 256 << 20

// call makes a call and decodes the answer into out unless nil. What the API server
// refuses is an *apierrors.StatusError.
func (c *Cluster) call(ctx context.Context, r request, out any) error {
	var body io.Reader
	switch b := r.body.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + r.path
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		if r.form == "" {
			r.form = "application/json"
		}
		req.Header.Set("Content-Type", r.form)
	}
	answer, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("ask the API server: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("read the API server's answer: %w", err)
	}
	if answer.StatusCode >= 400 {
		return refusal(answer.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the API server's answer to %s: %w", r.path, err)
	}
	return nil
}

// refusal is the error that an answer stands for.
func refusal(code int, text []byte) error {
	var s metav1.Status
	if json.Unmarshal(text, &s) == nil && s.Kind == "Status" && s.Message != "" {
		s.Code = int32(code)
		return &apierrors.StatusError{ErrStatus: s}
	}
	s = metav1.Status{Code: int32(code), Reason: reasons[code], Message: fmt.Sprintf("HTTP status %d: %.200s", code, bytes.TrimSpace(text))}
	return &apierrors.StatusError{ErrStatus: s}
}

// reasons is what a bare HTTP status means: a proxy in between sends no Status.
var reasons = map[int]metav1.StatusReason{
	http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
	http.StatusForbidden:    metav1.StatusReasonForbidden,
	http.StatusNotFound:     metav1.StatusReasonNotFound,
}

// get reads one object or a list.
func get[T any](ctx context.Context, c *Cluster, path string, query url.Values) (T, error) {
	var out T
	err := c.call(ctx, request{method: http.MethodGet, path: path, query: query}, &out)
	return out, err
}

// explain adds to an error of the API server what a person can do about it.
func explain(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server does not know you: %w: is the kubeconfig of this cluster, and not expired?", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("no permission: %w: use the kubeconfig of a cluster administrator", err)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%w: somebody else set these fields; --force takes them over", err)
	}
	var refused *url.Error
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: is the cluster up, and the kubeconfig its?", err)
	}
	return err
}
