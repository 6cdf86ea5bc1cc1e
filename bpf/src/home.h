/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Tables of flows that are written like memory and not like maps of the kernel's: a flow has
 * its place in one set, by a hash of its tuple.
 */
#pragma once
#include "kernel.h"
#include "rows.h"

struct tuple {
	union addr src;
	union addr dst;
	__u16 sport; /* host order */
	__u16 dport;
	__u8 proto;
	__u8 pad[3];
};

/* What the words of an address and a port are multiplied by: not known outside, so nobody
 * can choose flows that are in one set, but for the ports of one client to one port (Lemire and
 * Kaser, Strongly universal string hashing is fast, 2014).
 */
struct tuple_keys {
	__u64 addr[4];
	__u64 port;
};

volatile const struct tuple_keys tuple_keys = {{1, 1, 1, 1}, 1}; /* set before load */

static __always_inline bool same_tuple(const struct tuple *a, const struct tuple *b)
{
	return same_addr(&a->src, &b->src) && same_addr(&a->dst, &b->dst) && a->sport == b->sport &&
	       a->dport == b->dport && a->proto == b->proto;
}

/* A tuple's place: its set, by its index, and its tag there. */
struct home {
	__u32 set;
	__u32 tag;
	__u32 twin; /* the tag of the other direction's tuple, in the same set */
};

static __always_inline __u64 hash_of_addr(const union addr *addr)
{
	__u64 h = 0;
	__u32 i;

#pragma unroll
	for (i = 0; i < 4; i++)
		h += addr->w[i] * tuple_keys.addr[i];
	return h;
}

static __always_inline __u64 folded(__u64 h)
{
	return h ^ h >> 32;
}

/* How many sets a port is from that of port 0. Of 32 in a row, four are in each of eight sets,
 * and no two of eight in a row, nor of eight that are even, as Linux takes them.
 */
static __always_inline __u32 step_of(__u32 port)
{
	return port >> 5 << 3 | (port + (port >> 3) & 7);
}

/* The set of a tuple, of so many, each of which has a part of 2^32, and its tag there.
 * Both tuples of a flow that is not translated are in the same set. Flows from ports that follow
 * each other, as those of a client do, to one port of one address, are in sets that are near each
 * other: on a page whose address is known, and often in the cache. (One miss was a fifth of all
 * that policies cost a connection.) The higher port is the client's, nearly always.
 */
static __always_inline void find_home(const struct tuple *t, __u32 sets, __u32 part,
				      struct home *home)
{
	__u64 src, dst, h;
	__u32 at;

	src = hash_of_addr(&t->src);
	dst = hash_of_addr(&t->dst);
	at = t->sport < t->dport ? t->sport : t->dport;
	h = mix(folded(src) + folded(dst) + folded(at * tuple_keys.port), t->proto);
	home->tag = (__u32)(h + folded(src + t->sport * tuple_keys.port)) | 1;
	home->twin = (__u32)(h + folded(dst + t->dport * tuple_keys.port)) | 1;
	at ^= t->sport ^ t->dport; /* the higher one */
	at = (h >> 32) + step_of(at) * part;
	home->set = (__u64)at * sets >> 32;
}

/* The same where the stack is short. */
__noinline int home_of(const struct tuple *t, __u32 sets, __u32 part, struct home *home)
{
	if (t && home)
		find_home(t, sets, part, home);
	return 0;
}
