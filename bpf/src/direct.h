/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a client sends to a backend itself (or through a Service, at its socket) from a port
 * that a translated flow to that backend has: the backend cannot tell the two apart.
 */
#pragma once
#include "flow.h"
#include "serve.h"

enum {
	SCTP_INIT = 1, /* RFC 9260 */
};

/* Takes the tuple u of replies from the flow that has it, by its row g. The flow is new again,
 * without a row of replies: it gets one with the next packet that its client sends (note_client).
 */
static __always_inline int part(const struct tuple *u, const struct flow *g)
{
	struct at_hand *h = at_hand_of();
	struct tuple t;
	struct flow *f;
	int why = OK;

	if (!h)
		return DROP_INTERNAL;
	other_of(g, u->proto, &t);
	f = find_brief(&t);
	if (f && leads_to(f, u)) {
		if (f->flags & FLOW_CLOSED)
			drop_brief(&t, u);
		else if (flag_brief(place_of(&t), &t, u, 0, FLOW_LIVE) < 0)
			why = DROP_FLOWS_BUSY;
	}
	f = bpf_map_lookup_elem(&live, &t); /* it may have moved by now */
	if (f && leads_to(f, u)) {
		h->making = *f;
		h->making.flags &= ~FLOW_LIVE;
		why = f->flags & FLOW_CLOSED ? OK : put_brief(&t, &h->making, BPF_ANY);
		if (unlikely(why))
			return why;
		bpf_map_delete_elem(&live, &t);
	}
	if (unlikely(why))
		return why;
	why = forget_row(u, &t);
	return unlikely(why) ? why : NOT_OURS;
}

/* Gives a connection of tuple t another source port, as g is the row of replies of one that
 * has its tuple and has not ended: f. NOT_OURS: none is free.
 */
static __always_inline int divert(const struct tuple *t, const struct flow *g, struct flow *f)
{
	int why;

	f->flags = t->proto == IPPROTO_TCP ? FLOW_BEGUN : 0;
	f->src = t->src;
	f->dst = t->dst;
	f->sport = PORT_FIRST + bpf_get_prandom_u32() % PORTS;
	f->dport = t->dport;
	f->generation = g->generation;
	f->seen = now();
	mark_client(&f->dst); /* that flow_of looks for its row */
	why = make_flow(t, f);
	if (likely(!why))
		mark_flow(&t->src, f);
	return why == DROP_PORTS_FULL ? NOT_OURS : why;
}

/* A packet that is not translated. If it is a datagram, its answers are not either, whatever
 * flow had their tuple until now: who sends by UDP from one port is one socket, as a rule,
 * and that port means something to the other end. Connections may have one port in common,
 * if they go to different places; so one that begins here gets another than that which has
 * the tuple, if that has not ended: f, by which the packet is to be translated. NOT_OURS: it
 * goes on as it is. Else it must not.
 */
__noinline int direct_flow(struct packet *p, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	struct flow *g;
	struct tuple u;
	int why, place;

	if (!p || !f || !h || likely(!is_pair(&p->ip.src, &p->ip.dst)) || p->l4.unported)
		return NOT_OURS;
	if (p->l4.proto == IPPROTO_TCP && (p->l4.flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return NOT_OURS;
	if (p->l4.proto == IPPROTO_SCTP && p->l4.kind != SCTP_INIT)
		return NOT_OURS;
	tuple_of(&p->ip, &p->l4, &h->t);
	if (h->t.proto != IPPROTO_UDP) {
		why = known_flow(&h->t, p->l4.flags, NULL, false, f);
		if (why != NOT_OURS)
			return why; /* it begins once more */
	}
	__builtin_memset(&u, 0, sizeof(u));
	u.src = h->t.dst;
	u.dst = h->t.src;
	u.sport = h->t.dport;
	u.dport = h->t.sport;
	u.proto = h->t.proto;
	g = copy_flow(&u, &h->making, &place) ? &h->making : NULL;
	if (!g || !(g->flags & FLOW_REPLY))
		return NOT_OURS;
	if (h->t.proto != IPPROTO_UDP && !(g->flags & FLOW_CLOSED))
		return divert(&h->t, g, f);
	return part(&u, g);
}
