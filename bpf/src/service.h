/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services: what is reached where, and by which backends. All maps here are written by
 * the daemon, in this order: alive, backends, maglev, ranges, sets, frontends.
 */
#pragma once
#include "kernel.h"
#include "rows.h"

/* Where a Service is reached. Port and protocol 0: any that has no row of its own on an
 * address that nobody else has: a ClusterIP, or a load balancer's that Weft gives.
 */
struct frontend_key {
	union addr addr;
	__u16 port; /* host order */
	__u8 proto;
	__u8 pad;
	__u32 pad2;
};

struct frontend {
	__u64 begun;	/* flows that got a backend since the row was written; the programs count */
	__u64 inside;	/* set for what pods and the node itself send; 0: others serve it */
	__u64 outside;	/* set for what comes from elsewhere; 0: nothing, not ours */
	__u64 host;	/* set for what the node itself sends at a socket; 0: as inside */
	__u64 ranges;	/* sources must be in these ranges; 0: any */
	__u32 affinity; /* seconds that a client stays with its backend; 0: none */
	__u32 flags;
};

/* Frontend flags; bpf.FrontendPass and so on. */
enum {
	FRONTEND_PASS = 1 << 0,	     /* from outside: the backend's node gets it as it came */
	FRONTEND_HOST_PORT = 1 << 1, /* a pod's host port: see is_left */
};

/* Whether flows to a place are netfilter's, or those are that began until a moment ago: those
 * to a host port never are.
 */
static __always_inline bool is_left(const struct frontend *fe)
{
	return by_netfilter() && !(fe->flags & FRONTEND_HOST_PORT);
}

/* Set flags; bpf.SetDrop. */
enum {
	SET_DROP = 1 << 0, /* without backends: drop, as others may have some, not reject */
};

/* Backends to choose from. Sets are named by a hash of what they are. */
struct set {
	__u32 count;
	__u32 maglev; /* size of the Maglev table; 0: none */
	__u32 flags;
	__u32 pad;
};

struct backend_key {
	__u64 set;
	__u32 slot;
	__u32 pad;
};

struct backend {
	union addr addr;
	__u16 port; /* host order */
	__u16 pad;
	__u32 generation; /* of what has this address now; another pod, another one */
};

enum {
	MAGLEV_BLOCK = 64,
};

struct maglev_key {
	__u64 set;
	__u32 block;
	__u32 pad;
};

struct maglev {
	__u16 slot[MAGLEV_BLOCK];
};

struct alive_key {
	union addr addr;
	__u16 port; /* host order */
	__u8 proto;
	__u8 pad;
	__u32 pad2;
};

struct range_key {
	__u32 bits; /* 64 and those of the prefix */
	__u8 ranges[8];
	__u8 addr[16];
};

/* One row per Service address and port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} frontends SEC(".maps");

enum {
	PLACE_WORDS = 16384,
};

/* Whether there may be frontends of an address, a bit by a hash of it: packets to most
 * addresses need no look at them before others. Bits are set before frontends are, and
 * stay; one too many costs a few lookups, and one too few, too.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, PLACE_WORDS);
} places SEC(".maps");

static __always_inline bool may_be_place(const union addr *addr)
{
	__u64 hash = mix(addr->d[0], addr->d[1]);
	__u32 key = hash >> 50;
	__u64 *word = bpf_map_lookup_elem(&places, &key);

	return word && *word >> (hash >> 44 & 63) & 1;
}

/* One row per Service port, family and policy. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct set);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct backend_key);
	__type(value, struct backend);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} backends SEC(".maps");

/* Of the sets that are reached from outside: there every node must choose alike. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct maglev_key);
	__type(value, struct maglev);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} maglev SEC(".maps");

/* The generation of each backend that may keep its flows: chosen or not. A flow to one
 * that is not here, or of another generation, ends.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct alive_key);
	__type(value, __u32);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} alive SEC(".maps");

/* How often `alive` has been changed: written by the daemon after that. What was known of a
 * backend before is to be looked up again. Its lower half counts, and is not 0.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} alive_revision SEC(".maps");

/* loadBalancerSourceRanges. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct range_key);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} ranges SEC(".maps");
