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

/* Whether a new flow, at try i, may have the place of another one that is new or has ended: if it
 * is the same, or a former one of that port of the client. Another's may not be known as ended to
 * its backend. When most ports are taken, a flood of half-open flows does not keep them to itself:
 * the other one, if it goes on, gets another port.
 */
static __always_inline bool may_follow(const struct flow *g, const struct tuple *t, int i)
{
	if (leads_to(g, t))
		return true;
	if (i < PORT_TRIES / 2)
		return g->flags & FLOW_CLOSED && g->dport == t->sport &&
		       same_addr(&g->dst, &t->src);
	return !is_kept(g);
}

/* Whether a new flow, of tuple t, may have the tuple u of replies that another one has or had a
 * moment ago. In `live` that one is forgotten.
 */
__noinline int may_take(const struct tuple *u, const struct tuple *t, int i)
{
	struct flow *g;

	if (!u || !t)
		return false;
	g = find_brief(u);
	if (g)
		return may_follow(g, t, i);
	g = bpf_map_lookup_elem(&live, u);
	if (!g)
		return true;
	if (!(g->flags & FLOW_CLOSED) || !may_follow(g, t, i))
		return false;
	forget_ended(u, g->flags >> FLOW_ENDED);
	return true;
}

/* Claims the tuple of the replies, with another source port if it is taken. */
static __always_inline int claim(const struct tuple *t, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	int i, why;

	if (!h)
		return DROP_INTERNAL;
	back_of(t, f, &h->making);
	other_of(f, t->proto, &h->other);
	for (i = 0; i < PORT_TRIES; i++) {
		asm volatile("" : "+r"(h)); /* so that i has a register, and the verifier counts */
		why = put_brief(&h->other, &h->making, BPF_NOEXIST);
		if (unlikely(why == NOT_OURS) && may_take(&h->other, t, i))
			why = put_brief(&h->other, &h->making, BPF_EXIST);
		if (likely(why != NOT_OURS))
			return why;
		f->sport = PORT_FIRST + bpf_get_prandom_u32() % PORTS;
		h->other.dport = f->sport;
	}
	return DROP_PORTS_FULL;
}

/* Makes both rows of a new flow: f; it is to be marked after that. */
__noinline int make_flow(const struct tuple *t, struct flow *f)
{
	int why;

	if (!t || !f)
		return DROP_INTERNAL;
	why = claim(t, f);
	/* If there is none of f, the packet comes again, and takes its tuple back. */
	return unlikely(why) ? why : put_brief(t, f, BPF_ANY);
}
