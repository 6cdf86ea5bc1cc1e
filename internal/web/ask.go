package web

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// nodesEvery is how often at most all nodes are asked for: there may be thousands.
const nodesEvery = 2 * time.Second

// daemon is one that is asked.
type daemon struct {
	socket string
	client *api.Client

	naming sync.Mutex
	name   string // of its node, as it said last

	asking sync.Mutex // for the nodes
	known  []api.Node
	next   time.Time // known is not asked for before
}

// shownDaemon is a daemon among those that can be chosen.
type shownDaemon struct {
	Name  string `json:"name"` // of its node; the socket if that is not known
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"` // why it does not answer
}

// state is all daemons, and the status of the one that is asked about if it answers.
type state struct {
	Daemons []shownDaemon `json:"daemons"`
	Status  *api.Status   `json:"status"`
}

func (p *page) state(ctx context.Context, d *daemon, _ url.Values) (any, error) {
	out := state{Daemons: make([]shownDaemon, len(p.daemons))}
	statuses := make([]api.Status, len(p.daemons))
	errs := make([]error, len(p.daemons))
	var wg sync.WaitGroup
	for i, one := range p.daemons {
		wg.Go(func() { statuses[i], errs[i] = one.client.Status(ctx) })
	}
	wg.Wait()
	for i, one := range p.daemons {
		shown := shownDaemon{Name: one.named(statuses[i].Node), Ready: statuses[i].Ready}
		if errs[i] != nil {
			shown.Error = errs[i].Error()
		} else if one == d {
			out.Status = &statuses[i]
		}
		out.Daemons[i] = shown
	}
	return out, nil
}

// named is the daemon's name: what it says now, or said last.
func (d *daemon) named(now string) string {
	d.naming.Lock()
	defer d.naming.Unlock()
	d.name = cmp.Or(now, d.name)
	return cmp.Or(d.name, d.socket)
}

// nodesPage is some of the nodes.
type nodesPage struct {
	Found int        `json:"found"`
	Nodes []api.Node `json:"nodes"`
}

func (p *page) nodes(ctx context.Context, d *daemon, q url.Values) (any, error) {
	offset, limit, err := cut(q)
	if err != nil {
		return nil, err
	}
	all, err := d.nodes(ctx)
	if err != nil {
		return nil, err
	}
	text := strings.ToLower(q.Get("text"))
	troubled := q.Get("troubled") != ""
	var fit []api.Node
	for _, n := range all {
		is := strings.Contains(n.Name, text) || strings.HasPrefix(n.Addr.String(), text) ||
			slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool { return strings.HasPrefix(p.String(), text) })
		if is && (!troubled || !n.Self && n.Reach != "ok") {
			fit = append(fit, n)
		}
	}
	return nodesPage{len(fit), part(fit, offset, limit)}, nil
}

// nodes is all nodes by name, as of a moment ago.
func (d *daemon) nodes(ctx context.Context) ([]api.Node, error) {
	d.asking.Lock()
	defer d.asking.Unlock()
	if time.Now().Before(d.next) {
		return d.known, nil
	}
	all, err := d.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b api.Node) int { return cmp.Compare(a.Name, b.Name) })
	d.known, d.next = all, time.Now().Add(nodesEvery)
	return all, nil
}

func (p *page) services(ctx context.Context, d *daemon, q url.Values) (any, error) {
	offset, limit, err := cut(q)
	if err != nil {
		return nil, err
	}
	page, err := d.client.FindServices(ctx, api.ServiceQuery{
		Text: q.Get("text"), Type: q.Get("type"), Troubled: q.Get("troubled") != "", Offset: offset, Limit: limit,
	})
	return page, err
}

// onePage is a Service, and some of its backends.
type onePage struct {
	// Services are those of the name; more than one if a pod with host ports has it, too.
	Services []api.Service        `json:"services"`
	States   map[string]int       `json:"states"` // how many backends are in which state
	Found    int                  `json:"found"`
	Backends []api.ServiceBackend `json:"backends"`
}

func (p *page) service(ctx context.Context, d *daemon, q url.Values) (any, error) {
	offset, limit, err := cut(q)
	if err != nil {
		return nil, err
	}
	list, err := d.client.WatchedService(ctx, q.Get("name"))
	if err != nil {
		return nil, err
	}
	out := onePage{Services: list, States: map[string]int{}}
	text := strings.ToLower(q.Get("text"))
	var fit []api.ServiceBackend
	for i := range list {
		for _, b := range list[i].Backends {
			out.States[b.State]++
			if strings.HasPrefix(b.Addr, text) || strings.Contains(b.Pod, text) || strings.Contains(b.Node, text) {
				fit = append(fit, b)
			}
		}
		list[i].Backends = nil
	}
	out.Found, out.Backends = len(fit), part(fit, offset, limit)
	return out, nil
}

// drops is the last drops, the newest first.
func (p *page) drops(ctx context.Context, d *daemon, q url.Values) (any, error) {
	offset, limit, err := cut(q)
	if err != nil {
		return nil, err
	}
	list, err := d.client.Drops(ctx)
	if err != nil {
		return nil, err
	}
	slices.Reverse(list)
	return map[string]any{"found": len(list), "drops": part(list, offset, limit)}, nil
}

// cut is which rows of a list are asked for.
func cut(q url.Values) (offset, limit int, err error) {
	if offset, err = number(q, "offset", 0, 1<<30); err != nil {
		return 0, 0, err
	}
	if limit, err = number(q, "limit", maxPage, maxPage); err == nil && limit == 0 {
		err = fmt.Errorf("%w: limit is 0", errBadQuery)
	}
	return offset, limit, err
}

// part is those rows; never nil.
func part[T any](rows []T, offset, limit int) []T {
	offset = min(offset, len(rows))
	return append([]T{}, rows[offset:min(offset+limit, len(rows))]...)
}
