/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Conntrack: the flows that are translated, and those that are passed on for another node
 * to translate (passed.h). A flow has two rows, one for each direction; each says what the
 * packets of its tuple become, so each leads to the other. One that is passed on has the
 * first only, in `brief`: answers do not come by. New flows are in `brief`, where a flood
 * pushes out its like; a flow that both ends have spoken in moves to `live`, from which
 * nothing is pushed out. There it stays for a while after its end, for what is under way.
 */
#pragma once
#include "brief.h"
#include "choose.h"
#include "kernel.h"
#include "l4.h"
#include "rows.h"

/* Flows of `live` that have ended, as a ring: their tuples, the next to be forgotten when
 * another one ends. (A new program begins with an empty ring: what was in the former's is
 * forgotten by the daemon, by its age.)
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct tuple);
	__uint(max_entries, 16384); /* a power of two; replaced at load, by the size of live */
} ended SEC(".maps");

/* A row that is being made, kept here because the stack is short. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1);
} making SEC(".maps");

__u32 ended_first, ended_next; /* in ended, modulo its size */

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

/* The tuple of the other direction. */
static __always_inline void other_of(const struct flow *f, __u8 proto, struct tuple *t)
{
	__builtin_memset(t, 0, sizeof(*t));
	t->src = f->dst;
	t->dst = f->src;
	t->sport = f->dport;
	t->dport = f->sport;
	t->proto = proto;
}

/* The row of replies of a flow whose packets have tuple t and become f. */
static __always_inline struct flow *back_of(const struct tuple *t, const struct flow *f)
{
	__u32 key = 0;
	struct flow *back = bpf_map_lookup_elem(&making, &key);

	if (!back)
		return NULL;
	back->src = t->dst;
	back->dst = t->src;
	back->sport = t->dport;
	back->dport = t->sport;
	back->generation = f->generation;
	back->seen = f->seen;
	back->flags = FLOW_REPLY | (f->flags & FLOW_BEGUN);
	return back;
}

/* Whether a row of replies is the other one of the flow whose packets have tuple t. */
static __always_inline bool leads_to(const struct flow *g, const struct tuple *t)
{
	return same_addr(&g->dst, &t->src) && same_addr(&g->src, &t->dst) && g->dport == t->sport &&
	       g->sport == t->dport;
}

/* Forgets both rows of a flow, f one of them and t its tuple, wherever they are. The other
 * row's place may be another flow's by now.
 */
__noinline int forget_flow(const struct tuple *t, const struct flow *f)
{
	struct flow *g;
	struct tuple u;

	if (!t || !f)
		return 0;
	other_of(f, t->proto, &u);
	g = bpf_map_lookup_elem(&live, &u);
	if (g && leads_to(g, t))
		bpf_map_delete_elem(&live, &u);
	g = find_brief(&u);
	if (g && leads_to(g, t))
		drop_brief(&u);
	bpf_map_delete_elem(&live, t);
	drop_brief(t);
	return 0;
}

/* Forgets a flow that has ended, by either of its tuples, if that was end number `end`;
 * the tuple may have begun anew, and ended again.
 */
__noinline int forget_ended(const struct tuple *t, __u32 end)
{
	struct flow *f, *g;
	struct tuple u;

	if (!t)
		return 0;
	f = bpf_map_lookup_elem(&live, t);
	if (!f || !(f->flags & FLOW_CLOSED) || (f->flags ^ end << FLOW_ENDED) >> FLOW_ENDED)
		return 0;
	other_of(f, t->proto, &u);
	g = bpf_map_lookup_elem(&live, &u);
	if (g && g->flags & FLOW_CLOSED && leads_to(g, t))
		bpf_map_delete_elem(&live, &u);
	bpf_map_delete_elem(&live, t);
	return 0;
}

/* Makes room in `live` by the flow that ended first. */
static __always_inline void make_room(void)
{
	__u32 first = ended_first, next = ended_next, at;
	struct tuple *t;

	if (next - first > config.ended)
		first = next - config.ended; /* the others have been overwritten */
	if (first == next)
		return;
	ended_first = first + 1;
	at = first & (config.ended - 1);
	t = bpf_map_lookup_elem(&ended, &at);
	if (t)
		forget_ended(t, first);
}

/* Both rows of a live flow, one of them that of tuple t, have ended. */
static __always_inline void end_flow(const struct tuple *t, struct flow *f, struct flow *g)
{
	__u32 end = __sync_fetch_and_add(&ended_next, 1), at = end & (config.ended - 1);
	__u32 flags = FLOW_CLOSED | end << FLOW_ENDED;
	struct tuple *place = bpf_map_lookup_elem(&ended, &at);

	if (place) {
		forget_ended(place, end - config.ended);
		*place = *t;
	}
	f->flags = (f->flags & 0xff) | flags;
	g->flags = (g->flags & 0xff) | flags;
}

/* Takes note of a packet of a live flow. */
static __always_inline void note_live(const struct tuple *t, struct flow *f, __u8 flags)
{
	struct tuple u;
	struct flow *g;

	if (f->seen != now())
		f->seen = now();
	if (likely(!(flags & (TCP_FIN | TCP_RST))))
		return;
	if (f->flags & FLOW_CLOSED)
		return;
	f->flags |= FLOW_FIN;
	other_of(f, t->proto, &u);
	g = bpf_map_lookup_elem(&live, &u);
	if (g && (flags & TCP_RST || g->flags & FLOW_FIN))
		end_flow(t, f, g);
}

