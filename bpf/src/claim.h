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

/* Forgets a flow of `live` that has tuple u of replies, if it has ended and a row may follow it. */
__noinline int make_way_for(const struct tuple *u, const struct flow *row, __u32 how)
{
	struct flow *g;

	if (!u || !row)
		return false;
	g = bpf_map_lookup_elem(&live, u);
	if (!g || !(g->flags & FLOW_CLOSED) || !may_follow(u, g, row, how))
		return false;
	forget_ended(u, g->flags >> FLOW_ENDED);
	return true;
}

/* Claims the tuple of the replies, with another source port if it is taken. */
static __always_inline int claim(const struct tuple *t, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	__u32 how;
	int i, why;

	if (!h)
		return DROP_INTERNAL;
	back_of(t, f, &h->making);
	other_of(f, t->proto, &h->other);
	for (i = 0; i < PORT_TRIES; i++) {
		asm volatile("" : "+r"(h)); /* so that i has a register, and the verifier counts */
		how = i < PORT_TRIES / 2 ? FOLLOW_OWN : FOLLOW_NEW;
		why = put_brief(&h->other, &h->making, how);
		if (likely(why != NOT_OURS))
			return why;
		if (make_way_for(&h->other, &h->making, how))
			continue;
		f->sport = PORT_FIRST + bpf_get_prandom_u32() % PORTS;
		h->other.dport = f->sport;
	}
	return DROP_PORTS_FULL;
}

/* Forgets what is left of a flow whose tuple of replies another has now. */
__noinline int forget_former(void)
{
	struct at_hand *h = at_hand_of();

	return h ? forget_row(&h->former, &h->other) : DROP_INTERNAL;
}

/* Makes both rows of a new flow: f; it is to be marked after that. */
__noinline int make_flow(const struct tuple *t, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	int why;

	if (!t || !f || !h)
		return DROP_INTERNAL;
	h->former.proto = 0;
	why = claim(t, f);
	if (unlikely(why))
		return why;
	if (unlikely(h->former.proto))
		forget_former();
	/* If there is none of f, the packet comes again, and takes its tuple back. */
	return put_brief(t, f, BPF_ANY);
}
