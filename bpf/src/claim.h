/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How a new flow gets the tuple of its replies, and its rows. */
#pragma once
#include "flow.h"

/* Source ports of clients that this node stands in for: below those that the kernel
 * gives to the node's own sockets (ip_local_port_range) and below NodePorts.
 */
enum {
	PORT_FIRST = 1024,
	PORTS = 30000 - PORT_FIRST,
	PORT_TRIES = 16,
};

/* Whether a new flow may have the place of another one that is new or has ended: if it is
 * the same, or a former one of that port of the client. Another's may not be known as ended
 * to its backend.
 */
static __always_inline bool may_follow(const struct flow *g, const struct tuple *t)
{
	return leads_to(g, t) ||
	       (g->flags & FLOW_CLOSED && g->dport == t->sport && same_addr(&g->dst, &t->src));
}

/* Claims the tuple of the replies, with another source port if it is taken. When most
 * ports are, it takes that of another flow in `brief`: a flood of half-open ones does not
 * keep the ports to itself. The other one, if it goes on, gets another port.
 */
static __always_inline int claim(const struct tuple *t, struct flow *f)
{
	struct flow *back = back_of(t, f), *g;
	struct tuple u;
	int why;

	if (!back)
		return DROP_INTERNAL;
	other_of(f, t->proto, &u);
	for (int i = 0; i < PORT_TRIES; i++) {
		g = bpf_map_lookup_elem(&live, &u);
		if (unlikely(g && g->flags & FLOW_CLOSED &&
			     (i >= PORT_TRIES / 2 || may_follow(g, t)))) {
			forget_ended(&u, g->flags >> FLOW_ENDED);
			g = bpf_map_lookup_elem(&live, &u);
		}
		if (likely(!g)) {
			why = put_brief(&u, back, BPF_NOEXIST);
			if (likely(why != NOT_OURS))
				return why;
			g = find_brief(&u);
			if (g && (i >= PORT_TRIES / 2 || may_follow(g, t)))
				return put_brief(&u, back, BPF_ANY);
		}
		f->sport = PORT_FIRST + bpf_get_prandom_u32() % PORTS;
		u.dport = f->sport;
	}
	return DROP_PORTS_FULL;
}

/* Makes both rows of a new flow: f. */
static __always_inline int make_flow(const struct tuple *t, struct flow *f)
{
	int why = claim(t, f);

	if (unlikely(why))
		return why;
	mark_flow(&t->src, f);
	return put_brief(t, f,
			 BPF_ANY); /* if not, the packet comes again, and takes its tuple back */
}
