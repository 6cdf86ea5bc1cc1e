/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The ways of packets that Services have to do with, at each hook. */
#pragma once
#include "direct.h"
#include "icmp.h"
#include "nat.h"
#include "overlay.h"
#include "pass.h"
#include "policy.h"
#include "reject.h"
#include "serve.h"

/* How a packet goes on. */
enum {
	WAY_LIMITED = 1 << 0, /* its sender has a bandwidth limit: the stack's */
	WAY_AROUND = 1 << 1,  /* where there is no pod, past the stack: see leave */
	WAY_OUTSIDE = 1 << 2, /* it came from outside of the cluster */
	WAY_POD = 1 << 3,     /* it is to a pod of this node */
	WAY_HOST = 1 << 4,    /* it is to an address of this node */
	WAY_UNKNOWN = 1 << 5, /* whether it is to one of both has not been looked up */
	WAY_JUDGED = 1 << 6,  /* its sender is a pod of this node that is isolated */
	WAY_BACK = 1 << 7,    /* its sender is to get it itself */
	WAY_TUNNEL = 1 << 8,  /* another node has sent it */
};

enum {
	NEVER_TOO_BIG = 576, /* every IPv4 host takes as much (RFC 791) */
};

/* A translated packet that is too big for its way: its sender, on this device, is told by what
 * it sent. (The stack would not take one with this node's own source.)
 */
__noinline int answer_outside(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	struct passing *x = passing_of();
	struct flow back;
	int why, place;

	if (!p || !x)
		return give_up(skb, DROP_INTERNAL);
	__builtin_memset(&x->t, 0, sizeof(x->t));
	x->t.src = p->ip.dst;
	x->t.dst = p->ip.src;
	x->t.sport = p->l4.dport;
	x->t.dport = p->l4.sport;
	x->t.proto = p->l4.proto;
	if (!copy_flow(&x->t, &back, &place))
		return give_up(skb, STACK_TOO_BIG);
	x->f = (struct flow){
		.src = back.dst, .dst = back.src, .sport = back.dport, .dport = back.sport};
	why = translate(skb, p, &x->f);
	return unlikely(why) ? give_up(skb, why) : answer_too_big(skb, p, mtu);
}

/* A translated packet's way on. */
__noinline int go_on(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	struct endpoint *to;
	struct peer *peer;
	int why;

	if (!p)
		return give_up(skb, DROP_INTERNAL);
	to = endpoint_of(&p->ip.dst);
	if (to) {
		if (unlikely(is_isolated(to))) {
			why = judge_arriving(skb, p, (way & (WAY_BACK | WAY_OUTSIDE)) == WAY_BACK);
			if (why)
				return give_up(skb, why);
		}
		if (to->flags & EP_HOST)
			return TCX_NEXT; /* and unmarked: no to_pod takes it off */
		if (unlikely(way & WAY_LIMITED))
			return leave_mark(skb, give_up(skb, STACK_LIMITED));
		return leave_mark(skb, to_local(skb, to, &p->ip));
	}
	peer = peer_of(&p->ip.dst);
	if (peer && unlikely(way & WAY_OUTSIDE) && fits(skb, &p->ip, peer->mtu) == STACK_TOO_BIG)
		return answer_outside(skb, p, peer->mtu);
	if (peer)
		return way & WAY_LIMITED ? give_up(skb, STACK_LIMITED) : to_peer(skb, peer, &p->ip);
	if (!(way & WAY_AROUND))
		return to_outside(skb, &p->ip);
	why = leave(skb, &p->ip, !!(way & WAY_TUNNEL));
	return unlikely(why > TCX_REDIRECT) ? answer_outside(skb, p, why) : why;
}

/* Whether a packet that is to become f's would be too big for its way: its sender must
 * be told by what it sent, not by what it would have become. The biggest size, or 0.
 */
static __always_inline __u32 too_big(struct __sk_buff *skb, const struct ip *ip,
				     const struct flow *f)
{
	struct peer *peer;

	if (ip->len <= NEVER_TOO_BIG && !skb->gso_size)
		return 0;
	if (endpoint_of(&f->dst))
		return 0;
	peer = peer_of(&f->dst);
	return peer && fits(skb, ip, peer->mtu) == STACK_TOO_BIG ? peer->mtu : 0;
}

/* Counts why a packet to a Service does not go on, and tells its sender if the reason is
 * one for that.
 */
__noinline int refuse(struct __sk_buff *skb, struct packet *p, __u32 why)
{
	give_up(skb, why);
	if (!p || why < REJECT_FIRST || !p->l4.off || p->ip.options)
		return TCX_DROP;
	if (p->l4.proto == IPPROTO_TCP)
		return answer_reset(skb, p);
	return answer_ports(skb, &p->ip, ICMP_UNREACHABLE | ICMP_PORT << 8,
			    ICMP6_UNREACHABLE | ICMP6_PORT << 8, 0);
}

