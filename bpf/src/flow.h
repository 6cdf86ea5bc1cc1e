/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Conntrack: the flows that are translated, and those that are passed on for another node
 * to translate (passed.h). A flow has two rows, one for each direction; each says what the
 * packets of its tuple become, so each leads to the other. One that is passed on has the
 * first only: answers do not come by. Each row is in `brief` or, once the flow lives, in `live`. A
 * flow lives when its client goes on after an answer, until both ends have ended it.
 */
#pragma once
#include "brief.h"
#include "choose.h"
#include "flags.h"
#include "kernel.h"
#include "l4.h"
#include "live.h"
#include "rows.h"

enum {
	CLIENTS = 16384,
	PAIRS = 32768,
};

/* Whether an address is the client of translated flows, by a hash of it: most packets
 * need no look at the flows. Written by the programs; cleared by the daemon.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, CLIENTS);
} clients SEC(".maps");

/* Whether a client may have translated flows to a backend that sees its own address, by a
 * hash of both: what it sends to the backend itself could have the tuple of such a one.
 * Written by the programs; cleared by the daemon.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, PAIRS);
} pairs SEC(".maps");

static __always_inline __u32 now(void)
{
	return bpf_ktime_get_coarse_ns() >> 30;
}

static __always_inline __u32 *client_of(const union addr *addr)
{
	__u32 key = mix(addr->d[0], addr->d[1]) >> 50;

	return bpf_map_lookup_elem(&clients, &key);
}

/* Whether packets to this address may be replies that must be translated. */
static __always_inline bool is_client(const union addr *addr)
{
	__u32 *mark = client_of(addr);

	return mark && *mark;
}

static __always_inline void mark_client(const union addr *addr)
{
	__u32 *mark = client_of(addr);

	if (mark && *mark != now())
		*mark = now();
}

static __always_inline __u32 *pair_of(const union addr *client, const union addr *backend)
{
	__u64 hash = mix(backend->d[0], backend->d[1]);
	__u32 key = mix(mix(hash, client->d[0]), client->d[1]) >> 49;

	return bpf_map_lookup_elem(&pairs, &key);
}

static __always_inline bool is_pair(const union addr *client, const union addr *backend)
{
	__u32 *mark = pair_of(client, backend);

	return mark && *mark;
}

/* Marks whom a flow of this client leads to, and from where: f. */
static __always_inline void mark_flow(const union addr *client, const struct flow *f)
{
	__u32 *mark;

	mark_client(&f->src);
	if (!same_addr(client, &f->src))
		return;
	mark = pair_of(client, &f->dst);
	if (mark && *mark != now())
		*mark = now();
}

static __always_inline void tuple_of(const struct ip *ip, const struct l4 *l4, struct tuple *t)
{
	__builtin_memset(t, 0, sizeof(*t));
	t->src = ip->src;
	t->dst = ip->dst;
	t->sport = l4->sport;
	t->dport = l4->dport;
	t->proto = l4->proto;
}

/* Makes the row of replies of a flow whose packets have tuple t and become f. */
static __always_inline void back_of(const struct tuple *t, const struct flow *f, struct flow *back)
{
	back->src = t->dst;
	back->dst = t->src;
	back->sport = t->dport;
	back->dport = t->sport;
	back->generation = f->generation;
	back->seen = now();
	back->flags = FLOW_REPLY | (f->flags & FLOW_BEGUN);
}

/* A flow's row. Its place may become another's at any time. */
static __always_inline struct flow *find_flow(const struct tuple *t)
{
	struct flow *f = find_brief(t);

	return f ? f : bpf_map_lookup_elem(&live, t);
}

/* The same, a copy of it, f, and its place in `brief`, or none. */
static __always_inline struct flow *copy_flow(const struct tuple *t, struct flow *f, int *place)
{
	struct flow *known = copy_brief(t, f, place);

	if (known)
		return known;
	if (likely(*place == NOWHERE))
		return NULL;
	*place = MOVED;
	known = bpf_map_lookup_elem(&live, t);
	if (!known)
		return NULL;
	*f = *known;
	f->flags |= FLOW_LIVE;
	return known;
}

