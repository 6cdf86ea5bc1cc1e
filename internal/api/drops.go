package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Drop is one packet that was dropped, as `weft drops` shows it. Of many packets a second
// only some are recorded; the counters in [Status] have all of them.
type Drop struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"` // as in [Counter]
	// Of what a policy dropped: the direction (ingress or egress) that was judged, which
	// policy it was ("NetworkPolicy shop/web"; several have spoken with a default deny),
	// which of its rules (empty: default deny), and all of it in words.
	Direction string   `json:"direction,omitempty"`
	Policies  []string `json:"policies,omitempty"`
	Rule      string   `json:"rule,omitempty"`
	Why       string   `json:"why,omitempty"`

	Protocol string  `json:"protocol"` // TCP, UDP, SCTP, ICMP, ICMPv6, a number, or that of Ethernet
	Detail   string  `json:"detail,omitempty"`
	Src      DropEnd `json:"src"`
	Dst      DropEnd `json:"dst"`
	// Backend is where the packet was on its way to if Dst is a Service's.
	Backend *DropEnd `json:"backend,omitempty"`
	Device  string   `json:"device"` // where it was dropped
	Length  int      `json:"length"` // bytes
	// LeftOut is how many drops before this one were not recorded because there were too
	// many at once.
	LeftOut uint64 `json:"leftOut,omitempty"`
}

// DropEnd is one end of a packet.
type DropEnd struct {
	Addr netip.Addr `json:"addr"`
	Port uint16     `json:"port,omitempty"`
	Pod  string     `json:"pod,omitempty"`  // namespace/name
	Node string     `json:"node,omitempty"` // of the pod, or the node that has the address
}

// Drops returns what was dropped lately, the oldest first.
func (c *Client) Drops(ctx context.Context) ([]Drop, error) {
	var d []Drop
	return d, c.call(ctx, PathDrops, nil, &d)
}

// DropsAlive is how often the daemon gives a sign of life to who watches drops, if there
// are none.
const DropsAlive = 10 * time.Second

// WatchDrops calls each with what is dropped from now on, until ctx is done, the daemon
// ends, or each returns an error, which it returns. The daemon has patience to begin its
// answer, and to be late with a sign of life; it returns [context.DeadlineExceeded] if it is
// silent for longer: nothing to see must not look like nothing dropped.
func (c *Client) WatchDrops(ctx context.Context, patience time.Duration, each func(Drop) error) error {
	return c.stream(ctx, PathWatchDrops, patience, DropsAlive+patience, func(line []byte) error {
		var d Drop
		if err := json.Unmarshal(line, &d); err != nil {
			return fmt.Errorf("read drop: %w", err)
		}
		return each(d)
	})
}

// stream gets an answer that is a JSON value a line, without end. It waits so long for the
// answer to begin, and so long for each line.
func (c *Client) stream(ctx context.Context, path string, begin, next time.Duration, each func([]byte) error) error {
	request, err := encode(path, nil)
	if err != nil {
		return err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return c.noAnswer(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(begin)); err != nil {
		return c.noAnswer(ctx, err)
	}
	if _, err := conn.Write(request); err != nil {
		return c.noAnswer(ctx, err)
	}
	br := bufio.NewReader(conn)
	code, length, err := readHead(br)
	if err != nil {
		return c.noAnswer(ctx, err)
	}
	if code >= 400 {
		answer, err := readBody(br, length)
		if err != nil {
			return c.noAnswer(ctx, err)
		}
		return refused(path, code, answer)
	}
	lines := bufio.NewScanner(br)
	lines.Buffer(nil, 1<<20)
	for conn.SetDeadline(time.Now().Add(next)) == nil && lines.Scan() {
		if len(lines.Bytes()) == 0 { // a sign of life
			continue
		}
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := lines.Err(); err != nil {
		return c.noAnswer(ctx, err)
	}
	return fmt.Errorf("%w at %s any more: it has ended", ErrNoDaemon, c.socket)
}
