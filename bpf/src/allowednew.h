/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where the rows of allowed flows are. All begin in `allowed_new`, which is written like
 * memory and not like a map of the kernel's: most flows begin and end there, and that is
 * most of what a connection costs. A flow has its place in one set, by a hash of its tuple;
 * in a full set the oldest makes room: one that was not answered or has ended is forgotten,
 * so a flood pushes out its like; one that lives moves to `allowed`, a hash, from which
 * nothing is pushed out.
 */
#pragma once
#include "flow.h"
#include "home.h"
#include "kernel.h"
#include "rows.h"

/* Those up to ALLOWED_LIVE are in ../allowed.go, too. */
enum {
	ALLOWED_BY_POD = 1 << 0,   /* the pod has begun it; else the other end has */
	ALLOWED_ANSWERED = 1 << 1, /* who has not begun it has sent, too */
	ALLOWED_POD_FIN = 1 << 2,  /* the pod has ended its direction (TCP) */
	ALLOWED_PEER_FIN = 1 << 3, /* the other end has */
	ALLOWED_CLOSED = 1 << 4,   /* both have, or one has reset it */
	ALLOWED_ALWAYS = 1 << 5,   /* no policy forbids it */
	ALLOWED_LIVE = 1 << 6,	   /* who has begun it went on after the answer */
};

struct allowed {
	__u32 revision; /* of policies, by which it was judged */
	__u32 seen;	/* when a packet passed, in units of 2^30 ns of uptime */
	__u32 flags;
	__u32 pad;
};

/* Written by the programs; the daemon removes what has been silent too long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct allowed);
	__uint(max_entries, 262144); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} allowed SEC(".maps");

enum {
	ALLOWED_WAYS = 8,	/* a power of two; ../allowednew.go */
	ALLOWED_PATIENCE = 256, /* tries; a set is busy for some 50 ns, unless many move on */
};

struct allowed_slot {
	struct tuple t;
	struct allowed row;
};

/* The tags are a part of the hash, and 0 where there is nothing, also while a slot is
 * written: who reads looks at the tag before and after the tuple. Who writes has `busy`.
 */
struct allowed_set {
	__u32 tag[ALLOWED_WAYS];
	__u32 next; /* to make room, modulo ALLOWED_WAYS */
	__u32 busy;
	__u64 pad[3]; /* to a line of the cache; all is 512 bytes, so that no set is on two pages */
	struct allowed_slot slot[ALLOWED_WAYS];
};

/* Written by the programs. The set after the last one has the seed of the hash in its tags,
 * written by the daemon that made the map.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct allowed_set);
	__uint(max_entries, 16385);	   /* replaced at load by the setting */
	__uint(map_flags, BPF_F_MMAPABLE); /* it begins with a page */
} allowed_new SEC(".maps");

/* How often a live flow could not move to `allowed` because that is full. */
__u64 allowed_full;

/* How long a flow may be silent, in units of 2^30 ns: then what comes from who has not
 * begun it is no answer any more. Half a minute, two, and 124; ../flows.go.
 */
enum {
	SILENT_NEW = 28,
	SILENT_ANSWERED = 112,
	SILENT_CONNECTED = 6929,
};

/* Another processor may have seen a later moment than `at`. */
static __always_inline bool is_silent(const struct allowed *row, __u8 proto, __u32 at)
{
	__s32 most = row->flags & ALLOWED_ANSWERED ? SILENT_ANSWERED : SILENT_NEW;

	if (proto == IPPROTO_TCP || (proto == IPPROTO_SCTP && row->flags & ALLOWED_ANSWERED))
		most = SILENT_CONNECTED;
	return (__s32)(at - row->seen) > most;
}

/* What is pushed out by nothing. */
static __always_inline bool is_live(const struct allowed *row, __u8 proto)
{
	return (row->flags & (ALLOWED_LIVE | ALLOWED_CLOSED)) == ALLOWED_LIVE &&
	       !is_silent(row, proto, now());
}

/* Where a tuple is in its set, or ALLOWED_WAYS. */
static __always_inline __u32 way_of(struct allowed_set *set, const struct tuple *t, __u32 tag)
{
	const volatile __u32 *tags = set->tag;
	__u32 i;

#pragma unroll
	for (i = 0; i < ALLOWED_WAYS; i++) {
		if (unlikely(tags[i] == tag) && same_tuple(&set->slot[i].t, t) && tags[i] == tag)
			return i;
	}
	return ALLOWED_WAYS;
}

