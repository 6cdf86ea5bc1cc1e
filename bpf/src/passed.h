/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Direct server return, the second half: what another node passed on (pass.h) is translated
 * here as if it had come here from outside, and so are its answers: they leave by this
 * node's own way to the client, with the address that it asked.
 */
#pragma once
#include "pass.h"
#include "served.h"

/* The place that a packet is for which was passed on. Node ports are those of all nodes,
 * the rows are of this one's addresses.
 */
static __always_inline struct frontend *frontend_passed(const struct tuple *t)
{
	struct frontend *fe = frontend_of(&t->dst, t->dport, t->proto);
	__u32 key = OWN_PORTS + !is_v4(&t->dst);
	union addr *own_addr;

	if (fe || !bpf_map_lookup_elem(&nodes, &t->dst))
		return fe;
	own_addr = bpf_map_lookup_elem(&own, &key);
	return own_addr ? frontend_of(own_addr, t->dport, t->proto) : NULL;
}

/* What becomes of a packet that another node passed on: f. A known flow goes on. A new one
 * gets the backend that the other node chose, if it is here and lives, else one of this
 * node's choice: PASS_ON, if that is of yet another node. What is passed on again is
 * translated by who gets it then, whoever has the backend. BEGINS: begin_flow is to make f.
 */
__noinline int passed_of(struct packet *p, struct hint *hint, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	struct frontend *fe = NULL;
	int why;

	if (!p || !hint || !f || !h)
		return DROP_INTERNAL;
	tuple_of(&p->ip, &p->l4, &h->t);
	if (h->t.proto == IPPROTO_UDP) { /* see flow_of */
		fe = frontend_passed(&h->t);
		if (!fe || !fe->outside)
			return REJECT_NO_PORT;
	}
	why = known_flow(&h->t, p->l4.flags, NULL, true, f);
	if (unlikely(why == PASS_ON && is_again(hint)))
		why = NOT_OURS;
	if (likely(why != NOT_OURS))
		return why;
	if (!fe)
		fe = frontend_passed(&h->t);
	if (!fe || !fe->outside)
		return REJECT_NO_PORT;
	f->flags = p->l4.flags & TCP_SYN ? FLOW_BEGUN : 0;
	return new_flow(fe, &h->t, true, hint, f);
}

/* Sends what was made of a packet for its sender: by this node's way to it, not back to the
 * node that passed it on.
 */
static __always_inline int send_away(struct __sk_buff *skb, struct packet *p, int did)
{
	const union addr to = p->ip.src;

	if (did != TCX_REDIRECT)
		return did;
	p->ip.src = p->ip.dst;
	p->ip.dst = to;
	p->ip.ttl = 64;
	p->ip.len = NEVER_TOO_BIG;
	return go_on(skb, p, WAY_AROUND);
}

/* What does not fit into the tunnel to the next node; its biggest size, or 0. */
static __always_inline __u32 too_big_again(struct __sk_buff *skb, const struct packet *p,
					   const struct flow *f)
{
	struct peer *peer = peer_of(&f->dst);

	return peer && fits(skb, &p->ip, passed_mtu(peer)) == STACK_TOO_BIG ? passed_mtu(peer) : 0;
}

/* The way on of a packet that was passed on and is out of the tunnel; why and f are what
 * passed_of or error_of said.
 */
__noinline int serve_passed(struct __sk_buff *skb, struct packet *p, struct flow *f, int why)
{
	__u32 mtu = 0;

	if (!p || !f)
		return give_up(skb, DROP_INTERNAL);
	if (unlikely(why >= REJECT_FIRST && why < STACK_FIRST))
		return send_away(skb, p, refuse(skb, p, why));
	if (unlikely(why && why != PASS_ON))
		return give_up(skb, why);
	if (unlikely(why))
		mtu = too_big_again(skb, p, f);
	else if (likely(!p->l4.unported))
		mtu = too_big(skb, &p->ip, f);
	if (unlikely(mtu))
		return send_away(skb, p, answer_too_big(skb, p, mtu));
	if (unlikely(why))
		return pass_on(skb, p, f, true);
	why = unlikely(p->l4.unported) ? translate_error(skb, p, f) : translate(skb, p, f);
	return unlikely(why) ? give_up(skb, why) : go_on(skb, p, WAY_AROUND);
}

