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
	__u32 pad2;
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

/* The row of the backend that the client is to stay with; NULL: there is none any more. */
static __always_inline struct affinity *stay_of(const struct affinity_key *key, __u8 proto)
{
	struct affinity *row = bpf_map_lookup_elem(&affinity, key);

	if (!row || (__s32)(row->until - now_seconds()) <= 0 ||
	    !is_alive(&row->addr, row->port, proto, row->generation))
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
