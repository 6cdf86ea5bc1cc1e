/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Conntrack of policy: the flows that policies let pass, of isolated pods only. Each pod
 * has a row of its own for a flow: the pod's end is the tuple's source, the other end, as
 * the pod's policies see it, its destination. Where the rows are is in allowednew.h.
 */
#pragma once
#include "allowednew.h"
#include "kernel.h"
#include "rows.h"
#include "rules.h"

/* Raised by the daemon after each change of policies: a flow that was judged before is
 * judged again by its next packet. A daemon begins with another number than those before
 * it ended with.
 */
__u32 policy_revision;

/* What is asked of a pod's policies about a packet, and, if it does not pass, by what. */
struct judged {
	struct tuple t; /* the pod's end, and the other one */
	__u64 ingress;	/* the pod's sets */
	__u64 egress;
	__u64 set;	 /* the one that denied */
	__u32 index;	 /* the rule of it that did, or RULE_NONE */
	__u32 revision;	 /* read before the sets: what came after will be judged again */
	__u32 is_egress; /* the set is one of egress */
	__u32 pad;
	struct walk walk;
	struct home home;   /* of t */
	struct allowed row; /* to be made */
};

/* Of the packet at hand: kept here because the stack is short. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct judged);
	__uint(max_entries, 1);
} judging SEC(".maps");

/* For a record of the packet at hand, which the pod's policies do not let pass. */
__noinline int tell_judgement(struct judgement *by)
{
	__u32 key = 0;
	struct judged *j = bpf_map_lookup_elem(&judging, &key);

	if (!by || !j)
		return 0;
	by->local = j->t.src;
	by->remote = j->t.dst;
	by->lport = j->t.sport;
	by->rport = j->t.dport;
	by->proto = j->t.proto;
	by->set = j->set;
	by->rule = j->index;
	by->ingress = !j->is_egress;
	return 0;
}

/* How a packet is asked about; in the low byte there are its TCP flags. */
enum {
	ASK_OUT = 1 << 8,    /* the pod has sent it */
	ASK_BEGINS = 1 << 9, /* it can only be the first of its flow */
	ASK_ALWAYS = 1 << 10,
	ASK_ERROR = 1 << 11, /* about a flow: leaves no trace */
};

/* Whether a row is about this packet; if not, the packet begins a flow of its own. */
static __always_inline bool is_about(const struct allowed *row, __u8 proto, __u32 how, __u32 at)
{
	if (!(row->flags & ALLOWED_BY_POD) == !(how & ASK_OUT))
		return true;
	return !(how & ASK_BEGINS) && !is_silent(row, proto, at);
}

/* Judges a flow that the pod has begun, or the other end. */
static __always_inline enum reason judge(struct judged *j, bool by_pod)
{
	__u64 set = by_pod ? j->egress : j->ingress;
	__u32 said;

	if (set == RULES_NONE)
		return OK;
	j->walk.key = (struct rules_key){.set = set};
	if (likely(set != RULES_CLOSED))
		j->walk.key.class = class_of(&j->t.dst);
	j->walk.port = by_pod ? j->t.dport : j->t.sport;
	j->walk.proto = j->t.proto;
	said = verdict_of(&j->walk);
	if ((said & 0xff) == VERDICT_ALLOW)
		return OK;
	j->set = set;
	j->index = said >> 8;
	j->is_egress = by_pod;
	if (set == RULES_CLOSED)
		return DROP_POLICY_CLOSED;
	return by_pod ? DROP_POLICY_EGRESS : DROP_POLICY_INGRESS;
}

/* The same for a flow that was judged before; denied, its row stays: what the other end
 * sends is of this flow still, not a new one of its own.
 */
static __always_inline enum reason judge_again(struct judged *j, struct allowed *row)
{
	enum reason why;

	if (likely(row->flags & ALLOWED_ALWAYS || row->revision == j->revision))
		return OK;
	why = judge(j, !!(row->flags & ALLOWED_BY_POD));
	if (!why)
		row->revision = j->revision;
	return why;
}

/* Takes note of a segment that begins or ends something. A flow that has ended makes room
 * for those that live.
 */
static __always_inline void note_segment(struct judged *j, struct allowed *row, bool settled,
					 __u32 how)
{
	const __u32 fins = ALLOWED_POD_FIN | ALLOWED_PEER_FIN;
	__u32 stays = ALLOWED_BY_POD | ALLOWED_ALWAYS;

	if (how & ASK_BEGINS) {
		if (!(row->flags & ALLOWED_CLOSED))
			stays |= ALLOWED_LIVE; /* its end was missed, or this is an old one */
		row->flags &= stays;
		return;
	}
	if (how & TCP_FIN)
		row->flags |= how & ASK_OUT ? ALLOWED_POD_FIN : ALLOWED_PEER_FIN;
	if (how & TCP_RST || (row->flags & fins) == fins)
		row->flags |= ALLOWED_CLOSED;
	if (unlikely(settled) && row->flags & ALLOWED_CLOSED) {
		j->row = *row;
		bpf_map_delete_elem(&allowed, &j->t); /* first: the other may need the room */
		put_new(&j->t, &j->home, &j->row);
	}
}

