package api

import (
	"context"
	"fmt"
	"unicode/utf8"
)

// Paths for who looks at many Services, or at one all the time.
const (
	PathFindServices   = "/v1/find/services"    // POST ServiceQuery → ServicePage
	PathWatchedService = "/v1/watched/services" // /NAME or /NAMESPACE/NAME below it: GET → []Service
)

// Limits of a [ServiceQuery].
const (
	MaxServicePage = 200 // Services in an answer
	maxServiceText = 256 // bytes of what is looked for
)

// ServiceQuery asks for some of the Services and host ports of a node: those that fit all
// that is set, in the order of namespace and name, from the place Offset on.
type ServiceQuery struct {
	// Text is a part of NAMESPACE/NAME, or the beginning of one of the Service's addresses.
	Text     string `json:"text,omitempty"`
	Type     string `json:"type,omitempty"`     // as in [Service]
	Troubled bool   `json:"troubled,omitempty"` // there is a problem, or no backend is ready
	Offset   int    `json:"offset,omitempty"`
	Limit    int    `json:"limit"` // at most MaxServicePage
}

// Validate returns an [*Error] that names the first bad field, or nil.
func (q ServiceQuery) Validate() error {
	switch {
	case len(q.Text) > maxServiceText || !utf8.ValidString(q.Text):
		return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("text is not UTF-8 of at most %d bytes", maxServiceText)}
	case len(q.Type) > maxServiceText:
		return &Error{Code: CodeBadConfig, Msg: "type is none of a Service"}
	case q.Offset < 0:
		return &Error{Code: CodeBadConfig, Msg: "offset is negative"}
	case q.Limit < 1 || q.Limit > MaxServicePage:
		return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("limit is not in 1…%d", MaxServicePage)}
	}
	return nil
}

// ServicePage is the answer to a [ServiceQuery]: Services without their backends.
type ServicePage struct {
	Found    int       `json:"found"` // how many fit, on all pages
	Services []Service `json:"services"`
}

// FindServices returns some of the Services and host ports of the node.
func (c *Client) FindServices(ctx context.Context, q ServiceQuery) (ServicePage, error) {
	var p ServicePage
	return p, c.call(ctx, PathFindServices, q, &p)
}

// WatchedService returns what Services does for one name. What costs the daemon much, the
// flows of each backend, may be some seconds old: it is for who asks again and again.
func (c *Client) WatchedService(ctx context.Context, name string) ([]Service, error) {
	if !IsServiceName(name) {
		return nil, &Error{Code: CodeUnknown, Msg: "not the name of a Service: " + name}
	}
	var s []Service
	return s, c.call(ctx, PathWatchedService+"/"+name, nil, &s)
}
