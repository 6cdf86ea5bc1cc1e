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
