/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Whether rows of maps that only the daemon writes are what it wrote: to look each one up here
 * costs a tenth of a system call, and needs no walk through all buckets of maps that have
 * millions and are nearly empty. ../check.go asks.
 */
#pragma once
#include "announce.h"
#include "rows.h"
#include "rules.h"
#include "service.h"

/* Name, map, key, value, from which byte of the value on it is the daemon's, and what else must be
 * so.
 */
/* clang-format off */
#define CHECKS(check)                                                                        \
	check(CHECK_PEERS, peers, struct prefix, struct peer, 0, exact)                      \
	check(CHECK_NODES, nodes, union addr, union addr, 0, always)                         \
	check(CHECK_ALIVE, alive, struct alive_key, __u32, 0, always)                        \
	check(CHECK_BACKENDS, backends, struct backend_key, struct backend, 0, always)       \
	check(CHECK_MAGLEV, maglev, struct maglev_key, struct maglev, 0, always)             \
	check(CHECK_RANGES, ranges, struct range_key, __u32, 0, exact)                       \
	check(CHECK_SETS, sets, __u64, struct set, 0, always)                                \
	check(CHECK_FRONTENDS, frontends, struct frontend_key, struct frontend, BEGUN, marked) \
	check(CHECK_CLASSES, classes, struct prefix, __u64, 0, exact)                        \
	check(CHECK_RULES, rules, struct rules_key, struct rules, 0, always)                 \
	check(CHECK_ANNOUNCED, announced, union addr, struct announced, 0, always)
/* clang-format on */

#define BEGUN		     sizeof(__u64) /* the programs write it */
#define always(map, key, is) true
#define marked(map, key, is) may_be_place(&(key)->addr)

/* A trie tells the longest prefix that matches. If one bit less finds the same row, it is that of
 * a shorter prefix.
 */
#define exact(map, key, is)                                                \
	({                                                                 \
		bool is_exact = !(key)->bits;                              \
		if (!is_exact) {                                           \
			(key)->bits--;                                     \
			is_exact = bpf_map_lookup_elem(&map, key) != (is); \
			(key)->bits++;                                     \
		}                                                          \
		is_exact;                                                  \
	})

#define NUMBER(name, ...) name,
enum checked_map { CHECK_NOTHING, CHECKS(NUMBER) };

enum {
	CHECK_BYTES = 65536 - 8,
};

/* The question, written by the daemon: rows one after the other, key and value of each,
 * both filled up to 8 bytes.
 */
struct checked {
	enum checked_map map;
	__u32 count;
	__u8 rows[CHECK_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct checked);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} checked SEC(".maps");

static __always_inline struct checked *checked_rows(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&checked, &key);
}

/* Whether two rows differ from a byte on; all is a multiple of four. */
static __always_inline bool differ(const void *a, const void *b, __u32 from, __u32 size)
{
	__u32 bits = 0, i;

#pragma unroll
	for (i = from; i < size; i += 4)
		bits |= *(const __u32 *)(a + i) ^ *(const __u32 *)(b + i);
	return bits;
}

#define FILLED(type) ((sizeof(type) + 7) / 8 * 8)

/* A function that counts row i in *wrong if the map does not have it as the question does. */
#define LOOK_AT(name, map, key_t, value_t, from, also)                                       \
	_Static_assert(sizeof(value_t) % 4 == 0, "differ compares words");                   \
	static long look_at_##map(__u32 i, __u32 *wrong)                                     \
	{                                                                                    \
		__u32 at = i * (FILLED(key_t) + FILLED(value_t));                            \
		struct checked *c = checked_rows();                                          \
		const value_t *is, *should;                                                  \
		key_t *key;                                                                  \
                                                                                             \
		if (!c || at > CHECK_BYTES - FILLED(key_t) - FILLED(value_t)) {              \
			++*wrong;                                                            \
			return 1;                                                            \
		}                                                                            \
		key = (void *)(c->rows + at);                                                \
		should = (const void *)(c->rows + at + FILLED(key_t));                       \
		is = bpf_map_lookup_elem(&map, key);                                         \
		if (!is || differ(is, should, from, sizeof(value_t)) || !also(map, key, is)) \
			++*wrong;                                                            \
		return 0;                                                                    \
	}

CHECKS(LOOK_AT)

#define LOOK_AT_ALL(name, map, ...)                           \
	case name:                                            \
		bpf_loop(c->count, look_at_##map, &wrong, 0); \
		break;

/* Never attached: the daemon runs it (PROG_TEST_RUN). How many of the rows in `checked` the map
 * has not, or not so; -1: no such map.
 */
SEC("tcx/ingress")
int check(struct __sk_buff *skb __attribute__((unused)))
{
	struct checked *c = checked_rows();
	__u32 wrong = 0;

	if (!c)
		return -1;
	switch (c->map) {
		CHECKS(LOOK_AT_ALL)
	default:
		return -1;
	}
	return wrong;
}
