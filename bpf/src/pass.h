/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Direct server return, the first half: what came from outside to a Service is passed on to
 * the node of the backend as it came, in the tunnel with a VNI of its own. That node
 * translates it (passed.h) and answers the client itself.
 */
#pragma once
#include "hint.h"
#include "icmp.h"
#include "overlay.h"
#include "serve.h"

/* Of the packet at hand: kept here because the stack is short. */
struct passing {
	struct packet p;
	struct flow f;
	struct tuple t;
	struct hint hint;
	struct affinity_key key;
	__u8 said[8]; /* the first bytes of what may be a probe */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct passing);
	__uint(max_entries, 1);
} passing SEC(".maps");

static __always_inline struct passing *passing_of(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&passing, &key);
}

/* The biggest packet that fits into the tunnel to a peer. */
static __always_inline __u32 passed_mtu(const struct peer *peer)
{
	const __u32 more = is_v4(&peer->remote) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (likely(!(peer->flags & PEER_DIRECT)))
		return peer->mtu;
	return peer->mtu - more - TUNNEL_LEN;
}

/* Passes a packet on to the node of f's backend. It is not forwarded before that node does:
 * this hop is none. again: it has been passed on to this node, too.
 */
__noinline int pass_on(struct __sk_buff *skb, struct packet *p, struct flow *f, bool again)
{
	struct peer *peer;
	struct tunnel *t;
	enum reason why;
	__u32 off;

	if (!p || !f)
		return give_up(skb, DROP_INTERNAL);
	peer = peer_of(&f->dst);
	if (unlikely(!peer || !peer->ifindex || p->ip.big))
		return give_up(skb, DROP_PASSAGE);
	why = fits(skb, &p->ip, passed_mtu(peer));
	if (unlikely(why == STACK_TOO_BIG))
		return answer_too_big(skb, p, passed_mtu(peer));
	if (is_v4(&peer->remote)) {
		off = ETH_HLEN + sizeof(struct iphdr);
		if (!why)
			why = encap_v4(skb, &p->ip, peer, again);
	} else {
		off = ETH_HLEN + sizeof(struct ipv6hdr);
		if (!why)
			why = encap_v6(skb, &p->ip, peer, again);
	}
	t = data_of(skb) + off;
	if (unlikely(why) || unlikely((void *)t + TUNNEL_LEN > end_of(skb)))
		return give_up(skb, DROP_PASSAGE);
	t->vxlan.vni = htonl(VNI_PASSED << 8);
	write_hint((struct hint *)&t->eth, &f->dst, f->dport, again);
	return send_to(peer);
}

/* Whether an ICMP error to an address of a Service, about an answer of a flow that is not
 * known here, is to be passed on to the node of x->f's backend, as the flow would be.
 */
__noinline int error_to_pass(struct __sk_buff *skb, struct packet *p, struct passing *x)
{
	struct affinity *stays;
	struct frontend *fe;
	struct backend to;
	__u32 off;

	if (!p || !x || !read_quote(skb, p, &x->t, &off) || !has_ports(x->t.proto) ||
	    !same_addr(&x->t.dst, &p->ip.dst))
		return false;
	fe = frontend_of(&x->t.dst, x->t.dport, x->t.proto);
	if (!fe || !(fe->flags & FRONTEND_PASS) || !fe->outside ||
	    find_backend(fe, &x->t, true, &x->key, &stays, &to) || !may_pass(&to.addr))
		return false;
	x->f.dst = to.addr;
	x->f.dport = to.port;
	return true;
}

/* From outside, and of no translated flow: only what that says is passed on. */
static __always_inline int pass_error(struct __sk_buff *skb, struct packet *p)
{
	struct passing *x;

	if (!is_error(p->l4.kind, p->ip.v6) || !may_be_place(&p->ip.dst))
		return TCX_NEXT;
	x = passing_of();
	return x && error_to_pass(skb, p, x) ? pass_on(skb, p, &x->f, false) : TCX_NEXT;
}
