/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the node's stack sends to pods and outside. Answers from the node's own network, and those
 * that the stack has unmasqueraded, have come by no other program: they are translated back here.
 * What another one has translated stays as it is; see leave_mark.
 */
#pragma once
#include "policy.h"
#include "served.h"

/* A reply of a backend in the node's own network, or outside, to what may be a client, gets back
 * the addresses that its client knows.
 */
static __always_inline int turn_back(struct __sk_buff *skb, struct packet *p)
{
	__u32 way = 0;
	int why = turn(skb, p, &way);

	return why == NOT_OURS ? OK : why;
}

/* Read as far as the IP header, and no policy has to do with it. */
static __always_inline int from_host_served(struct __sk_buff *skb, struct packet *p)
{
	int why;

	if (take_mark(skb) || likely(!is_client(&p->ip.dst)) || read_l4(skb, ETH_HLEN, p))
		return TCX_NEXT;
	why = turn_back(skb, p);
	return why ? give_up(skb, why) : TCX_NEXT;
}

/* To a pod, read as far as the IP header, and policies may have to do with it. The pod's policies
 * see it with the port that the pod has, which its flow may not have had so far, and with the
 * address that it came with: a backend's, not the Service's. As elsewhere, its flow has taken note
 * of it by then, whether it passes or not.
 */
__noinline int to_pod_judged(struct __sk_buff *skb, struct packet *p)
{
	int unread, judged, why = OK;
	union addr from;
	bool marked, always;
	__u16 port;

	if (!p)
		return give_up(skb, DROP_INTERNAL);
	marked = take_mark(skb);
	always = passes_always(skb, &p->ip);
	unread = read_l4(skb, ETH_HLEN, p);
	if (unlikely(unread) && !is_unported(unread, p))
		return always ? TCX_NEXT : give_up(skb, unread);
	judged = always ? OK : judge_delivered(skb, p);
	if (unlikely(judged) && judged != DONE)
		return give_up(skb, judged);
	from = p->ip.src;
	port = p->l4.sport;
	if (!unread && !marked && is_client(&p->ip.dst))
		why = turn_back(skb, p);
	p->ip.src = from; /* for policies: the packet is translated */
	p->l4.sport = port;
	if (!why && !judged)
		why = judge_arriving(skb, p, always);
	return unlikely(why) ? give_up(skb, why) : TCX_NEXT;
}