static __always_inline bool is_echo(struct __sk_buff *skb, const struct packet *p)
{
	struct icmphdr *icmp = data_of(skb) + start_of(&p->l4);

	return p->l4.off && !p->l4.more && (void *)(icmp + 1) <= end_of(skb) && !icmp->code &&
	       p->l4.proto == (p->ip.v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) &&
	       icmp->type == (p->ip.v6 ? ICMP6_ECHO : ICMP_ECHO);
}

/* What has no ports, or none that can be read (why), to an address that is nothing but a
 * Service's: an echo is answered, so that people see that it is there, the rest dropped.
 * NOT_OURS: it is to no such address.
 */
__noinline int serve_unported(struct __sk_buff *skb, struct packet *p, __u32 why)
{
	if (!p || likely(!frontend_of(&p->ip.dst, 0, 0)))
		return NOT_OURS;
	if (is_echo(skb, p))
		return answer_echo(skb, &p->ip, start_of(&p->l4));
	return give_up(skb, why ? why : DROP_SERVICE_PROTOCOL);
}

/* A packet to an address of a Service, or of this node. NOT_OURS: it is to none of a
 * Service.
 */
static __always_inline int serve(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	struct at_hand *h = at_hand_of();
	struct flow *f;
	__u32 mtu;
	int why;

	if (!h)
		return give_up(skb, DROP_INTERNAL);
	f = &h->f;
	why = service_of(p, way & WAY_OUTSIDE, f);
	if (likely(why == NOT_OURS))
		return why;
	if (why == BEGINS)
		why = begin_flow(skb, way & WAY_OUTSIDE, f);
	if (unlikely(why == PASS_ON))
		return pass_on(skb, p, f, false);
	if (unlikely(why))
		return refuse(skb, p, why);
	if (unlikely(way & WAY_JUDGED)) {
		why = judge_leaving(skb, p, f);
		if (why)
			return give_up(skb, why);
	}
	mtu = too_big(skb, &p->ip, f);
	if (unlikely(mtu))
		return answer_too_big(skb, p, mtu);
	if (unlikely(same_addr(&p->ip.src, &f->dst)))
		way |= WAY_BACK;
	why = translate(skb, p, f);
	return unlikely(why) ? give_up(skb, why) : go_on(skb, p, way);
}

/* A packet of a flow that is known, or an ICMP error about one, gets the addresses that it
 * has on the other side, if policies let its sender send it. NOT_OURS: it is of none. DONE:
 * it came from outside and is of one that another node translates; *way is what to return.
 */
static __always_inline int turn(struct __sk_buff *skb, struct packet *p, __u32 *way)
{
	struct flow f;
	int why = unlikely(p->l4.unported) ? error_of(skb, p, &f) : flow_of(p, &f);

	if (unlikely(why == PASS_ON)) {
		if (!(*way & WAY_OUTSIDE))
			return NOT_OURS;
		*way = pass_on(skb, p, &f, false);
		return DONE;
	}
	if (unlikely(why))
		return why;
	if (unlikely(*way & WAY_JUDGED)) {
		why = judge_leaving(skb, p, &f);
		if (why)
			return why;
	}
	if (unlikely(same_addr(&p->ip.src, &f.dst)))
		*way |= WAY_BACK;
	/* The stack does not take what has another's source, which may be the node's own. The
	 * rest it is to have, as it masquerades it; but of an adopted flow it knows nothing.
	 */
	if (likely(!same_addr(&p->ip.src, &f.src)) || f.flags & FLOW_ADOPTED)
		*way |= WAY_AROUND;
	return unlikely(p->l4.unported) ? translate_error(skb, p, &f) : translate(skb, p, &f);
}

/* A packet to no Service: it stays as it is, unless it could be taken for one to such. */
static __always_inline int go_direct(struct __sk_buff *skb, struct packet *p)
{
	struct flow f;
	int why = direct_flow(p, &f);

	if (likely(why == NOT_OURS))
		return OK;
	return why ? why : translate(skb, p, &f);
}

/* A packet of a pod that is not translated, to what is no pod. */
static __always_inline int leave_plain(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	int why;

	if (unlikely(way & WAY_JUDGED) && !is_netfilters(&p->ip.dst, p->l4.dport, p->l4.proto)) {
		why = judge_leaving(skb, p, NULL);
		if (why)
			return give_up(skb, why);
	}
	why = go_direct(skb, p);
	if (unlikely(why))
		return give_up(skb, why);
	return way & WAY_HOST ? TCX_NEXT : to_outside(skb, &p->ip);
}

/* The same to a pod, of this node or another. Who gets it knows the flow by the port that it
 * has there, so it is judged there as it will be.
 */
