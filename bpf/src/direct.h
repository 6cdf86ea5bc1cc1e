/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is not translated, but could be taken for it: a client that sends to a backend
 * itself, from a port that a translated flow to that backend has. (Or through a Service,
 * at the socket.)
 */
#pragma once
#include "flow.h"

enum {
	SCTP_INIT = 1, /* RFC 9260 */
};

/* Takes the tuple u of replies from the flow that has it. The flow is new again, without a
 * row of replies: it gets one with the next packet that its client sends (note_brief).
 */
static __always_inline void part(const struct tuple *u)
{
	struct flow *f, *g = bpf_map_lookup_elem(&live, u);
	struct tuple t;

	if (!g) {
		g = bpf_map_lookup_elem(&brief, u);
		if (g && g->flags & FLOW_REPLY)
			bpf_map_delete_elem(&brief, u);
		return;
	}
	if (!(g->flags & FLOW_REPLY))
		return;
	other_of(g, u->proto, &t);
	f = bpf_map_lookup_elem(&live, &t);
	if (f && leads_to(f, u)) {
		if (!(f->flags & FLOW_CLOSED))
			bpf_map_update_elem(&brief, &t, f, BPF_ANY);
		bpf_map_delete_elem(&live, &t);
	}
	bpf_map_delete_elem(&live, u);
}

/* A packet that is not translated: if it begins something, its answers are not either,
 * whatever flow had their tuple until now.
 */
__noinline int note_direct(struct packet *p)
{
	struct tuple u = {};

	if (!p || likely(!is_pair(&p->ip.src, &p->ip.dst)) || p->l4.unported)
		return 0;
	if (p->l4.proto == IPPROTO_TCP && (p->l4.flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	if (p->l4.proto == IPPROTO_SCTP && p->l4.kind != SCTP_INIT)
		return 0;
	u.src = p->ip.dst;
	u.dst = p->ip.src;
	u.sport = p->l4.dport;
	u.dport = p->l4.sport;
	u.proto = p->l4.proto;
	part(&u);
	return 0;
}
