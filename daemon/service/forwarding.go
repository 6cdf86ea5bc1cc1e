package service

import (
	"fmt"

	"github.com/weftnet/weft/daemon/source"
)

// What becomes of traffic from outside to a backend on another node; the values of the
// annotation [ForwardingAnnotation] and of the setting of that name.
const (
	SNAT = "snat" // this node stands in for the client, as answers come back through it
	// DSR, direct server return: the backend's node gets what the client sent, and answers
	// the client itself. Not with the policy Local, whose backends are here.
	DSR = "dsr"
)

// ForwardingAnnotation says it for one Service.
const ForwardingAnnotation = "weft.dev/forwarding"

// Passes says whether a Service's traffic from outside goes by [DSR], and what is wrong with
// its annotation, which then counts as not there; "" if nothing.
func Passes(node Node, svc *source.Service) (dsr bool, problem string) {
	dsr = node.Pass
	switch said, ok := svc.Annotations[ForwardingAnnotation]; {
	case !ok:
	case said == SNAT, said == DSR:
		dsr = said == DSR
	default:
		problem = fmt.Sprintf("annotation %s: %q is neither %s nor %s; it counts as not there", ForwardingAnnotation, said, SNAT, DSR)
	}
	return dsr && !svc.ExternalLocal, problem
}
