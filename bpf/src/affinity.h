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
	const union addr *addr;
	__u16 port;
	bool found;
};

/* Whether it is this slot; so it ends the search. */
static __noinline long is_slot(__u32 slot, struct search *s)
{
	struct backend *b;

	s->key.slot = slot;
	b = bpf_map_lookup_elem(&backends, &s->key);
	s->found = b && same_addr(&b->addr, s->addr) && b->port == s->port;
	return s->found;
}

/* The slot that a backend has in a set, perhaps the one that it had; -1: it has none any
 * more. One that is not ready, or ends, gets no new flows, but lives.
 */
__noinline int slot_in_set(__u64 id, const union addr *addr, __u16 port, __u32 had)
{
	struct search s = {.key.set = id, .addr = addr, .port = port};
	struct set *set = bpf_map_lookup_elem(&sets, &s.key.set); /* a copy of id is stack */

	if (!addr || !set)
		return -1;
	if (had < set->count && is_slot(had, &s))
		return had;
	bpf_loop(set->count, is_slot, &s, 0);
	return s.found ? (int)s.key.slot : -1;
}

/* The row of the backend that the client is to stay with; NULL: there is none any more. */
static __always_inline struct affinity *stay_of(const struct affinity_key *key, __u8 proto)
{
	struct affinity *row = bpf_map_lookup_elem(&affinity, key);
	int slot;

	if (!row || (__s32)(row->until - now_seconds()) <= 0 ||
	    !is_alive(&row->addr, row->port, proto, row->generation))
		return NULL;
	slot = slot_in_set(key->set, &row->addr, row->port, row->slot);
	if (slot < 0)
		return NULL;
	row->slot = slot;
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