/* A flow's row, if it is in `allowed_new`. */
static __always_inline struct allowed *find_new(const struct tuple *t, const struct home *home)
{
	struct allowed_set *set = bpf_map_lookup_elem(&allowed_new, &home->set);
	__u32 i;

	if (!set)
		return NULL;
	i = way_of(set, t, home->tag);
	return i < ALLOWED_WAYS ? &set->slot[i].row : NULL;
}

/* Whether a row is that of a tuple's flow at its other end. */
static __always_inline bool is_twin(const struct tuple *a, const struct tuple *b)
{
	return same_addr(&a->src, &b->dst) && same_addr(&a->dst, &b->src) && a->sport == b->dport &&
	       a->dport == b->sport && a->proto == b->proto;
}

/* Where the row of a tuple's flow at its other end is in the set, or ALLOWED_WAYS. */
static __always_inline __u32 way_of_twin(struct allowed_set *set, const struct tuple *t, __u32 tag)
{
	const volatile __u32 *tags = set->tag;
	__u32 i;

#pragma unroll
	for (i = 0; i < ALLOWED_WAYS; i++) {
		if (unlikely(tags[i] == tag) && is_twin(&set->slot[i].t, t) && tags[i] == tag)
			return i;
	}
	return ALLOWED_WAYS;
}

/* Where both rows of a flow are in its set: that of the other end in the second byte. -1: one is
 * not there. (A function of its own, so that the verifier does not follow each of both ways.)
 */
__noinline int ways_of_both(const struct tuple *t, const struct home *home)
{
	struct allowed_set *set;
	__u32 i, twin;

	if (!t || !home)
		return -1;
	set = bpf_map_lookup_elem(&allowed_new, &home->set);
	if (!set)
		return -1;
	i = way_of(set, t, home->tag);
	twin = way_of_twin(set, t, home->twin);
	return i < ALLOWED_WAYS && twin < ALLOWED_WAYS ? i | twin << 8 : -1;
}

/* The way of a set that is to be another flow's: that of the oldest which need not live on
 * there, and is not the same flow's at its other end. If all live and `allowed` is full, the
 * oldest must.
 */
static __always_inline __u32 make_way(struct allowed_set *set, const struct tuple *t)
{
	struct allowed_slot *slot;
	__u32 i, k;

	for (k = 0; k < ALLOWED_WAYS; k++) {
		i = (set->next + k) & (ALLOWED_WAYS - 1);
		slot = &set->slot[i];
		if (!set->tag[i])
			return i;
		if (!is_live(&slot->row, slot->t.proto)) {
			if (is_twin(&slot->t, t))
				continue;
			return i;
		}
		if (!bpf_map_update_elem(&allowed, &slot->t, &slot->row, BPF_ANY))
			return i;
		__sync_fetch_and_add(&allowed_full, 1);
	}
	return set->next & (ALLOWED_WAYS - 1);
}

/* Makes a flow's row in `allowed_new`, or overwrites it there. If the set is busy for long
 * (a processor of a virtual machine may be taken away at any point) it gets its place in
 * `allowed` at once.
 */
__noinline int put_new(const struct tuple *t, const struct home *home, const struct allowed *row)
{
	struct allowed_set *set;
	__u32 i;

	if (!t || !home || !row)
		return DROP_INTERNAL;
	set = bpf_map_lookup_elem(&allowed_new, &home->set);
	if (!set)
		return DROP_INTERNAL;
	for (i = 0; __sync_val_compare_and_swap(&set->busy, 0, 1); i++) {
		if (i == ALLOWED_PATIENCE)
			return bpf_map_update_elem(&allowed, t, row, BPF_ANY) ? DROP_FLOWS_FULL
									      : OK;
	}
	i = way_of(set, t, home->tag);
	if (likely(i == ALLOWED_WAYS)) {
		i = make_way(set, t);
		set->next = i + 1;
	}
	i &= ALLOWED_WAYS - 1;
	*(volatile __u32 *)&set->tag[i] = 0;
	set->slot[i].t = *t;
	set->slot[i].row = *row;
	__sync_lock_test_and_set(&set->tag[i], home->tag); /* after all before */
	*(volatile __u32 *)&set->busy = 0;
	return OK;
}
