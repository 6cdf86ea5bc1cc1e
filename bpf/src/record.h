/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is told of each packet that is dropped, for people: ../records.go reads it. */
#pragma once
#include "kernel.h"
#include "rows.h"

enum {
	RECORD_HEAD = 128, /* an outer IPv6 header, VXLAN, an inner one and its ports: 122 */
};

/* How a pod's policies judged: its end and the other one, as they saw them. */
struct judgement {
	union addr local;
	union addr remote;
	__u64 set;   /* 0: no policy has to do with it */
	__u16 lport; /* host order */
	__u16 rport;
	__u16 rule; /* index in the set, or RULE_NONE */
	__u8 proto;
	__u8 ingress;
};

struct record {
	__u64 time; /* ns of CLOCK_MONOTONIC */
	struct judgement by;
	__u32 ifindex;
	__u32 size;   /* of the packet, from its IP header */
	__u16 reason; /* enum reason */
	__u16 len;    /* bytes in head */
	__u32 pad;
	__u8 head[RECORD_HEAD]; /* the packet's first bytes, from its IP header */
};

const struct record *record_type __attribute__((unused)); /* so that Go knows it */

/* Written by the programs. When nobody reads it is full, and what follows is left out. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} records SEC(".maps");

/* Written by the programs, read by the daemon: packets that were dropped without a record. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} records_lost SEC(".maps");

/* How many records a processor has written in this part of time, of 2^27 ns. */
struct budget {
	__u64 part;
	__u32 used;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct budget);
	__uint(max_entries, 1);
} records_budget SEC(".maps");

volatile const __u32 records_rate = 134; /* of the node in each part; set before load */

/* The node's budget, which only those ask that their own lets: so a flood on all
 * processors does not fight for it.
 */
__u64 records_part;
__u32 records_used;

/* The number of a record in its part of time, from 0; or records_rate: there may be no
 * more. Two processors that begin a part at once may let a few more pass.
 */
static __always_inline __u32 number_record(void)
{
	__u64 part = bpf_ktime_get_coarse_ns() >> 27;
	__u32 key = 0, n;
	struct budget *own = bpf_map_lookup_elem(&records_budget, &key);

	if (!own)
		return records_rate;
	if (own->part != part) {
		own->part = part;
		own->used = 0;
	}
	if (own->used >= records_rate)
		return records_rate;
	own->used++;
	if (records_part != part) {
		records_part = part;
		records_used = 0;
	}
	n = __sync_fetch_and_add(&records_used, 1);
	return n < records_rate ? n : records_rate;
}

/* In allowed.h: what was judged last on this processor. */
__noinline int tell_judgement(struct judgement *by);

static __always_inline void lose_record(void)
{
	__u32 key = 0;
	__u64 *n = bpf_map_lookup_elem(&records_lost, &key);

	if (n)
		++*n;
}

/* Tells of a packet that is dropped, just now by a policy or not. The first of each part
 * of time wakes the reader up, who then looks again for as long as a part is.
 */
__noinline int record_drop(struct __sk_buff *skb, __u32 why, bool judged)
{
	__u32 number = number_record(), len;
	struct record *r;

	if (number >= records_rate) {
		lose_record();
		return 0;
	}
	r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);
	if (!r) {
		lose_record();
		return 0;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->time = bpf_ktime_get_ns();
	if (judged)
		tell_judgement(&r->by);
	r->ifindex = skb->ifindex;
	r->reason = why;
	r->size = skb->len - ETH_HLEN;
	len = r->size;
	if (len > RECORD_HEAD)
		len = RECORD_HEAD;
	if (len > 0 && !bpf_skb_load_bytes(skb, ETH_HLEN, r->head, len))
		r->len = len;
	bpf_ringbuf_submit(r, number ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP);
	return 0;
}