/* Takes note of a packet of a flow. */
static __always_inline void note_allowed(struct judged *j, struct allowed *row, bool settled,
					 __u32 how, __u32 seen)
{
	bool opener = !(row->flags & ALLOWED_BY_POD) == !(how & ASK_OUT);

	if (row->seen != seen)
		row->seen = seen;
	if (unlikely(!opener && !(row->flags & ALLOWED_ANSWERED)))
		row->flags |= ALLOWED_ANSWERED;
	if (unlikely(how & (TCP_FIN | TCP_SYN | TCP_RST)))
		note_segment(j, row, settled, how);
	else if (unlikely(!(row->flags & ALLOWED_LIVE)) && opener && row->flags & ALLOWED_ANSWERED)
		row->flags |= ALLOWED_LIVE;
}

/* A flow that is judged as one that the packet begins; settled is the row that has its
 * place in `allowed`. What always passes begins one only if it surely does: what the node
 * answers must not open the way for a pod that may not ask.
 */
static __always_inline enum reason admit_new(struct judged *j, struct allowed *settled, __u32 how)
{
	bool ported = j->t.proto == IPPROTO_UDP || j->t.proto == IPPROTO_SCTP;
	struct allowed *row = &j->row;
	enum reason why;

	if (!(how & ASK_ALWAYS)) {
		why = judge(j, !!(how & ASK_OUT));
		if (why)
			return why;
	} else if (!ported && !(how & ASK_BEGINS)) {
		return OK;
	}
	if (how & ASK_ERROR || how & TCP_RST)
		return OK;
	row->revision = j->revision;
	row->seen = now();
	row->flags = how & ASK_OUT ? ALLOWED_BY_POD : 0;
	row->pad = 0;
	if (how & ASK_ALWAYS)
		row->flags |= ALLOWED_ALWAYS;
	if (unlikely(settled)) {
		*settled = *row;
		return OK;
	}
	return put_new(&j->t, &j->home, row);
}

/* Whether a packet may pass the pod's policies. */
__noinline int admit(struct judged *j, __u32 how)
{
	struct allowed *row, *settled = NULL;
	enum reason why;
	__u32 seen = now();

	if (!j)
		return DROP_INTERNAL;
	home_of(&j->t, config.allowed_sets, config.allowed_part, &j->home);
	row = find_new(&j->t, &j->home);
	if (!row)
		row = settled = bpf_map_lookup_elem(&allowed, &j->t);
	if (unlikely(!row || !is_about(row, j->t.proto, how, seen)))
		return admit_new(j, settled, how);
	if (unlikely(how & ASK_ALWAYS) && !(row->flags & ALLOWED_BY_POD) == !(how & ASK_OUT))
		row->flags |= ALLOWED_ALWAYS; /* taken up from before there were policies */
	why = judge_again(j, row);
	if (unlikely(why))
		return how & ASK_ALWAYS ? OK : why;
	note_allowed(j, row, settled != NULL, how, seen);
	return OK;
}

/* Whether a packet between two isolated pods of this node, with this tuple, is of a flow that both
 * let pass, and goes on: the rows of both are in one set. Else each is to be asked.
 */
static __always_inline bool goes_on(const struct tuple *t, __u32 how)
{
	const volatile __u32 *revision = &policy_revision;
	struct allowed *out, *in;
	struct allowed_set *set;
	__u32 seen = now();
	struct home home;
	int ways;

	home_of(t, config.allowed_sets, config.allowed_part, &home);
	ways = ways_of_both(t, &home);
	if (unlikely(ways < 0))
		return false;
	set = bpf_map_lookup_elem(&allowed_new, &home.set);
	if (!set)
		return false;
	out = &set->slot[ways & (ALLOWED_WAYS - 1)].row;
	in = &set->slot[ways >> 8 & (ALLOWED_WAYS - 1)].row;
	if (unlikely(!is_about(out, t->proto, how | ASK_OUT, seen) ||
		     !is_about(in, t->proto, how, seen) || out->revision != *revision ||
		     in->revision != *revision))
		return false;
	/* Neither is settled, so there is no place to be given up for what has ended. */
	note_allowed(NULL, out, false, how | ASK_OUT, seen);
	note_allowed(NULL, in, false, how, seen);
	return true;
}

/* Whether the flow that an ICMP error is about may pass; no trace is left. */
static __always_inline bool is_allowed(struct judged *j)
{
	struct allowed *row;

	home_of(&j->t, config.allowed_sets, config.allowed_part, &j->home);
	row = find_new(&j->t, &j->home);
	if (!row)
		row = bpf_map_lookup_elem(&allowed, &j->t);
	return row && !judge_again(j, row);
}
