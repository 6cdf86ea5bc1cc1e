/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Conntrack of policy: the flows that policies let pass, of isolated pods only. Each pod
 * has a row of its own for a flow: the pod's end is the tuple's source, the other end, as
 * the pod's policies see it, its destination. New flows are in `allowed_new`, where a
 * flood pushes out its like; one that both ends have spoken in moves to `allowed`, from
 * which nothing is pushed out, and back when it has ended.
 */
#pragma once
#include "flow.h"
#include "kernel.h"
#include "rows.h"

/* In ../allowed.go, too. */
enum {
	ALLOWED_BY_POD = 1 << 0,   /* the pod has begun it; else the other end has */
	ALLOWED_ANSWERED = 1 << 1, /* who has not begun it has sent, too */
	ALLOWED_POD_FIN = 1 << 2,  /* the pod has ended its direction (TCP) */
	ALLOWED_PEER_FIN = 1 << 3, /* the other end has */
	ALLOWED_CLOSED = 1 << 4,   /* both have, or one has reset it */
	ALLOWED_ALWAYS = 1 << 5,   /* no policy forbids it */
};

struct allowed {
	__u32 revision; /* of policies, by which it was judged */
	__u32 seen;	/* when a packet passed, in units of 2^30 ns of uptime */
	__u32 flags;
	__u32 pad;
};

/* Written by the programs; the daemon removes what has been silent too long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct allowed);
	__uint(max_entries, 262144); /* replaced at load by the setting */
	__uint(map_flags, BPF_F_NO_PREALLOC);
} allowed SEC(".maps");

/* Written by the programs; new flows and those that have ended, the oldest go first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct tuple);
	__type(value, struct allowed);
	__uint(max_entries, 65536); /* replaced at load by the setting */
} allowed_new SEC(".maps");

/* Raised by the daemon after each change of policies: a flow that was judged before is
 * judged again by its next packet. A daemon begins with another number than those before
 * it ended with.
 */
__u32 policy_revision;