static __always_inline int pass_plain(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	struct endpoint *to = endpoint_of(&p->ip.dst);
	const __u16 port = p->l4.sport;
	struct peer *peer;
	int did, why = OK;

	if (unlikely(way & WAY_JUDGED))
		why = judge_leaving(skb, p, NULL);
	if (!why)
		why = go_direct(skb, p);
	if (!why && to && unlikely(is_isolated(to)))
		why = judge_arriving(skb, p, false);
	if (!why && way & WAY_LIMITED)
		why = STACK_LIMITED;
	if (to) {
		did = unlikely(why) ? give_up(skb, why) : plain_local(skb, to, &p->ip);
		return likely(p->l4.sport == port) ? did : leave_mark(skb, did);
	}
	if (unlikely(why))
		return give_up(skb, why);
	peer = peer_of(&p->ip.dst);
	return peer ? plain_peer(skb, peer, &p->ip) : TCX_NEXT;
}

/* From a pod: a packet to no pod of another node, or one that may be of a translated
 * flow. Its source has been checked and its IP header read; way says what is known of it.
 */
__noinline int from_pod_served(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	struct endpoint *to;
	int why, did;

	if (!p)
		return give_up(skb, DROP_INTERNAL);
	why = read_l4(skb, ETH_HLEN, p);
	did = likely(!why) ? turn(skb, p, &way) : NOT_OURS;
	if (!did)
		return go_on(skb, p, way);
	if (unlikely(did != NOT_OURS))
		return give_up(skb, did);
	if (way & WAY_UNKNOWN) {
		to = endpoint_of(&p->ip.dst);
		if (to)
			way |= to->flags & EP_HOST ? WAY_HOST : WAY_POD;
		else if (unlikely(peer_of(&p->ip.dst) != NULL))
			way |= WAY_POD;
	}
	if (unlikely(why) && way & WAY_JUDGED && !is_unported(why, p))
		return give_up(skb, why);
	if (way & WAY_POD)
		return pass_plain(skb, p, way);
	if (unlikely(why || p->l4.unported))
		did = serve_unported(skb, p, why);
	else
		did = serve(skb, p, way);
	return likely(did == NOT_OURS) ? leave_plain(skb, p, way) : did;
}

/* From a device of the node: what is not of the overlay. */
__noinline int from_outside_served(struct __sk_buff *skb)
{
	__u32 way = WAY_OUTSIDE;
	struct passing *x = passing_of();
	struct packet *p;
	int why;

	if (!x)
		return TCX_NEXT;
	p = &x->p;
	if (skb->pkt_type != PACKET_HOST ||
	    parse_ip(skb, ETH_HLEN, skb->protocol, skb->len - ETH_HLEN, &p->ip) ||
	    read_l4(skb, ETH_HLEN, p))
		return TCX_NEXT;
	why = NOT_OURS;
	if (unlikely(p->l4.unported) || is_client(&p->ip.dst) || may_be_place(&p->ip.dst))
		why = turn(skb, p, &way);
	if (!why)
		return go_on(skb, p, way);
	if (unlikely(why == DONE))
		return way;
	if (unlikely(why != NOT_OURS))
		return give_up(skb, why);
	if (unlikely(p->l4.unported))
		return pass_error(skb, p);
	why = serve(skb, p, WAY_OUTSIDE | WAY_AROUND);
	if (likely(why != NOT_OURS))
		return why;
	why = go_direct(skb, p);
	return unlikely(why) ? give_up(skb, why) : TCX_NEXT;
}

/* From another node, decapsulated by the kernel (at is ETH_HLEN) or not yet, and to an
 * address that may be a client's: a reply of a translated flow goes to its client.
 * NOT_OURS: it is none, and untouched. Its sender has been checked.
 */
__noinline int from_peer_served(struct __sk_buff *skb, __u32 at, bool v6, bool outer_v6, __u32 ecn)
{
	struct packet p;
	struct flow f;
	int why;

	at &= 0xff;
	if (parse_ip(skb, at, v6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP), skb->len - at, &p.ip) ||
	    read_l4(skb, at, &p) || p.ip.options)
		return NOT_OURS;
	if (unlikely(at != ETH_HLEN && skb->gso_size && p.l4.proto != IPPROTO_TCP))
		return NOT_OURS; /* see take: from_overlay's */
	why = unlikely(p.l4.unported) ? error_of(skb, &p, &f) : flow_of(&p, &f);
	if (why == NOT_OURS || unlikely(why == PASS_ON))
		return NOT_OURS;
	if (at != ETH_HLEN) {
		if (!why && ecn == 3 && !(p.ip.tos & 3))
			why = DROP_CONGESTION;
		if (!why)
			why = decap(skb, outer_v6, p.ip.v6);
		if (!why && unlikely(ecn == 3))
			why = mark_congestion(skb, p.ip.v6);
		if (p.l4.off)
			p.l4.off -= at - ETH_HLEN;
	}
	if (!why)
		why = unlikely(p.l4.unported) ? translate_error(skb, &p, &f)
					      : translate(skb, &p, &f);
	return unlikely(why) ? give_up(skb, why) : go_on(skb, &p, WAY_AROUND | WAY_TUNNEL);
}