/* Why an ICMP error that was passed on is not to be translated here; OK: by f. */
static __always_inline int error_passed(struct __sk_buff *skb, struct packet *p,
					const struct hint *hint, struct flow *f)
{
	int why = error_of(skb, p, f);

	return why == NOT_OURS || (why == PASS_ON && is_again(hint)) ? DROP_PASSAGE : why;
}

/* What another node sends to know if what this one sends to clients arrives, goes back as an
 * answer to a client does, from the address that it is to: f. NOT_OURS: it is no such probe.
 * See docs/services.md, "Where answers are eaten".
 */
__noinline int return_of(struct __sk_buff *skb, struct passing *x)
{
	struct ip *ip;
	struct l4 *l4;

	if (!x)
		return NOT_OURS;
	ip = &x->p.ip;
	l4 = &x->p.l4;
	if (likely(l4->proto != IPPROTO_UDP || l4->dport != config.announce_port) || !l4->off ||
	    l4->more ||
	    bpf_skb_load_bytes(skb, l4->off + sizeof(struct udphdr), x->said, sizeof(x->said)) ||
	    *(__u32 *)x->said != PROBE_MAGIC || x->said[4] != PROBE_RETURN)
		return NOT_OURS;
	x->f.src = ip->dst;
	x->f.dst = ip->src;
	x->f.sport = l4->dport;
	x->f.dport = l4->sport;
	return OK;
}

/* From another node, decapsulated by the kernel (at is ETH_HLEN) or not yet: a packet that
 * came to that one from outside. That it may pass packets on has been checked.
 */
__noinline int from_passed(struct __sk_buff *skb, __u32 at, bool v6, bool outer_v6, __u32 ecn)
{
	struct passing *x = passing_of();
	struct packet *p;
	int why;

	at &= 0xff;
	if (!x || at < ETH_HLEN ||
	    bpf_skb_load_bytes(skb, at - ETH_HLEN, &x->hint, sizeof(x->hint)))
		return give_up(skb, DROP_TRUNCATED);
	p = &x->p;
	why = parse_ip(skb, at, v6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP), skb->len - at, &p->ip);
	if (!why)
		why = read_l4(skb, at, p);
	if (!why && p->ip.options)
		why = DROP_PASSAGE;
	if (!why && unlikely(at != ETH_HLEN && skb->gso_size && p->l4.proto != IPPROTO_TCP))
		why = STACK_SEGMENTS; /* see take: from_overlay's */
	if (!why && ecn == 3 && !(p->ip.tos & 3))
		why = DROP_CONGESTION;
	if (unlikely(why))
		return give_up(skb, why);
	if (unlikely(p->l4.unported))
		why = error_passed(skb, p, &x->hint, &x->f);
	else
		why = return_of(skb, x);
	if (likely(why == NOT_OURS))
		why = passed_of(p, &x->hint, &x->f);
	if (unlikely(why == BEGINS))
		why = begin_flow(skb, true, &x->f);
	if (at != ETH_HLEN) {
		if (unlikely(decap(skb, outer_v6, v6)))
			return give_up(skb, DROP_PASSAGE);
		if (unlikely(ecn == 3) && mark_congestion(skb, v6))
			return give_up(skb, DROP_PASSAGE);
		if (p->l4.off)
			p->l4.off -= at - ETH_HLEN;
	} else if (skb->pkt_type != PACKET_HOST) {
		bpf_skb_change_type(skb, PACKET_HOST);
	}
	return serve_passed(skb, p, &x->f, why);
}
