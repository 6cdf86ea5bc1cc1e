package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/weftnet/weft/internal/crash"
	"golang.org/x/sys/unix"
)

// ErrForeign: a row that is not ours has the place of the wanted one.
var ErrForeign = errors.New("exists and is not ours")

// Routes is the target of our routes: protocol 87, main table. It is safe for
// concurrent use.
type Routes struct {
	conn conn

	mu   sync.Mutex
	odd  map[RouteKey]oddRoute  // what Delete must know of unusual rows
	mine map[RouteKey]time.Time // places of ours, and since when nothing of ours is there; zero: it is
	back map[RouteKey]time.Time // when a place was taken back from others
}

const (
	// vacant is how long a place is ours after our route has gone from it. It is shorter than an
	// address is kept from other pods (ipam, unless it is set shorter), so that who has the place by
	// then was there first.
	vacant = 20 * time.Second
	// fight is how long a place is left to others who have it again after it was taken back.
	fight = time.Minute
)

// oddRoute is a key that holds several routes, or one of another type than
// unicast where the type matters; see anyMetric.
type oddRoute struct {
	kind  uint8
	times int
}

// NewRoutes opens nothing yet.
func NewRoutes() *Routes {
	return &Routes{odd: map[RouteKey]oddRoute{}, mine: map[RouteKey]time.Time{}, back: map[RouteKey]time.Time{}}
}

// Close releases the socket.
func (r *Routes) Close() { r.conn.Close() }

