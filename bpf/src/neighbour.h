/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A pod's questions for a neighbour's MAC. Whatever it asks for, all it can reach is
 * the host end of its veth, so that is the answer: no bridge, no flooding.
 */
#pragma once
#include "ip.h"

/* RFC 826, for IPv4 over Ethernet. */
struct arphdr {
	__u16 hrd;
	__u16 pro;
	__u16 hln_pln;
	__u16 op;
	__u16 sha[3];
	__u16 spa[2];
	__u16 tha[3];
	__u16 tpa[2];
};

enum {
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	ND_SOLICIT = 135,
	ND_ADVERT = 136,
};

/* RFC 4861, sections 4.3 and 4.4: both have this form. */
struct ndhdr {
	__u8 type;
	__u8 code;
	__u16 check;
	__u32 flags;
	__u32 target[4];
};

struct ndopt {
	__u8 type; /* 1: source, 2: target link-layer address */
	__u8 len;  /* units of 8 bytes */
	__u16 mac[3];
};

static __always_inline bool same_mac(const __u16 *a, const __u16 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

static __always_inline void copy_mac(__u16 *to, const __u16 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/* Anti-spoofing: the source must be an address of the pod behind this device, and
 * the frame must come from the pod's MAC.
 */
static __always_inline enum reason check_source(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct ethhdr *eth = data_of(skb);

	if (unlikely((void *)(eth + 1) > end_of(skb)))
		return DROP_TRUNCATED;
	if (unlikely(!ep || ep->ifindex != skb->ifindex || ep->flags & EP_HOST))
		return DROP_SPOOFED_ADDRESS;
	if (unlikely(!same_mac(eth->src, ep->mac.h)))
		return DROP_SPOOFED_MAC;
	return OK;
}

static __always_inline bool is_own(struct __sk_buff *skb, const union addr *target)
{
	struct endpoint *ep = endpoint_of(target);

	return ep && ep->ifindex == skb->ifindex;
}

static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct ethhdr *eth;
	struct arphdr *arp;
	struct endpoint *ep;
	union addr from, target;
	enum reason why;
	__u32 spa, tpa;

	pull(skb, ETH_HLEN + sizeof(*arp));
	eth = data_of(skb);
	arp = (void *)eth + ETH_HLEN;
	if ((void *)(arp + 1) > end_of(skb))
		return give_up(skb, DROP_TRUNCATED);
	if (arp->hrd != htons(1) || arp->pro != htons(ETH_P_IP) || arp->hln_pln != htons(0x0604))
		return give_up(skb, DROP_BAD_NEIGHBOUR);
	spa = arp->spa[0] | (__u32)arp->spa[1] << 16;
	tpa = arp->tpa[0] | (__u32)arp->tpa[1] << 16;
	if (!spa) /* a probe, RFC 5227: nobody else has its address */
		return give_up(skb, DROP_LINK_LOCAL);
	from = addr_of_v4(spa);
	target = addr_of_v4(tpa);
	ep = endpoint_of(&from);
	why = check_source(skb, ep);
	if (why)
		return give_up(skb, why);
	if (!same_mac(arp->sha, ep->mac.h))
		return give_up(skb, DROP_SPOOFED_MAC);
	if (arp->op == htons(ARP_REPLY))
		return TCX_NEXT;
	if (arp->op != htons(ARP_REQUEST))
		return give_up(skb, DROP_BAD_NEIGHBOUR);
	if (is_own(skb, &target))
		return give_up(skb, DROP_LINK_LOCAL);
	arp->op = htons(ARP_REPLY);
	copy_mac(arp->tha, ep->mac.h);
	copy_mac(arp->sha, ep->host_mac.h);
	copy_mac(eth->dst, ep->mac.h);
	copy_mac(eth->src, ep->host_mac.h);
	arp->spa[0] = tpa;
	arp->spa[1] = tpa >> 16;
	arp->tpa[0] = spa;
	arp->tpa[1] = spa >> 16;
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline bool is_solicit(struct __sk_buff *skb, const struct ip *ip)
{
	struct ndhdr *nd;

	if (likely(ip->proto != IPPROTO_ICMPV6 || !ip->v6))
		return false;
	pull(skb, ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(*nd) + sizeof(struct ndopt));
	nd = data_of(skb) + ETH_HLEN + sizeof(struct ipv6hdr);
	return (void *)&nd->check <= end_of(skb) && nd->type == ND_SOLICIT;
}

/* The source has been checked. The answer has the question's length: with a
 * link-layer address if the question had one, as RFC 4861 7.2.4 allows.
 */
static __always_inline int answer_solicit(struct __sk_buff *skb, const struct ip *ip,
					  const struct endpoint *ep)
{
	struct ethhdr *eth = data_of(skb);
	struct ipv6hdr *h = (void *)eth + ETH_HLEN;
	struct ndhdr *nd = (void *)(h + 1);
	struct ndopt *opt = (void *)(nd + 1);
	union addr target;
	__u32 len = ip->len - sizeof(*h);
	__u32 sum;

	if ((void *)opt > end_of(skb))
		return give_up(skb, DROP_TRUNCATED);
	target = addr_of_v6(nd->target);
	if (ip->ttl != 255 || nd->code || target.b[0] == 0xff)
		return give_up(skb, DROP_BAD_NEIGHBOUR);
	if (is_own(skb, &target))
		return give_up(skb, DROP_LINK_LOCAL);
	nd->type = ND_ADVERT;
	nd->check = 0;
	nd->flags = htonl(0xe0000000); /* router, solicited, override */
	__builtin_memcpy(h->daddr, ip->src.w, 16);
	__builtin_memcpy(h->saddr, target.w, 16);
	copy_mac(eth->dst, ep->mac.h);
	copy_mac(eth->src, ep->host_mac.h);
	sum = bpf_csum_diff(NULL, 0, h->saddr, 32, htonl(len + IPPROTO_ICMPV6));
	if (len == sizeof(*nd)) {
		sum = bpf_csum_diff(NULL, 0, (__u32 *)nd, sizeof(*nd), sum);
	} else {
		if ((void *)(opt + 1) > end_of(skb) || len != sizeof(*nd) + sizeof(*opt) ||
		    opt->type != 1 || opt->len != 1)
			return give_up(skb, DROP_BAD_NEIGHBOUR);
		opt->type = 2;
		copy_mac(opt->mac, ep->host_mac.h);
		sum = bpf_csum_diff(NULL, 0, (__u32 *)nd, sizeof(*nd) + sizeof(*opt), sum);
	}
	nd->check = ~fold(sum);
	return bpf_redirect(skb->ifindex, 0);
}
