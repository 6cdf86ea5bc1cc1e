/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What policies make of packets, at each hook: what a pod sends is judged where it leaves
 * the pod, what it is sent where it enters the pod or where the stack delivers it. Policies
 * see backends, never Services. A pod is not asked about if its row has no sets.
 */
#pragma once
#include "allowed.h"
#include "direct.h"
#include "icmp.h"
#include "serve.h"

/* RFC 4861 */
enum {
	ND_FIRST = 133,
	ND_LAST = 136,
};

static __always_inline bool is_isolated(const struct endpoint *ep)
{
	return (ep->ingress | ep->egress) != 0;
}

static __always_inline bool is_icmp(const struct packet *p)
{
	return p->l4.proto == (p->ip.v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Whether a packet of a protocol that has a beginning is one. */
static __always_inline bool begins(const struct packet *p)
{
	if (likely(p->l4.proto == IPPROTO_TCP))
		return (p->l4.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	if (is_icmp(p))
		return p->l4.kind == (p->ip.v6 ? ICMP6_ECHO : ICMP_ECHO);
	return p->l4.proto == IPPROTO_SCTP && p->l4.kind == SCTP_INIT;
}

/* What a pod says on its link, to its node or to nobody in particular: RFC 4861, and MLD
 * (RFC 3810), which is behind a hop-by-hop header.
 */
static __always_inline bool is_of_link(const struct packet *p)
{
	bool group = (p->ip.dst.w[0] & htonl(0xff0f0000)) == htonl(0xff020000);
	struct endpoint *ep;

	if (likely(!p->ip.v6))
		return false;
	if (p->ip.proto == IPPROTO_HOPOPTS)
		return group && p->l4.kind == IPPROTO_ICMPV6;
	if (!is_icmp(p) || p->l4.kind < ND_FIRST || p->l4.kind > ND_LAST || p->ip.ttl != 255)
		return false;
	ep = endpoint_of(&p->ip.dst);
	return group || (ep && ep->flags & EP_HOST);
}

/* Whether read_l4 has read (why) all there is: of a protocol without ports there are no
 * ports in the later fragments either.
 */
static __always_inline bool is_unported(int why, const struct packet *p)
{
	return why == DROP_FRAGMENT && !has_ports(p->l4.proto);
}

/* Reads what policies ask for. */
static __always_inline int read_asked(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	int why = read_l4(skb, at, p);

	return unlikely(why) && is_unported(why, p) ? OK : why;
}

/* Begins to ask: of what is read first, see judged. */
static __always_inline struct judged *ask(void)
{
	const volatile __u32 *revision = &policy_revision;
	__u32 key = 0;
	struct judged *j = bpf_map_lookup_elem(&judging, &key);

	if (!j)
		return NULL;
	j->revision = *revision;
	return j;
}

static __always_inline void ask_about(struct judged *j, const struct endpoint *ep, __u8 proto)
{
	j->ingress = ep->ingress;
	j->egress = ep->egress;
	__builtin_memset(&j->t, 0, sizeof(j->t));
	j->t.proto = proto;
}

/* A pod that asked a Service knows its answers by that: their row is of the backend. */
static __always_inline void see_backend(struct tuple *t)
{
	struct at_hand *h = at_hand_of();
	int place;

	if (likely(!is_client(&t->src)) || !h)
		return;
	if (copy_flow(t, &h->making, &place) && !(h->making.flags & FLOW_REPLY)) {
		t->dst = h->making.dst;
		t->dport = h->making.dport;
	}
}

/* Whether the packet is an ICMP error about a flow that may pass. What the pod itself says must
 * be to who has sent what it is about: else it could tell anybody anything so.
 */
__noinline int is_related(struct __sk_buff *skb, struct packet *p, struct judged *j, bool out)
{
	__u32 off;
	union addr peer;
	__u16 port;

	if (!p || !j || !is_icmp(p) || !is_error(p->l4.kind, p->ip.v6) ||
	    !read_quote(skb, p, &j->t, &off) || !same_addr(&j->t.dst, &p->ip.dst))
		return false;
	if (out) {
		if (!same_addr(&j->t.src, &p->ip.src))
			return false;
	} else {
		peer = j->t.src;
		port = j->t.sport;
		j->t.src = j->t.dst;
		j->t.sport = j->t.dport;
		j->t.dst = peer;
		j->t.dport = port;
	}
	see_backend(&j->t);
	return is_allowed(j);
}

static __always_inline __u32 how_of(const struct packet *p)
{
	__u32 how = p->l4.proto == IPPROTO_TCP ? p->l4.flags : 0;

	if (begins(p))
		how |= ASK_BEGINS;
	if (is_icmp(p) && is_error(p->l4.kind, p->ip.v6))
		how |= ASK_ERROR;
	return how;
}

/* What a pod of this node sends; f is what is to become of it, if it is to be translated.
 * OK: it may pass.
 */
__noinline int judge_leaving(struct __sk_buff *skb, struct packet *p, struct flow *f)
{
	struct judged *j = ask();
	struct endpoint *ep;
	bool forward = f && !(f->flags & FLOW_REPLY);
	__u32 how;

	if (!p || !j)
		return DROP_INTERNAL;
	ep = endpoint_of(&p->ip.src);
	if (unlikely(!ep))
		return DROP_SPOOFED_ADDRESS;
	if (!is_isolated(ep) || unlikely(is_of_link(p)))
		return OK;
	how = how_of(p) | ASK_OUT;
	if (unlikely(how & ASK_ERROR)) {
		ask_about(j, ep, p->l4.proto);
		if (is_related(skb, p, j, true))
			return OK;
	}
	ask_about(j, ep, p->l4.proto);
	j->t.src = p->ip.src;
	j->t.dst = forward ? f->dst : p->ip.dst;
	j->t.sport = p->l4.sport;
	j->t.dport = forward ? f->dport : p->l4.dport;
	if (unlikely(same_addr(&j->t.src, &j->t.dst)))
		how |= ASK_ALWAYS;
	return admit(j, how);
}

/* What goes to a pod of this node, with the addresses that it gets there; always, if no
 * policy forbids it. OK: it may pass, or is to no pod of this node.
 */
__noinline int judge_arriving(struct __sk_buff *skb, struct packet *p, bool always)
{
	struct judged *j = ask();
	struct endpoint *ep;
	__u32 how;

	if (!p || !j)
		return DROP_INTERNAL;
	ep = endpoint_of(&p->ip.dst);
	if (!ep || !is_isolated(ep))
		return OK;
	how = how_of(p);
	if (unlikely(how & ASK_ERROR)) {
		ask_about(j, ep, p->l4.proto);
		if (is_related(skb, p, j, false))
			return OK;
	}
	ask_about(j, ep, p->l4.proto);
	j->t.src = p->ip.dst;
	j->t.dst = p->ip.src;
	j->t.sport = p->l4.dport;
	j->t.dport = p->l4.sport;
	if (!(how & ASK_BEGINS))
		see_backend(&j->t);
	if (unlikely(always) || unlikely(same_addr(&j->t.src, &j->t.dst)))
		how |= ASK_ALWAYS;
	return admit(j, how);
}

/* Between pods, not translated, and read as far as the IP header, which is at `at`. */
__noinline int judge_plain(struct __sk_buff *skb, struct packet *p, __u32 at, bool leaving)
{
	int why;

	if (!p)
		return DROP_INTERNAL;
	why = read_asked(skb, at, p);
	if (!why && leaving)
		why = judge_leaving(skb, p, NULL);
	return why ? why : judge_arriving(skb, p, false);
}

/* The same, of what one isolated pod of this node sends to another. */
__noinline int judge_between(struct __sk_buff *skb, struct packet *p)
{
	struct tuple t;
	__u32 how;
	int why;

	if (!p)
		return DROP_INTERNAL;
	why = read_asked(skb, ETH_HLEN, p);
	if (unlikely(why))
		return why;
	how = how_of(p);
	if (likely(!(how & (ASK_BEGINS | ASK_ERROR)) && !same_addr(&p->ip.src, &p->ip.dst))) {
		tuple_of(&p->ip, &p->l4, &t);
		if (likely(goes_on(&t, how)))
			return OK;
	}
	why = judge_leaving(skb, p, NULL);
	return why ? why : judge_arriving(skb, p, false);
}

/* A frame of a pod that is not to its node's MAC: a broadcast, mostly. */
__noinline int judge_aside(struct __sk_buff *skb, struct packet *p)
{
	int why;

	if (!p)
		return DROP_INTERNAL;
	why = read_asked(skb, ETH_HLEN, p);
	return why ? why : judge_leaving(skb, p, NULL);
}

/* To a place of a Service that is left to netfilter: what it becomes is not known here. Where
 * the Service has not the whole address (a node port) the sender would be hidden until then.
 */
static __always_inline bool is_netfilters(const union addr *addr, __u16 port, __u8 proto)
{
	struct frontend *fe;

	if (likely(!by_netfilter()))
		return false;
	fe = frontend_of(addr, port, proto);
	return fe && (!fe->inside || frontend_of(addr, 0, 0));
}

/* Whether the node itself sends what the stack does. It came in by no device, then; but the
 * stack also forgets by which when it takes apart again what it has put together of IPv6
 * fragments. What the node sends in fragments is of a socket.
 */
static __always_inline bool is_nodes(struct __sk_buff *skb, const struct ip *ip)
{
	if (skb->ingress_ifindex)
		return false;
	return likely(!ip->v6 || ip->proto != IPPROTO_FRAGMENT) || skb->sk;
}

/* Whether the stack has it from a pod of this node whose Services netfilter serves: what
 * such a pod sends is judged where its backend is known.
 */
static __always_inline bool is_forwarded(struct __sk_buff *skb, const struct packet *p)
{
	struct endpoint *from;

	if (likely(!by_netfilter()) || is_nodes(skb, &p->ip))
		return false;
	from = endpoint_of(&p->ip.src);
	return from && is_isolated(from);
}

/* Whether what the stack delivers to a pod passes always. The node reaches its pods: what it
 * sends came in nowhere. So does a pod itself: what comes back to it through its own device,
 * and what we answered there; who comes from elsewhere is not it.
 */
static __always_inline bool passes_always(struct __sk_buff *skb, const struct ip *ip)
{
	return is_nodes(skb, ip) || skb->ingress_ifindex == skb->ifindex;
}

/* What the stack delivers to a pod from elsewhere, as its sender knows it: not translated here.
 * OK: the pod's policies are to be asked. DONE: they are not, it answers what netfilter serves.
 */
__noinline int judge_delivered(struct __sk_buff *skb, struct packet *p)
{
	int why;

	if (!p)
		return DROP_INTERNAL;
	if (unlikely(same_addr(&p->ip.src, &p->ip.dst)))
		return DROP_SPOOFED_ADDRESS;
	why = is_forwarded(skb, p) ? judge_leaving(skb, p, NULL) : OK;
	if (why)
		return why;
	return !begins(p) && is_netfilters(&p->ip.src, p->l4.sport, p->l4.proto) ? DONE : OK;
}

/* What the stack sends to other nodes' pods, read as far as the IP header. */
__noinline int judge_overlaid(struct __sk_buff *skb, struct packet *p)
{
	int why;

	if (!p || likely(!is_forwarded(skb, p)))
		return OK;
	why = read_asked(skb, ETH_HLEN, p);
	return why ? why : judge_leaving(skb, p, NULL);
}
