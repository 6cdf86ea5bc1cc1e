package daemon

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// What a [api.Problem] can be.
const (
	problemNotSynced         = "not-synced"          // the source was not read completely yet
	problemNoNode            = "no-node"             // there is no Node object of our name
	problemNoPodCIDR         = "no-pod-cidr"         // it has no spec.podCIDRs
	problemNoAddress         = "no-address"          // it has no InternalIP, or one that is not this machine's
	problemConflict          = "cidr-conflict"       // two nodes claim the same addresses
	problemPool              = "bad-pod-cidr"        // the pod CIDR is no pool
	problemMTU               = "mtu"                 // no usable MTU, or packets of that size get lost
	problemDevice            = "device"              // weft-vxlan is not there
	problemPeer              = "peer"                // a node cannot be reached, and why
	problemUnreachable       = "no-answer"           // probes through the overlay are not answered
	problemChecksum          = "checksum"            // the device damages checksums of encapsulated packets
	problemNarrow            = "path-mtu"            // packets of the full size get lost
	problemProbe             = "probe"               // probes cannot be made
	problemProbeServer       = "probe-server"        // probes of other nodes cannot be answered
	problemTable             = "table"               // a kernel table cannot be written
	problemTableClash        = "table-conflict"      // two wants for one row
	problemService           = "service"             // a Service or a host port cannot be served as it wants
	problemPolicy            = "policy"              // of a policy something cannot be applied, or has no room
	problemPolicyUnknown     = "policy-unknown"      // pods are closed, as nobody knows which policies apply
	problemPolicyLate        = "policy-not-synced"   // policies and what they need were not read completely yet
	problemPolicyRecall      = "policy-remember"     // what is known of policies cannot be written for the next start
	problemLoadBalancer      = "load-balancer"       // a Service lacks its load balancer's address, or a pool is not as it should be
	problemLoadBalancerWrite = "load-balancer-write" // load balancers' addresses cannot be written
	problemAddresses         = "addresses"           // the node's addresses cannot be read
	problemFlows             = "flows"               // flows cannot be looked through
	problemFull              = "full"                // there is no room for new flows, or soon none
	problemSockets           = "sockets"             // connections to backends that are gone cannot be ended
	problemCgroup            = "cgroup"              // no sockets are served: there is no cgroup2
	problemHealthCheck       = "health-check"        // the health check of a Service cannot be answered
	problemPods              = "pods"                // pods cannot be looked after
	problemInstall           = "install"             // CNI binary or configuration cannot be written
	problemCorruptState      = "corrupt-state"       // files of the state folder were moved aside
	problemRemember          = "remember"            // what is known of the nodes cannot be written for the next start
	problemWatch             = "watch"               // events are not delivered; the periodic look goes on
	problemAnnounce          = "announce"            // addresses cannot be announced, or nodes not be probed
	problemAddressLink       = "address-link"        // a load balancer's address is on no link, or on no node with all it needs
	problemNodeLost          = "node-lost"           // other nodes do not answer any more
	problemEaten             = "answers-eaten"       // nodes cannot answer clients of forwarding dsr themselves
	problemAddressConflict   = "address-conflict"    // somebody else answers for an address that this node announces
)

// problems is what is wrong now. It is safe for concurrent use.
type problems struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	list []api.Problem // sorted by What, Text
}

func newProblems(log *slog.Logger) *problems { return &problems{log: log, now: time.Now} }

// set replaces all problems of one kind. One that was there keeps its time; what
// comes and goes is logged, once.
func (p *problems) set(what string, texts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(text string) func(api.Problem) bool {
		return func(q api.Problem) bool { return q.What == what && q.Text == text }
	}
	p.list = slices.DeleteFunc(p.list, func(q api.Problem) bool {
		gone := q.What == what && !slices.Contains(texts, q.Text)
		if gone {
			p.log.Info("problem solved", "what", q.What, "text", q.Text)
		}
		return gone
	})
	for _, text := range texts {
		if slices.ContainsFunc(p.list, same(text)) {
			continue
		}
		p.log.Warn("problem", "what", what, "text", text)
		p.list = append(p.list, api.Problem{What: what, Text: text, Since: p.now()})
	}
	slices.SortFunc(p.list, func(a, b api.Problem) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Text, b.Text))
	})
}

// sum is set for a problem whose text changes all the time, as a list of names: it
// keeps its time, and is logged only when it comes and goes. Empty: there is none.
func (p *problems) sum(what, text string) {
	p.mu.Lock()
	i := slices.IndexFunc(p.list, func(q api.Problem) bool { return q.What == what })
	known := i >= 0 && text != ""
	if known {
		p.list[i].Text = text
	}
	p.mu.Unlock()
	switch {
	case known:
	case text == "":
		p.set(what)
	default:
		p.set(what, text)
	}
}

// err is set for at most one problem: none if err is nil.
func (p *problems) err(what string, err error) {
	if err == nil {
		p.set(what)
		return
	}
	p.set(what, err.Error())
}

// all returns what is wrong now; never nil.
func (p *problems) all() []api.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]api.Problem{}, p.list...)
}

// few joins at most n texts and counts the rest, so that a thousand unreachable
// nodes are one line.
func few(n int, texts []string) []string {
	if len(texts) <= n {
		return texts
	}
	rest := len(texts) - n
	return append(slices.Clone(texts[:n]), fmt.Sprintf("and %d more", rest))
}