/* Sets flags of a new flow's row: others may write there, too. */
static __always_inline void set_flags(struct flow *f, __u32 flags)
{
	if ((f->flags & flags) != flags)
		__sync_fetch_and_or(&f->flags, flags);
}

/* Whether a row is of a flow that goes to its backend itself: see direct.h. */
static __always_inline bool is_diverted(const struct tuple *t, const struct flow *f)
{
	return same_addr(&t->dst, &f->dst) && t->dport == f->dport;
}

/* Writes a new flow's row into `live`, too; `other` is the tuple of the flow's other row. Its
 * place, or its tuple, may be another flow's by now, so the copy is looked at before it is
 * written. NOT_OURS: the row is gone.
 */
__noinline int copy_to_live(const struct tuple *t, const struct flow *f, const struct tuple *other)
{
	__u32 key = 0;
	struct flow *copy = bpf_map_lookup_elem(&making, &key);

	if (!t || !f || !other || !copy)
		return DROP_INTERNAL;
	*copy = *f;
	if (unlikely(find_brief(t) != f || !leads_to(copy, other)))
		return NOT_OURS;
	return bpf_map_update_elem(&live, t, copy, BPF_ANY) ? DROP_FLOWS_FULL : OK;
}

/* Whether tuple u, of the replies to t, is in `live`: 1 as of that flow, -1 of another, or 0. */
__noinline int live_as(const struct tuple *u, const struct tuple *t)
{
	struct flow *g;

	if (!u || !t)
		return 0;
	g = bpf_map_lookup_elem(&live, u);
	if (!g)
		return 0;
	return leads_to(g, t) ? 1 : -1;
}

/* Moves both rows of a new flow to `live`; not if one of them is pushed out meanwhile. Another
 * processor may do so at the same time: who does it wholly has written both before it drops any.
 */
static __always_inline enum reason move_flow(const struct tuple *t, struct flow *f,
					     const struct tuple *u, struct flow *g)
{
	int why = copy_to_live(t, f, u);

	if (unlikely(why))
		return why == NOT_OURS ? OK : why;
	why = copy_to_live(u, g, t);
	if (unlikely(why)) {
		if (live_as(u, t) > 0)
			return OK;
		bpf_map_delete_elem(&live, t);
		return why == NOT_OURS ? OK : why;
	}
	drop_brief(t);
	drop_brief(u);
	return OK;
}

/* Takes note of what a client sends in a new flow: when it goes on after an answer, the
 * flow is live. The row of replies is made again if it was pushed out; NOT_OURS if
 * another flow has its place by now.
 */
__noinline int note_brief(const struct tuple *t, struct flow *f, __u32 flags)
{
	struct flow *g, *back;
	struct tuple u;
	int moved;

	if (!t || !f)
		return DROP_INTERNAL;
	f->seen = now();
	other_of(f, t->proto, &u);
	g = find_brief(&u);
	if (unlikely(!g)) {
		moved = live_as(&u, t);
		if (moved) /* by another processor, just now; or it is another flow's */
			return moved > 0 ? OK : NOT_OURS;
		back = back_of(t, f);
		if (!back)
			return DROP_INTERNAL;
		if (!(flags & TCP_SYN)) /* it goes on: there was an answer */
			back->flags = FLOW_REPLY;
		return put_brief(&u, back, BPF_NOEXIST);
	}
	if (unlikely(!leads_to(g, t)))
		return NOT_OURS;
	if (flags & TCP_RST)
		set_flags(f, FLOW_CLOSED);
	if (!(g->flags & FLOW_ANSWERED) || (f->flags | g->flags) & FLOW_CLOSED || flags & TCP_SYN)
		return OK;
	if (flags & TCP_FIN)
		set_flags(f, FLOW_FIN);
	return move_flow(t, f, &u, g);
}

/* The same; if there is no room for another live flow, that of one which has ended is
 * taken.
 */
static __always_inline int note_client(const struct tuple *t, struct flow *f, __u8 flags)
{
	int why = note_brief(t, f, flags);

	if (likely(why != DROP_FLOWS_FULL))
		return why;
	make_room();
	return note_brief(t, f, flags);
}

/* Takes note of what a backend answers, by a packet of tuple t, in a new flow, or one that
 * has ended: NOT_OURS if it answers another one, of the same tuple, that is not translated,
 * the former is forgotten then. So it is if the new one's SYN met another that was there
 * before: what the backend says then is of that. The SYN comes again.
 */
static __always_inline enum reason note_answer(const struct tuple *t, struct flow *f, __u8 flags)
{
	struct flow *g;
	struct tuple u;

	if (unlikely(f->flags & FLOW_CLOSED && flags & TCP_SYN) ||
	    unlikely((f->flags & (FLOW_BEGUN | FLOW_ANSWERED)) == FLOW_BEGUN &&
		     !(flags & (TCP_SYN | TCP_RST)))) {
		forget_flow(t, f);
		return NOT_OURS;
	}
	f->seen = now();
	set_flags(f, FLOW_ANSWERED);
	if (likely(!(flags & TCP_RST)))
		return OK;
	set_flags(f, FLOW_CLOSED);
	other_of(f, t->proto, &u);
	g = find_brief(&u);
	if (g && leads_to(g, t))
		set_flags(g, FLOW_CLOSED);
	return OK;
}
