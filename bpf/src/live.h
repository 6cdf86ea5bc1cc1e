/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The rows of flows, and those that have left their set of `brief` to others (brief.h): nothing
 * pushes them out of `live`. There a flow stays for a while after its end, for what is under way.
 */
#pragma once
#include "home.h"
#include "kernel.h"
#include "rows.h"

/* Flow flags; those up to FLOW_ADOPTED, and FLOW_LIVE, are in ../flows.go, too. */
enum {
	FLOW_REPLY = 1 << 0,	/* a row of what backends send */
	FLOW_ANSWERED = 1 << 1, /* in the row of replies: one has passed */
	FLOW_FIN = 1 << 2,	/* this direction has ended (TCP) */
	FLOW_CLOSED = 1 << 3,	/* both have, or one was reset */
	FLOW_ADOPTED = 1 << 4,	/* its beginning was not seen here */
	FLOW_BEGUN = 1 << 5,	/* made by a SYN */
	FLOW_PASSED = 1 << 6,	/* its packets go to the backend's node as they are */
	FLOW_LIVE = 1 << 7,	/* both ends have spoken; in `live` they all have, flag or not */
	FLOW_ENDED = 8,		/* in live, once closed: from this bit on, which end it was */
};

struct flow {
	union addr src; /* what the packet gets instead */
	union addr dst;
	__u16 sport; /* host order */
	__u16 dport;
	__u32 generation; /* of the backend */
	__u32 seen;	  /* when a packet passed, in units of 2^30 ns of uptime */
	__u32 flags;
};

/* What a program has at hand, kept here because the stack is short. */
struct at_hand {
	struct tuple t;	     /* the packet's */
	struct tuple other;  /* of the other direction */
	struct tuple ended;  /* of a flow that is to be forgotten */
	struct tuple former; /* the same, as a new one has the tuple of its replies */
	struct flow f;	     /* what the packet becomes */
	struct flow making;  /* a row that is being made */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct at_hand);
	__uint(max_entries, 1);
} at_hand SEC(".maps");

static __always_inline struct at_hand *at_hand_of(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&at_hand, &key);
}

/* Written by the programs; the daemon removes what has been silent too long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(max_entries, 262144); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} live SEC(".maps");

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

__u32 ended_first, ended_next; /* in ended, modulo its size */

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

/* Whether a row is that of the flow whose other row has tuple t. */
static __always_inline bool leads_to(const struct flow *g, const struct tuple *t)
{
	return same_addr(&g->dst, &t->src) && same_addr(&g->src, &t->dst) && g->dport == t->sport &&
	       g->sport == t->dport;
}

/* Forgets what `live` has of a flow that has ended, by either of its tuples, if that was end
 * number `end`; the tuple may have begun anew, and ended again.
 */
__noinline int forget_ended(const struct tuple *t, __u32 end)
{
	struct at_hand *h = at_hand_of();
	struct flow *f, *g;

	if (!t || !h)
		return 0;
	f = bpf_map_lookup_elem(&live, t);
	if (!f || !(f->flags & FLOW_CLOSED) || (f->flags ^ end << FLOW_ENDED) >> FLOW_ENDED)
		return 0;
	other_of(f, t->proto, &h->ended);
	g = bpf_map_lookup_elem(&live, &h->ended);
	if (g && g->flags & FLOW_CLOSED && leads_to(g, t))
		bpf_map_delete_elem(&live, &h->ended);
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

/* Takes note of an end of a flow of which `live` has the row of tuple t: what FLOW_CLOSED is to
 * be there for it.
 */
static __always_inline __u32 end_of_live(const struct tuple *t)
{
	__u32 end = __sync_fetch_and_add(&ended_next, 1), at = end & (config.ended - 1);
	struct tuple *place = bpf_map_lookup_elem(&ended, &at);

	if (place) {
		forget_ended(place, end - config.ended);
		*place = *t;
	}
	return FLOW_CLOSED | end << FLOW_ENDED;
}
