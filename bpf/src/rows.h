/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rows that Go sees. Fields are bytes or host order; padding is named. */
#pragma once
#include "kernel.h"

/* An address: IPv6, or IPv4 as ::ffff:a.b.c.d. */
union addr {
	__u8 b[16];
	__u32 w[4];
	__u64 d[2];
};

union mac {
	__u8 b[6];
	__u16 h[3];
};

/* Endpoint flags; bpf.EndpointStack, bpf.EndpointHost. */
enum {
	EP_STACK = 1 << 0,
	EP_HOST = 1 << 1,
};

struct endpoint {
	__u32 ifindex;
	union mac mac; /* followed by host_mac: an Ethernet header's first 12 bytes */
	union mac host_mac;
	__u32 flags;
	__u32 pad;
	__u64 ingress; /* set of rules for what reaches the pod; 0: everything may */
	__u64 egress;  /* for what the pod sends */
};

/* Peer flags; bpf.PeerDirect, bpf.PeerMute. */
enum {
	PEER_DIRECT = 1 << 0,
	PEER_MUTE = 1 << 1, /* what it sends from others' addresses does not arrive */
};

struct prefix {
	__u32 bits;
	__u8 addr[16];
};

struct peer {
	union addr remote;
	union addr local;
	union addr next_hop;
	__u32 ifindex;
	__u32 mtu; /* biggest inner IP packet */
	__u32 flags;
	union mac mac;	   /* inner destination, followed by src_mac as on the wire */
	union mac src_mac; /* inner source: this node's, first byte 0x0a */
};

/* Set before load. */
struct config {
	__u32 vni;
	__u16 port;	/* host order */
	bool netfilter; /* see by_netfilter */
	__u8 pad;
	__u64 netns_cookie; /* of the node's own network namespace */
	__u32 ended;	    /* size of the map of that name */
	__u32 allowed_sets; /* of allowed_new */
	__u32 allowed_part; /* the part of 2^32 that each has, rounded up: see home.h */
	__u32 brief_sets;   /* of brief */
	__u32 brief_part;
	__u32 endpoint_slots; /* size of endpoints, a power of two */
	__u16 announce_port;  /* host order; UDP, see announce.h */
	__u16 pad2;
	__u32 pad3;
};

/* Of packets that one node passes on to another as they came from outside (passed.h). */
#define VNI_PASSED (config.vni + 1)

volatile const struct config config = {
	.vni = 87,
	.port = 8872,
	.ended = 16384,
	.allowed_sets = 16384,
	.allowed_part = 1 << 18,
	.brief_sets = 8192,
	.brief_part = 1 << 19,
	.endpoint_slots = 4096,
	.announce_port = 8874,
};

__u32 taken_over; /* written by the daemon */

/* Whether another program serves Services, by the node's netfilter (kube-proxy), or did
 * until a moment ago: its flows go on there.
 */
static __always_inline bool by_netfilter(void)
{
	return config.netfilter && !taken_over;
}

/* What a slot holds; ../slots.go. The lowest bit says which of both rows it is, or was: so a
 * row is replaced at once, and who reads one that goes has it whole.
 */
enum {
	SLOT_FREE = 0,
	SLOT_LEFT = 2,	 /* nothing any more, but others may be behind it */
	SLOT_HELD = 4,	 /* a row, from here on */
	SLOT_TRIES = 64, /* slots that an address may be in */
};

struct endpoint_slot {
	union addr addr;
	__u64 state;
	struct endpoint row[2];
};

/* Written by the daemon; one row per pod address and per address of the node, in the first
 * slot that was free from that of the address's hash on. All packets look here, most of them
 * more than once; a program finds a slot by itself, where a map of hashes is a call.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct endpoint_slot);
	__uint(max_entries, 4096); /* a power of two; replaced at load by the setting */
	__uint(map_flags, BPF_F_MMAPABLE);
} endpoints SEC(".maps");

/* Written by the daemon; one row per pod prefix of another node. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix);
	__type(value, struct peer);
	__uint(max_entries, 8192); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} peers SEC(".maps");

/* Written by the daemon; one row per address of another node: our address towards it, or
 * zero if the overlay does not use that address. Read only for what is passed on.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, union addr);
	__type(value, union addr);
	__uint(max_entries, 8192); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} nodes SEC(".maps");

static __always_inline bool same_addr(const union addr *a, const union addr *b)
{
	return a->d[0] == b->d[0] && a->d[1] == b->d[1];
}

static __always_inline __u64 mix(__u64 h, __u64 v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15;
	return h ^ h >> 29;
}

static __always_inline __u32 first_slot(const union addr *addr)
{
	return (mix(addr->d[0], addr->d[1]) >> 32) * config.endpoint_slots >> 32;
}

static __always_inline __u64 state_of(const struct endpoint_slot *slot)
{
	return *(const volatile __u64 *)&slot->state;
}

/* The slot of an address that is not in its first one; or none that there is. */
__noinline int slot_of(const union addr *addr)
{
	struct endpoint_slot *slot;
	__u64 state;
	__u32 at, i;

	if (!addr)
		return -1;
	at = first_slot(addr);
	for (i = 1; i < SLOT_TRIES; i++) {
		at = (at + 1) & (config.endpoint_slots - 1);
		slot = bpf_map_lookup_elem(&endpoints, &at);
		state = slot ? state_of(slot) : SLOT_FREE;
		if (state < SLOT_LEFT)
			return -1;
		if (same_addr(&slot->addr, addr) && state >= SLOT_HELD)
			return at;
	}
	return -1;
}

static __always_inline struct endpoint *endpoint_of(const union addr *addr)
{
	__u32 at = first_slot(addr);
	struct endpoint_slot *slot = bpf_map_lookup_elem(&endpoints, &at);
	__u64 state = slot ? state_of(slot) : SLOT_FREE;

	if (slot && unlikely(!same_addr(&slot->addr, addr) || state < SLOT_HELD)) {
		if (state < SLOT_LEFT)
			return NULL;
		at = slot_of(addr);
		slot = bpf_map_lookup_elem(&endpoints, &at);
		state = slot ? state_of(slot) : SLOT_FREE;
	}
	return slot ? &slot->row[state & 1] : NULL;
}

static __always_inline struct peer *peer_of(const union addr *addr)
{
	struct prefix key = {.bits = 128};

	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	return bpf_map_lookup_elem(&peers, &key);
}

/* ::ffff:0:0/96 */
static __always_inline bool is_v4(const union addr *a)
{
	return a->d[0] == 0 && a->w[2] == htonl(0xffff);
}

static __always_inline union addr addr_of_v4(__u32 be)
{
	return (union addr){.w = {0, 0, htonl(0xffff), be}};
}

static __always_inline union addr addr_of_v6(const __u32 *w)
{
	return (union addr){.w = {w[0], w[1], w[2], w[3]}};
}