// Dump returns all routes of protocol 87 in the main table.
func (r *Routes) Dump() (map[RouteKey]Route, error) {
	rows := map[RouteKey]Route{}
	odd := map[RouteKey]oddRoute{}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var found []kernelRoute
		err := r.conn.dump(unix.RTM_GETROUTE, func() { found = found[:0] }, func(b []byte) {
			if kr, ok := parseRoute(b); ok && kr.ours() {
				found = append(found, kr)
			}
		}, routeFilter(fam))
		if err != nil && !isErr(err, unix.ENOENT, unix.EAFNOSUPPORT) { // no such table or family yet
			return nil, fmt.Errorf("dump routes: %w", err)
		}
		for _, kr := range found {
			if _, ok := rows[kr.key]; ok { // IPv4: appended
				kr.Odd = true
				odd[kr.key] = oddRoute{times: max(odd[kr.key].times, 1) + 1}
			} else if kr.key.anyMetric() && kr.kind != unix.RTN_UNICAST {
				odd[kr.key] = oddRoute{kind: kr.kind, times: 1}
			}
			rows[kr.key] = kr.Route
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.odd = odd
	for k, since := range r.mine {
		if _, there := rows[k]; there {
			continue
		}
		if since.IsZero() {
			r.mine[k] = time.Now()
		} else if time.Since(since) > vacant {
			delete(r.mine, k)
			delete(r.back, k)
		}
	}
	for k := range rows {
		r.mine[k] = time.Time{}
	}
	return rows, nil
}

// Get reads one row.
func (r *Routes) Get(k RouteKey) (Route, bool, error) {
	kr, ok, err := r.find(k)
	return kr.Route, ok && kr.ours(), err
}

// find returns the kernel's route under that key, whosever it is. It asks for
// the match of the first address, and only if that is another route for a dump
// of ours.
func (r *Routes) find(k RouteKey) (found kernelRoute, ok bool, err error) {
	_ = r.conn.iter(unix.RTM_GETROUTE, 0, func(b []byte) {
		if kr, good := parseRoute(b); good && kr.table == unix.RT_TABLE_MAIN && kr.key == k {
			found, ok = kr, true
		}
	}, routeMatch(k.Dst.Addr())...)
	if ok {
		return found, true, nil
	}
	// Not found, or the lookup ended in a more specific route, another table
	// or a route that answers with an error.
	err = r.conn.dump(unix.RTM_GETROUTE, func() { ok = false }, func(b []byte) {
		if kr, good := parseRoute(b); good && kr.ours() && kr.key == k {
			found, ok = kr, true
		}
	}, routeFilter(family(k.Dst.Addr())))
	if err != nil && !isErr(err, unix.ENOENT, unix.EAFNOSUPPORT) {
		return found, false, fmt.Errorf("look up route %s: %w", k.Dst, err)
	}
	return found, ok, nil
}

// Set creates or replaces a route. A route of another protocol with the same destination and
// metric is left alone, [ErrForeign], unless it has just taken the place of one of ours. Who takes
// that again within a minute keeps it.
func (r *Routes) Set(k RouteKey, v Route) error {
	if err := k.check(); err != nil {
		return err
	}
	r.mu.Lock()
	several := r.odd[k].times > 1
	r.mu.Unlock()
	if several {
		if err := r.Delete(k); err != nil {
			return err
		}
	}
	parts := routeMessage(k, v)
	err := r.conn.write(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
	if isErr(err, unix.EEXIST) {
		old, ok, ferr := r.find(k)
		switch {
		case ferr != nil:
			return ferr
		case ok && old.ours() && old.Route == v:
			return nil
		case (!ok || !old.ours()) && !r.takeBack(k):
			return fmt.Errorf("set route %s metric %d (protocol %d): %w", k.Dst, k.Metric, old.protocol, ErrForeign)
		}
		err = r.conn.write(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...)
	}
	if err != nil {
		return fmt.Errorf("set route %s: %w", k.Dst, err)
	}
	r.mu.Lock()
	delete(r.odd, k)
	r.mine[k] = time.Time{}
	if k.anyMetric() && v.Unreachable {
		r.odd[k] = oddRoute{kind: unix.RTN_UNREACHABLE, times: 1}
	}
	r.mu.Unlock()
	crash.Point("route")
	return nil
}

// takeBack says whether a route of others is to be replaced, as it has replaced one of ours.
func (r *Routes) takeBack(k RouteKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, mine := r.mine[k]
	if !mine || !since.IsZero() && time.Since(since) > vacant || time.Since(r.back[k]) < fight {
		return false
	}
	r.back[k] = time.Now()
	return true
}

// Delete removes the route of ours under that key.
func (r *Routes) Delete(k RouteKey) error {
	if err := k.check(); err != nil {
		return err
	}
	r.mu.Lock()
	odd, known := r.odd[k]
	delete(r.odd, k)
	delete(r.mine, k)
	delete(r.back, k)
	r.mu.Unlock()
	kind, times := uint8(unix.RTN_UNSPEC), 1
	if k.anyMetric() {
		kind = unix.RTN_UNICAST
	}
	if known {
		kind, times = odd.kind, odd.times
	}
	for range times {
		err := r.conn.write(unix.RTM_DELROUTE, 0, routeDelete(k, kind)...)
		if isErr(err, unix.ESRCH, unix.ENODEV, unix.EAFNOSUPPORT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete route %s: %w", k.Dst, err)
		}
		crash.Point("route")
	}
	return nil
}

// anyMetric says whether the kernel takes the key's metric as any metric when it
// deletes (IPv4, net/ipv4/fib_semantics.c fib_nh_match). So that our unreachable
// route of the same prefix is not taken instead, the type is then given too.
func (k RouteKey) anyMetric() bool { return k.Dst.Addr().Is4() && k.Metric == 0 }

func (k RouteKey) check() error {
	if !k.Dst.IsValid() || k.Dst != k.Dst.Masked() || k.Dst.Addr().Is4In6() {
		return fmt.Errorf("route %v: not a masked prefix", k.Dst)
	}
	if k.Dst.Addr().Is6() && k.Metric == metric6Default {
		return fmt.Errorf("route %s: metric %d of IPv6 is written 0", k.Dst, k.Metric)
	}
	return nil
}

// metric6Default is what IPv6 makes of no metric
// (include/uapi/linux/ipv6_route.h IP6_RT_PRIO_USER).
const metric6Default = 1024

func metricOf(dst netip.Addr, m uint32) uint32 {
	if m == 0 && dst.Is6() {
		return metric6Default
	}
	return m
}
