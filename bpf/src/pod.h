/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Into a pod of this node. */
#pragma once
#include "ip.h"

/* Ethernet addresses from the row; the type is set by the caller if it changed. */
static __always_inline enum reason set_macs(struct __sk_buff *skb, const union mac *dst_src)
{
	__u32 *from = (__u32 *)dst_src, *to = data_of(skb);

	if (unlikely((void *)to + ETH_HLEN > end_of(skb)))
		return DROP_INTERNAL;
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	return OK;
}

/* Whether the direct way into this pod is open; call before changing the packet. */
static __always_inline enum reason may_enter(const struct endpoint *ep, const struct ip *ip)
{
	if (unlikely(ep->flags & EP_STACK))
		return STACK_LIMITED;
	return may_forward(ip);
}

/* Puts the packet into the pod, as a router would: one hop less, its MACs. */
static __always_inline int enter(struct __sk_buff *skb, const struct endpoint *ep, bool v6)
{
	enum reason why = set_macs(skb, &ep->mac);

	if (!why)
		why = hop(skb, v6);
	if (unlikely(why))
		return give_up(skb, why);
	return bpf_redirect_peer(ep->ifindex, 0);
}
