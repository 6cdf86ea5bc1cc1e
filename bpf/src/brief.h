/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where the rows of flows are. All begin in `brief`, which is written like memory and not like a
 * map of the kernel's: most flows begin and end there, and rows in maps were a third of what a
 * flow's first packet costs, and of a connection a twentieth. In a full set one that lives makes
 * room: it moves to `live`, and is there before it leaves `brief`, so who looks here first finds
 * it. Else one that has ended is forgotten, or one that is new: a flood pushes out its like. Once
 * a version has been published, one that changes the form of `brief`, or home_of, has to carry its
 * rows over, as nothing else has them.
 */
#pragma once
#include "home.h"
#include "kernel.h"
#include "live.h"
#include "rows.h"

enum {
	BRIEF_WAYS = 8,	      /* a power of two; ../brief.go */
	BRIEF_PATIENCE = 256, /* tries; a set is busy for some 50 ns, unless a row moves on */
};

/* Instead of a place in `brief`. */
enum {
	NOWHERE = -1, /* it is not there, and not in `live` */
	MOVED = -2,   /* not there, but it may be in `live` */
};

/* Over what put_brief writes, besides BPF_ANY and BPF_NOEXIST: see may_follow. */
enum {
	FOLLOW_OWN = 2, /* what has ended, of the same port of the client */
	FOLLOW_NEW = 3, /* whatever does not live */
};

/* What is to be known of a row to make room; its flags have the last word. */
enum {
	USE_NONE,  /* of a new flow, not used since it was made or passed over */
	USE_NEW,   /* of a new flow */
	USE_ENDED, /* FLOW_CLOSED */
	USE_LIVES, /* FLOW_LIVE, and has not ended */
};

struct brief_slot {
	struct tuple t;
	struct flow row;
};

/* The tags are a part of the hash, and 0 where there is nothing, also while a slot is
 * written: who reads looks at the tag before and after the tuple. Who writes has `busy`, but for
 * that a row was seen or used, and for the daemon (../brief.go, alive.go, moved.go).
 */
struct brief_set {
	__u32 tag[BRIEF_WAYS];
	__u16 next;  /* to make room, modulo BRIEF_WAYS */
	__u16 moved; /* 0: none of its rows is in `live`; else changed before each goes there */
	__u32 busy;
	__u8 use[BRIEF_WAYS];
	__u16 known[BRIEF_WAYS]; /* see is_served; to a line of the cache */
	struct brief_slot slot[BRIEF_WAYS];
};

/* Written by the programs; the daemon removes what has been silent too long. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct brief_set);
	__uint(max_entries, 8192); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_MMAPABLE);
} brief SEC(".maps");

/* The way of a tuple in its set, or -1. Its row counts as used. */
static __always_inline int way_in(struct brief_set *set, const struct tuple *t, __u32 tag)
{
	const volatile __u32 *tags = set->tag;
	int i;

#pragma unroll
	for (i = 0; i < BRIEF_WAYS; i++) {
		if (likely(tags[i] != tag) || !same_tuple(&set->slot[i].t, t) || tags[i] != tag)
			continue;
		if (set->use[i] == USE_NONE)
			set->use[i] = USE_NEW;
		return i;
	}
	return -1;
}

/* Whether a row of this set may be in `live`. To look there is a miss of the cache, as a rule, and
 * was a third of a flow's first packet. A row that goes is there before it is not here.
 */
static __always_inline bool has_moved(const struct brief_set *set)
{
	return *(const volatile __u16 *)&set->moved;
}

/* The place of a tuple in `brief`: its set, and its way in the lowest bits; or NOWHERE, MOVED. */
__noinline int place_of(const struct tuple *t)
{
	struct brief_set *set;
	struct home home;
	int i;

	if (!t)
		return NOWHERE;
	find_home(t, config.brief_sets, config.brief_part, &home);
	set = bpf_map_lookup_elem(&brief, &home.set);
	if (!set)
		return NOWHERE;
	i = way_in(set, t, home.tag);
	if (i < 0)
		return unlikely(has_moved(set)) ? MOVED : NOWHERE;
	return (int)(home.set * BRIEF_WAYS) + i;
}

static __always_inline struct brief_set *set_at(int place)
{
	__u32 at = (__u32)place / BRIEF_WAYS;

	return place < 0 ? NULL : bpf_map_lookup_elem(&brief, &at);
}

static __always_inline struct brief_slot *slot_at(int place)
{
	struct brief_set *set = set_at(place);

	if (!set)
		return NULL;
	asm volatile("" : "+r"(place)); /* nothing is added to set before it is looked at */
	return &set->slot[place & (BRIEF_WAYS - 1)];
}