/* Whether a row is of a flow that goes to its backend itself: see direct.h. */
static __always_inline bool is_diverted(const struct tuple *t, const struct flow *f)
{
	return same_addr(&t->dst, &f->dst) && t->dport == f->dport;
}

/* Forgets a flow's row, wherever it is; u is the tuple of the other one. Its place may be another
 * flow's by now. DROP_FLOWS_BUSY: it may be there still.
 */
static __always_inline int forget_row(const struct tuple *t, const struct tuple *u)
{
	int why = drop_brief(t, u);
	struct flow *f;

	if (why != NOT_OURS)
		return why;
	f = bpf_map_lookup_elem(&live, t);
	if (f && leads_to(f, u))
		bpf_map_delete_elem(&live, t);
	return OK;
}

/* Forgets both rows of a flow, f one of them and t its tuple. DROP_FLOWS_BUSY: the packet has to
 * come again.
 */
__noinline int forget_flow(const struct tuple *t, const struct flow *f)
{
	struct tuple u;
	int why;

	if (!t || !f)
		return DROP_INTERNAL;
	other_of(f, t->proto, &u);
	why = forget_row(&u, t);
	return why ? why : forget_row(t, &u);
}

/* Sets flags of a flow's row, wherever it is; u is the tuple of the other one. The flags that it
 * had, or why not, negated.
 */
static __always_inline int set_flags(const struct tuple *t, const struct tuple *u, __u32 flags)
{
	int had = flag_brief(place_of(t), t, u, flags, 0);
	struct flow *f;

	if (likely(had != -NOT_OURS))
		return had;
	f = bpf_map_lookup_elem(&live, t);
	if (!f || !leads_to(f, u))
		return -NOT_OURS;
	return __sync_fetch_and_or(&f->flags, flags) & 0xff;
}

/* Closes what `live` has of a flow that has ended, and what is in `brief`: the row of the packet's
 * own tuple, t, last, as it says whether this is done.
 */
__noinline int close_rows(const struct tuple *t, const struct tuple *u)
{
	struct flow *f, *g;
	__u32 flags = 0;

	if (!t || !u)
		return DROP_INTERNAL;
	/* What has ended does not move any more. */
	if (flag_brief(place_of(u), u, t, FLOW_CLOSED, 0) == -DROP_FLOWS_BUSY ||
	    flag_brief(place_of(t), t, u, FLOW_CLOSED, 0) == -DROP_FLOWS_BUSY)
		return DROP_FLOWS_BUSY;
	g = bpf_map_lookup_elem(&live, u);
	if (g && leads_to(g, t) && !(g->flags & FLOW_CLOSED)) {
		flags = end_of_live(u);
		g->flags = (g->flags & 0xff) | flags;
	}
	f = bpf_map_lookup_elem(&live, t);
	if (f && leads_to(f, u) && !(f->flags & FLOW_CLOSED)) {
		if (!flags)
			flags = end_of_live(t);
		f->flags = (f->flags & 0xff) | flags;
	}
	return OK;
}

/* Takes note of a FIN or RST of a live flow; place is that of its row in `brief`, or none. */
__noinline int note_end(const struct tuple *t, const struct flow *f, __u32 flags, int place)
{
	const __u32 end = FLOW_FIN | (flags & TCP_RST ? FLOW_CLOSED << 8 : 0);
	struct at_hand *h = at_hand_of();
	int had;

	if (!t || !f || !h)
		return DROP_INTERNAL;
	other_of(f, t->proto, &h->other);
	had = flag_both(place, place_of(&h->other), t, &h->other, end);
	if (unlikely(had == -NOT_OURS)) { /* they are not both in `brief` */
		had = set_flags(t, &h->other, FLOW_FIN);
		if (had >= 0)
			had = set_flags(&h->other, t, 0);
		if (flags & TCP_RST || (had >= 0 && had & FLOW_FIN))
			return close_rows(t, &h->other);
	}
	return unlikely(had == -DROP_FLOWS_BUSY) ? DROP_FLOWS_BUSY : OK;
}

/* Takes note of a packet of a live flow; f is a copy of its row. */
static __always_inline int note_live(const struct tuple *t, struct flow *known,
				     const struct flow *f, __u8 flags, int place)
{
	if (f->seen != now())
		known->seen = now();
	if (unlikely(flags & (TCP_FIN | TCP_RST)) && !(f->flags & FLOW_CLOSED))
		return note_end(t, f, flags, place);
	return OK;
}

