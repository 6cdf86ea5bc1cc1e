/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Why a packet did not take the direct way. Names in ../counters.go. */
#pragma once
#include "kernel.h"
#include "record.h"

enum reason {
	OK, /* not counted */

	/* Dropped. */
	DROP_TRUNCATED,
	DROP_BAD_HEADER,
	DROP_BAD_LENGTH,
	DROP_BAD_CHECKSUM,
	DROP_NOT_IP,
	DROP_SPOOFED_ADDRESS,
	DROP_SPOOFED_MAC,
	DROP_LINK_LOCAL,
	DROP_BAD_NEIGHBOUR,
	DROP_VXLAN_FLAGS,
	DROP_VXLAN_VNI,
	DROP_UNKNOWN_SENDER,
	DROP_NO_PEER,
	DROP_NO_TUNNEL,
	DROP_CONGESTION,
	DROP_OVERLAY_PORT,
	DROP_FRAGMENT,
	DROP_SOURCE_RANGE,
	DROP_NO_LOCAL_BACKEND,
	DROP_FLOWS_FULL,
	DROP_FLOWS_BUSY,
	DROP_PORTS_FULL,
	DROP_NO_ROUTE,
	DROP_SERVICE_PROTOCOL,
	DROP_POLICY_INGRESS,
	DROP_POLICY_EGRESS,
	DROP_POLICY_CLOSED,
	DROP_PASSAGE,
	DROP_INTERNAL,

	/* Dropped, and the sender is told. */
	REJECT_FIRST,
	REJECT_NO_BACKEND = REJECT_FIRST,
	REJECT_NO_PORT,
	REJECT_BACKEND_GONE,
	REJECT_TOO_BIG,

	/* Left to the stack. */
	STACK_FIRST,
	STACK_TTL = STACK_FIRST,
	STACK_OPTIONS,
	STACK_TOO_BIG,
	STACK_FRAGMENT,
	STACK_LIMITED,
	STACK_SEGMENTS,
	STACK_NO_LINK,
	STACK_NO_ROOM,
	STACK_NETFILTER,

	REASONS,

	NOT_OURS, /* not counted: no Service's and no translated flow's */
	PASS_ON,  /* not counted: another node translates it, see pass.h */
	DONE,	  /* not counted: see turn and judge_delivered */
	BEGINS,	  /* not counted: a new flow, to be made by begin_flow */
};

/* Written by the programs, read by the daemon; packets by reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum reason);
	__type(value, __u64);
	__uint(max_entries, REASONS);
} counters SEC(".maps");

static __always_inline void count(enum reason why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&counters, &key);

	if (n)
		++*n;
}

/* The one way to drop, and the one way to give up the direct way. */
static __always_inline int give_up(struct __sk_buff *skb, enum reason why)
{
	bool judged = why == DROP_POLICY_INGRESS || why == DROP_POLICY_EGRESS ||
		      why == DROP_POLICY_CLOSED;

	count(why);
	if (why >= STACK_FIRST && why < REASONS)
		return TCX_NEXT;
	record_drop(skb, why, judged);
	return TCX_DROP;
}
