/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Session affinity: which backend a client stays with. */
#pragma once
#include "kernel.h"
#include "rows.h"
#include "service.h"
#include "choose.h"

struct affinity_key {
	__u64 set;
	union addr client; /* zero: the node itself */
};

struct affinity {
	union addr addr;
	__u16 port; /* host order */
	__u16 pad;
	__u32 generation;
	__u32 until; /* seconds of bpf_ktime_get_ns */
	__u32 slot;  /* where the set had it when looked at last */
};

/* Written by the programs; one row per client of a Service port. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	__uint(max_entries, 65536); /* 8 MB, allocated at once */
} affinity SEC(".maps");

static __always_inline __u32 now_seconds(void)
{
	return bpf_ktime_get_ns() / 1000000000;
}

/* What is looked for in a set: a backend's slot. */
struct search {
	struct backend_key key;
	const struct affinity *row;
	bool found;
};

/* Whether it is this slot; so it ends the search. */
static __noinline long is_slot(__u32 slot, struct search **at)
{
	struct search *s = *at;
	struct backend *b;

	s->key.slot = slot;
	b = bpf_map_lookup_elem(&backends, &s->key);
	s->found = b && same_addr(&b->addr, &s->row->addr) && b->port == s->row->port;
	return s->found;
}

/* Whether a set still has the backend of a row, in whatever slot: one that is not ready, or
 * ends, gets no new flows, but lives.
 */
__noinline int may_choose(const struct affinity_key *key, struct affinity *row)
{
	struct search s = {}, *at = &s;
	struct set *set;

	if (!key || !row)
		return false;
	set = set_of(key->set);
	if (!set)
		return false;
	s.key.set = key->set;
	s.row = row;
	if (row->slot < set->count && is_slot(row->slot, &at))
		return true;
	bpf_loop(set->count, is_slot, &at, 0); /* takes the stack only */
	if (s.found)
		row->slot = s.key.slot;
	return s.found;
}

/* The row of the backend that the client is to stay with; NULL: there is none any more. */
static __always_inline struct affinity *stay_of(const struct affinity_key *key, __u8 proto)
{
	struct affinity *row = bpf_map_lookup_elem(&affinity, key);

	if (!row || (__s32)(row->until - now_seconds()) <= 0 ||
	    !is_alive(&row->addr, row->port, proto, row->generation) || !may_choose(key, row))
		return NULL;
	return row;
}

static __always_inline struct backend stayed_with(const struct affinity *row)
{
	return (struct backend){
		.addr = row->addr, .port = row->port, .generation = row->generation};
}

/* Gives the backend that the client is to stay with, and lets it stay so many seconds
 * from now; false if there is none any more.
 */
static __always_inline bool stays_with(const struct affinity_key *key, __u8 proto, __u32 seconds,
				       struct backend *to)
{
	struct affinity *row = stay_of(key, proto);

	if (!row)
		return false;
	row->until = now_seconds() + seconds;
	*to = stayed_with(row);
	return true;
}

/* Lets the client stay with a backend for so many seconds from now. */
static __always_inline void stay_with(const struct affinity_key *key, __u32 seconds,
				      const struct backend *to)
{
	struct affinity row = {
		.addr = to->addr,
		.port = to->port,
		.generation = to->generation,
		.until = now_seconds() + seconds,
	};

	bpf_map_update_elem(&affinity, key, &row, BPF_ANY);
}