/* Whether a flow has one row only, f: answers would not be translated. */
__noinline int is_half(const struct tuple *t, const struct flow *f)
{
	struct at_hand *h = at_hand_of();
	struct flow *g;

	if (!t || !f || !h)
		return true;
	other_of(f, t->proto, &h->other);
	g = find_flow(&h->other);
	return !g || !leads_to(g, t);
}

/* Takes note of what a client sends in a new flow, of which f is a copy of its row: when it goes
 * on after an answer, the flow is live. The row of replies is made again if it was pushed out;
 * NOT_OURS if another flow has its place by now.
 */
__noinline int note_client(const struct tuple *t, const struct flow *f, __u32 flags, int place)
{
	struct at_hand *h = at_hand_of();
	struct brief_slot *slot;
	struct flow *g;
	int there, had;

	if (!t || !f || !h)
		return DROP_INTERNAL;
	other_of(f, t->proto, &h->other);
	there = place_of(&h->other);
	slot = slot_at(there);
	g = slot ? &slot->row : bpf_map_lookup_elem(&live, &h->other);
	if (unlikely(!g)) {
		back_of(t, f, &h->making);
		if (!(flags & TCP_SYN)) /* it goes on: there was an answer */
			h->making.flags = FLOW_REPLY;
		return put_brief(&h->other, &h->making, BPF_NOEXIST);
	}
	if (unlikely(!leads_to(g, t)))
		return NOT_OURS;
	if (unlikely(flags & TCP_RST)) {
		had = flag_brief(place, t, &h->other, FLOW_CLOSED, 0);
		return unlikely(had == -DROP_FLOWS_BUSY) ? DROP_FLOWS_BUSY : OK;
	}
	if (!(g->flags & FLOW_ANSWERED) || (f->flags | g->flags) & FLOW_CLOSED || flags & TCP_SYN)
		return OK;
	flags = FLOW_LIVE << 8 | (flags & TCP_FIN ? FLOW_FIN : 0);
	had = flag_both(place, there, t, &h->other, flags);
	if (unlikely(there < 0)) /* it was live before: see part */
		had = flag_brief(place, t, &h->other, FLOW_LIVE | (flags & FLOW_FIN), 0);
	return unlikely(had == -DROP_FLOWS_BUSY) ? DROP_FLOWS_BUSY : OK;
}

/* Takes note of what a backend answers, by a packet of tuple t, in a new flow, of which f is a copy
 * of its row, or one that has ended: NOT_OURS if it answers another one, of the same tuple, that is
 * not translated, the former is forgotten then. So it is if the new one's SYN met another that was
 * there before: what the backend says then is of that. The SYN comes again.
 */
static __always_inline enum reason note_answer(const struct tuple *t, const struct flow *f,
					       __u8 flags, int place)
{
	struct at_hand *h = at_hand_of();
	bool anew = flags & TCP_SYN && f->flags & FLOW_FIN; /* its FIN was of a try before */
	int had;

	if (unlikely(f->flags & FLOW_CLOSED && flags & TCP_SYN) ||
	    unlikely((f->flags & (FLOW_BEGUN | FLOW_ANSWERED)) == FLOW_BEGUN &&
		     !(flags & (TCP_SYN | TCP_RST))))
		return forget_flow(t, f) ? DROP_FLOWS_BUSY : NOT_OURS;
	if (!h || (f->flags & FLOW_ANSWERED && !(flags & (TCP_FIN | TCP_RST)) && !anew))
		return OK;
	other_of(f, t->proto, &h->other);
	had = 0;
	if (unlikely(flags & TCP_RST))
		had = flag_brief(place_of(&h->other), &h->other, t, FLOW_CLOSED, 0);
	if (likely(had != -DROP_FLOWS_BUSY))
		had = flag_brief(place, t, &h->other,
				 FLOW_ANSWERED | (flags & TCP_FIN ? FLOW_FIN : 0) |
					 (flags & TCP_RST ? FLOW_CLOSED : 0),
				 anew ? FLOW_FIN : 0);
	return unlikely(had == -DROP_FLOWS_BUSY) ? DROP_FLOWS_BUSY : OK;
}
