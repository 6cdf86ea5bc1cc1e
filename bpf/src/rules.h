/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What policies say: the class of an address, and the rules of a set for a class. Both
 * maps are written by the daemon, rules before classes; a set is named by its content, so
 * its rows never change. Looking here changes nothing.
 */
#pragma once
#include "kernel.h"
#include "rows.h"

/* Sets of rules that the daemon does not name by a hash; bpf.RuleSet. */
enum {
	RULES_NONE = 0,	  /* not isolated: everything passes */
	RULES_CLOSED = 1, /* not known yet: nothing passes */
};

/* bpf.Verdict */
enum {
	VERDICT_NONE,
	VERDICT_ALLOW,
	VERDICT_DENY,
};

enum {
	RULES_PER_ROW = 8,
	RULE_NONE = 0xffff, /* the index of no rule */
	RULE_BLOCKS = 8192, /* of one set and class: as many as there are indexes */
};

struct rules_key {
	__u64 set;
	__u64 class;
	__u32 block;
	__u32 pad;
};

/* Ports of the pod in a set of ingress, of the peer in one of egress. */
struct rule {
	__u16 first;
	__u16 last;
	__u16 index;
	__u8 proto; /* 0: any, also those without ports, which have port 0 */
	__u8 verdict;
};

struct rules {
	struct rule rule[RULES_PER_ROW];
};

/* One row per address or block that a policy's selectors match. Row by row, about 100
 * bytes each.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix);
	__type(value, __u64);
	__uint(max_entries, 524288); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} classes SEC(".maps");

/* One row per set, class and eight rules. Row by row, about 140 bytes each. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct rules_key);
	__type(value, struct rules);
	__uint(max_entries, 524288); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} rules SEC(".maps");

/* Of an address; 0 if no policy of this node names it. */
static __always_inline __u64 class_of(const union addr *addr)
{
	struct prefix key = {.bits = 128};
	__u64 *class;

	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	class = bpf_map_lookup_elem(&classes, &key);
	return class ? *class : 0;
}

/* What rules say: the index of the one that decided, and its verdict in the low byte. */
static __always_inline __u32 found(__u32 index, __u32 verdict)
{
	return index << 8 | verdict;
}

/* Whether a protocol is one of IPv6's headers before the one that has the ports, of which
 * nobody looks behind it here: the packet may be what any rule is about.
 */
static __always_inline bool is_hidden(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_FRAGMENT ||
	       proto == IPPROTO_DSTOPTS;
}

/* The first rule of a row that matches; 0: none does, and another row may follow. What is
 * hidden matches all rules that deny.
 */
static __always_inline __u32 match(const struct rules *row, __u16 port, __u8 proto)
{
	bool hidden = is_hidden(proto);

	for (int i = 0; i < RULES_PER_ROW; i++) {
		const struct rule *r = &row->rule[i];

		if (!r->verdict)
			return found(RULE_NONE, VERDICT_DENY);
		if ((!r->proto || r->proto == proto) && port >= r->first && port <= r->last)
			return found(r->index, r->verdict);
		if (unlikely(hidden) && r->verdict == VERDICT_DENY)
			return found(r->index, r->verdict);
	}
	return 0;
}

/* What is looked for in a set: the rule for a class, a port and a protocol. */
struct walk {
	struct rules_key key;
	__u16 port;
	__u8 proto;
	__u8 pad;
	__u32 found;
};

/* One row after the first; not 0 ends the walk. */
static __noinline long walk_on(__u32 i, struct walk **at)
{
	struct walk *w = *at;
	struct rules *row;

	w->key.block = i + 1;
	row = bpf_map_lookup_elem(&rules, &w->key);
	w->found = row ? match(row, w->port, w->proto) : found(RULE_NONE, VERDICT_DENY);
	return w->found != 0;
}

/* What a set says; the walk's key is at block 0 of it. A class that has no rows of its own
 * is treated as class 0. What no rule matches is denied.
 */
__noinline __u32 verdict_of(struct walk *w)
{
	struct rules *row;

	if (!w || w->key.set == RULES_CLOSED)
		return found(RULE_NONE, VERDICT_DENY);
	if (w->key.set == RULES_NONE)
		return found(RULE_NONE, VERDICT_ALLOW);
	row = bpf_map_lookup_elem(&rules, &w->key);
	if (!row && w->key.class) {
		w->key.class = 0;
		row = bpf_map_lookup_elem(&rules, &w->key);
	}
	if (!row)
		return found(RULE_NONE, VERDICT_DENY);
	w->found = match(row, w->port, w->proto);
	if (unlikely(!w->found))
		bpf_loop(RULE_BLOCKS, walk_on, &w, 0); /* takes the stack only */
	return w->found ? w->found : found(RULE_NONE, VERDICT_DENY);
}