/* The row of a tuple in `brief`. Its place may become another's at any time. */
static __always_inline struct flow *find_brief(const struct tuple *t)
{
	struct brief_slot *slot = slot_at(place_of(t));

	return slot ? &slot->row : NULL;
}

/* The same, a copy of it, f, and its place. What is copied is of this tuple, as who makes the place
 * another's writes the tuple first, and the tag before that.
 */
static __always_inline struct flow *copy_brief(const struct tuple *t, struct flow *f, int *place)
{
	struct brief_set *set;
	int i;

	*place = place_of(t);
	set = set_at(*place);
	if (!set)
		return NULL;
	i = *place;
	asm volatile("" : "+r"(i)); /* nothing is added to set before it is looked at */
	i &= BRIEF_WAYS - 1;
	*f = set->slot[i].row;
	asm volatile("" ::: "memory");
	return likely(set->tag[i] && same_tuple(&set->slot[i].t, t)) ? &set->slot[i].row : NULL;
}

/* Waits for who writes to a set, to write there; false if that takes long. */
__noinline int wait_for(struct brief_set *set)
{
	int i;

	if (!set)
		return false;
	for (i = 0; i < BRIEF_PATIENCE; i++) {
		if (!__sync_val_compare_and_swap(&set->busy, 0, 1))
			return true;
	}
	return false;
}

/* Begins to write to a set; false if it is busy for long: a processor of a virtual machine may be
 * taken away at any point.
 */
static __always_inline bool lock_set(struct brief_set *set)
{
	return likely(!__sync_val_compare_and_swap(&set->busy, 0, 1)) || wait_for(set);
}

static __always_inline void unlock_set(struct brief_set *set)
{
	*(volatile __u32 *)&set->busy = 0;
}

/* Whether nothing pushes a row out. */
static __always_inline bool is_kept(const struct flow *f)
{
	return (f->flags & (FLOW_LIVE | FLOW_CLOSED)) == FLOW_LIVE;
}

/* Writes a row that lives into `live`; if there is no room, in the place of a flow that has ended.
 */
static __always_inline bool move_on(struct brief_set *set, const struct brief_slot *slot)
{
	const __u16 moved = set->moved + 1;

	*(volatile __u16 *)&set->moved = likely(moved) ? moved : 1;
	if (likely(!bpf_map_update_elem(&live, &slot->t, &slot->row, BPF_ANY)))
		return true;
	make_room();
	return !bpf_map_update_elem(&live, &slot->t, &slot->row, BPF_ANY);
}

/* The oldest free way of a set; or -1. */
static __always_inline int free_way(const struct brief_set *set)
{
	int i, k;

#pragma nounroll
	for (k = 0; k < BRIEF_WAYS; k++) {
		i = (set->next + k) & (BRIEF_WAYS - 1);
		if (!set->tag[i])
			return i;
	}
	return -1;
}

/* The oldest way of such use; or -1. */
static __always_inline int way_of_use(const struct brief_set *set, __u8 use)
{
	int i, k;

#pragma nounroll
	for (k = 0; k < BRIEF_WAYS; k++) {
		i = (set->next + k) & (BRIEF_WAYS - 1);
		if (set->use[i] == use)
			return i;
	}
	return -1;
}

/* Makes room in a full set, the oldest first: by one that lives and has room in `live`, by one that
 * has ended, or by one that has not been used since it was last passed over. (What has ended may
 * still be under way, so others that live here do not have it pushed out.) Its way; -1: all live,
 * and there is no room.
 */
__noinline int make_way_in(struct brief_set *set)
{
	int i, k;

	if (!set)
		return -1;
	i = way_of_use(set, USE_LIVES);
	if (i >= 0 && (!is_kept(&set->slot[i].row) || likely(move_on(set, &set->slot[i]))))
		return i;
	i = way_of_use(set, USE_ENDED);
	if (i >= 0)
		return i;
#pragma nounroll
	for (k = 0; k < 2 * BRIEF_WAYS; k++) {
		i = (set->next + k) & (BRIEF_WAYS - 1);
		if (unlikely(is_kept(&set->slot[i].row))) { /* a packet has just been seen */
			set->use[i] = USE_LIVES;
			continue;
		}
		if (set->use[i] != USE_NEW)
			return i;
		set->use[i] = USE_NONE;
	}
	return -1;
}

/* Whether a new row of tuple t may have the place of another one that is new or has ended: if it is
 * of the same flow, or of a former one of that port of the client. Another's may not be known as
 * ended to its backend. When most ports are taken (FOLLOW_NEW), a flood of half-open flows does not
 * keep them to itself: the other one, if it goes on, gets another port. What is to be forgotten of
 * one that has ended is at hand then.
 */
