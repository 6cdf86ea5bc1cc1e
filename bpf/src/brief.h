/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The rows of flows, and where those of new ones are: in `brief`, which is written like
 * memory and not like a map of the kernel's: two rows in an LRU map were a third of what a
 * flow's first packet costs. In a full set the oldest makes room.
 */
#pragma once
#include "home.h"
#include "kernel.h"
#include "rows.h"

/* Flow flags; those up to FLOW_ADOPTED are in ../flows.go, too. */
enum {
	FLOW_REPLY = 1 << 0,	/* a row of what backends send */
	FLOW_ANSWERED = 1 << 1, /* in the row of replies: one has passed */
	FLOW_FIN = 1 << 2,	/* this direction has ended (TCP) */
	FLOW_CLOSED = 1 << 3,	/* both have, or one was reset */
	FLOW_ADOPTED = 1 << 4,	/* its beginning was not seen here */
	FLOW_BEGUN = 1 << 5,	/* made by a SYN */
	FLOW_PASSED = 1 << 6,	/* its packets go to the backend's node as they are */
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

/* Written by the programs; the daemon removes what has been silent too long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(max_entries, 262144); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} live SEC(".maps");

enum {
	BRIEF_WAYS = 8,	     /* a power of two; ../brief.go */
	BRIEF_PATIENCE = 64, /* tries; a set is busy for some 50 ns */
};

struct brief_slot {
	struct tuple t;
	struct flow row;
};

/* The tags are a part of the hash, and 0 where there is nothing, also while a slot is
 * written: who reads looks at the tag before and after the tuple. Who writes has `busy`.
 */
struct brief_set {
	__u32 tag[BRIEF_WAYS];
	__u32 next; /* to make room, modulo BRIEF_WAYS */
	__u32 busy;
	__u8 used[BRIEF_WAYS]; /* whether a row was since it was made or passed over */
	__u64 pad[2];	       /* to a line of the cache */
	struct brief_slot slot[BRIEF_WAYS];
};

/* Written by the programs; new flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct brief_set);
	__uint(max_entries, 8192); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_MMAPABLE);
} brief SEC(".maps");

/* Where a tuple's row is in `brief`: its set, and its way in the lowest bits; or -1. It counts as
 * used.
 */
__noinline int place_of(const struct tuple *t)
{
	const volatile __u32 *tags;
	struct brief_set *set;
	struct home home;
	__u32 i;

	if (!t)
		return -1;
	home_of(t, config.brief_sets, &home);
	set = bpf_map_lookup_elem(&brief, &home.set);
	if (!set)
		return -1;
	tags = set->tag;
#pragma unroll
	for (i = 0; i < BRIEF_WAYS; i++) {
		if (likely(tags[i] != home.tag) || !same_tuple(&set->slot[i].t, t) ||
		    tags[i] != home.tag)
			continue;
		if (!set->used[i])
			set->used[i] = true;
		return home.set * BRIEF_WAYS + i;
	}
	return -1;
}

/* A new flow's row. */
static __always_inline struct flow *find_brief(const struct tuple *t)
{
	int place = place_of(t);
	__u32 at = (__u32)place / BRIEF_WAYS;
	struct brief_set *set;

	if (place < 0)
		return NULL;
	set = bpf_map_lookup_elem(&brief, &at);
	return set ? &set->slot[place & (BRIEF_WAYS - 1)].row : NULL;
}

/* The way of a set that is to be another flow's: a free one, or the oldest that has not been
 * used since it was last passed over.
 */
static __always_inline __u32 make_brief_way(struct brief_set *set)
{
	__u32 i, k;

	for (i = 0; i < BRIEF_WAYS; i++) {
		if (!set->tag[i])
			return i;
	}
	for (k = 0; k < BRIEF_WAYS; k++) {
		i = (set->next + k) & (BRIEF_WAYS - 1);
		if (!set->used[i])
			break;
		set->used[i] = false;
	}
	i = (set->next + k) & (BRIEF_WAYS - 1);
	set->next = i + 1;
	return i;
}

/* Makes a flow's row in `brief`; one that is there it overwrites, or, if how is BPF_NOEXIST,
 * leaves: NOT_OURS. If the set is busy for long (a processor of a virtual machine may be taken
 * away at any point) it makes none, and the packet has to come again: in `live` the row would be
 * without the flow's other one, and who notes a new flow looks for both here.
 */
__noinline int put_brief(const struct tuple *t, const struct flow *row, __u32 how)
{
	struct brief_set *set;
	struct home home;
	int place;
	__u32 i;

	if (!t || !row)
		return DROP_INTERNAL;
	home_of(t, config.brief_sets, &home);
	set = bpf_map_lookup_elem(&brief, &home.set);
	if (!set)
		return DROP_INTERNAL;
	for (i = 0; __sync_val_compare_and_swap(&set->busy, 0, 1); i++) {
		if (i == BRIEF_PATIENCE)
			return DROP_FLOWS_BUSY;
	}
	place = place_of(t);
	i = place;
	if (likely(place < 0)) {
		i = make_brief_way(set);
	} else if (how == BPF_NOEXIST) {
		*(volatile __u32 *)&set->busy = 0;
		return NOT_OURS;
	}
	i &= BRIEF_WAYS - 1;
	*(volatile __u32 *)&set->tag[i] = 0;
	set->slot[i].t = *t;
	set->slot[i].row = *row;
	set->used[i] = false;
	__sync_lock_test_and_set(&set->tag[i], home.tag); /* after all before */
	*(volatile __u32 *)&set->busy = 0;
	return OK;
}

/* Forgets a new flow's row. */
__noinline int drop_brief(const struct tuple *t)
{
	struct brief_set *set;
	struct home home;
	int place;

	if (!t)
		return 0;
	place = place_of(t);
	if (place < 0)
		return 0;
	home_of(t, config.brief_sets, &home);
	set = bpf_map_lookup_elem(&brief, &home.set);
	if (set)
		__sync_val_compare_and_swap(&set->tag[place & (BRIEF_WAYS - 1)], home.tag, 0);
	return 0;
}
