/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The choice of a backend: shared by the socket's programs and the packets'. */
#pragma once
#include "kernel.h"
#include "rows.h"
#include "service.h"

static __always_inline struct set *set_of(__u64 id)
{
	return bpf_map_lookup_elem(&sets, &id);
}

/* The set for what a socket sends: the node's own, or a pod's. */
static __always_inline __u64 set_at_socket(const struct frontend *frontend, bool host)
{
	return unlikely(host && frontend->host) ? frontend->host : frontend->inside;
}

/* The backend in slot hash % count; NULL if the set has none. A set that shrinks has its
 * count written first and its last slots removed after: then count is read again.
 */
static __always_inline struct backend *choose(__u64 set_id, const struct set *set, __u32 hash)
{
	const volatile __u32 *count = &set->count;
	struct backend_key key = {.set = set_id};
	struct backend *backend;
	__u32 n = *count;

	if (!n)
		return NULL;
	key.slot = hash % n;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (likely(backend))
		return backend;
	n = *count;
	if (!n)
		return NULL;
	key.slot = hash % n;
	return bpf_map_lookup_elem(&backends, &key);
}

/* Whether a backend that was chosen before may keep its flows. */
static __always_inline bool is_alive(const union addr *addr, __u16 port, __u8 proto,
				     __u32 generation)
{
	struct alive_key key = {.addr = *addr, .port = port, .proto = proto};
	const __u32 *now = bpf_map_lookup_elem(&alive, &key);

	return now && *now == generation;
}

/* How often `alive` has been changed; never 0, if that is known. */
static __always_inline __u16 alive_now(void)
{
	const volatile __u32 *revision;
	__u32 key = 0;

	revision = bpf_map_lookup_elem(&alive_revision, &key);
	return revision ? *revision : 0;
}

/* The backend of a set by the hash of the flow: every node's choice (Maglev, NSDI 2016). */
static __always_inline struct backend *choose_alike(__u64 set_id, const struct set *set, __u32 hash)
{
	struct maglev_key key = {.set = set_id};
	struct backend_key slot = {.set = set_id};
	__u32 size = set->maglev, at;
	struct maglev *row;

	if (!size)
		return choose(set_id, set, hash);
	at = hash % size;
	key.block = at / MAGLEV_BLOCK;
	row = bpf_map_lookup_elem(&maglev, &key);
	if (unlikely(!row))
		return choose(set_id, set, hash);
	slot.slot = row->slot[at % MAGLEV_BLOCK];
	return bpf_map_lookup_elem(&backends, &slot);
}

/* Counts a flow that begins at a place. Only this field of the row is not the daemon's. */
static __always_inline void count_begun(const struct frontend *frontend)
{
	__sync_fetch_and_add((__u64 *)&frontend->begun, 1);
}