__noinline int may_follow(const struct tuple *t, const struct flow *had, const struct flow *row,
			  __u32 how)
{
	struct at_hand *h = at_hand_of();
	bool own;

	if (!t || !had || !row || !h || how == BPF_NOEXIST)
		return false;
	own = had->dport == row->dport && same_addr(&had->dst, &row->dst);
	if (own && had->sport == row->sport && same_addr(&had->src, &row->src))
		return true;
	if (how == BPF_ANY && had->flags & FLOW_REPLY) /* its backend is who sends this */
		return true;
	if (how == FOLLOW_OWN ? !own || !(had->flags & FLOW_CLOSED) : is_kept(had))
		return false;
	if (had->flags & FLOW_CLOSED)
		other_of(had, t->proto, &h->former);
	return true;
}

/* The way of a set, which is locked, for a new row; or why there is none, negated. */
static __always_inline int way_for(struct brief_set *set, const struct tuple *t,
				   const struct flow *row, __u32 how, __u32 tag)
{
	int i = way_in(set, t, tag);

	if (unlikely(i >= 0)) {
		if (may_follow(t, &set->slot[i].row, row, how))
			return i;
		return how == BPF_ANY ? -DROP_FLOWS_BUSY : -NOT_OURS;
	}
	if (how != BPF_ANY && unlikely(has_moved(set)) && bpf_map_lookup_elem(&live, t))
		return -NOT_OURS;
	i = free_way(set);
	if (i < 0)
		i = make_way_in(set);
	if (unlikely(i < 0))
		return -DROP_FLOWS_FULL;
	set->next = i + 1;
	return i;
}

/* Makes a flow's row in `brief`, over one that is there and that it may follow; NOT_OURS if it may
 * not. Unless how is BPF_ANY, it leaves one of `live`, too: none moves there meanwhile, as that
 * takes the lock of the same set. If the set is busy for long it makes none, and the packet has to
 * come again.
 */
__noinline int put_brief(const struct tuple *t, const struct flow *row, __u32 how)
{
	struct brief_set *set;
	struct home home;
	int i;

	if (!t || !row)
		return DROP_INTERNAL;
	home_of(t, config.brief_sets, config.brief_part, &home);
	set = bpf_map_lookup_elem(&brief, &home.set);
	if (!set)
		return DROP_INTERNAL;
	if (!lock_set(set))
		return DROP_FLOWS_BUSY;
	i = way_for(set, t, row, how, home.tag);
	if (unlikely(i < 0)) {
		unlock_set(set);
		return -i;
	}
	asm volatile("" : "+r"(i)); /* the verifier does not know how far it goes */
	i &= BRIEF_WAYS - 1;
	*(volatile __u32 *)&set->tag[i] = 0;
	set->slot[i].t = *t;
	asm volatile("" ::: "memory"); /* see copy_brief */
	set->slot[i].row = *row;
	set->use[i] = USE_NONE;
	set->known[i] = 0;
	__sync_lock_test_and_set(&set->tag[i], home.tag); /* after all before */
	unlock_set(set);
	return OK;
}

/* lock_set and unlock_set of the set of a place. */
static __always_inline bool lock_at(int place)
{
	struct brief_set *set = set_at(place);

	return set && lock_set(set);
}

static __always_inline void unlock_at(int place)
{
	struct brief_set *set = set_at(place);

	if (set)
		unlock_set(set);
}

/* Whether a place is that of tuple t, of the flow whose other row has tuple u. */
static __always_inline bool holds(int place, const struct tuple *t, const struct tuple *u)
{
	struct brief_set *set = set_at(place);

	if (!set)
		return false;
	asm volatile("" : "+r"(place));
	place &= BRIEF_WAYS - 1;
	return set->tag[place] && same_tuple(&set->slot[place].t, t) &&
	       leads_to(&set->slot[place].row, u);
}

/* Forgets a row of `brief`; u is the tuple of the flow's other row. NOT_OURS: it is not there.
 * DROP_FLOWS_BUSY: its set is busy for long, it may be about to move.
 */
__noinline int drop_brief(const struct tuple *t, const struct tuple *u)
{
	struct brief_set *set;
	int place, why = NOT_OURS;

	if (!t || !u)
		return DROP_INTERNAL;
	place = place_of(t);
	set = set_at(place);
	if (!set)
		return NOT_OURS;
	if (!lock_set(set))
		return DROP_FLOWS_BUSY;
	if (likely(holds(place, t, u))) {
		*(volatile __u32 *)&set->tag[place & (BRIEF_WAYS - 1)] = 0;
		why = OK;
	}
	unlock_set(set);
	return why;
}
