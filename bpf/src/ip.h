/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reading and changing one IP header. */
#pragma once
#include "kernel.h"
#include "reasons.h"
#include "rows.h"

struct ip {
	union addr src;
	union addr dst;
	__u32 len; /* of the packet, from its header */
	__u16 hlen;
	__u8 proto;
	__u8 ttl;
	__u8 tos;
	bool v6;
	bool options;
	bool big; /* above 64 KiB: a segment train whose header cannot tell its length */
};

static __always_inline void *data_of(struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *end_of(struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end;
}

/* The same two, read anew: across a branch the compiler may keep their lower halves
 * only, which the verifier does not know as pointers any more.
 */
static __always_inline void *fresh_data(struct __sk_buff *skb)
{
	void *at;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(at)
		     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	return at;
}

static __always_inline void *fresh_end(struct __sk_buff *skb)
{
	void *at;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(at)
		     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return at;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Makes up to len bytes of the packet readable; the caller checks bounds again. To ask for
 * more than headers is dear: of a TCP segment only they are in one piece, and what follows
 * must be copied, with all of the piece if a clone waits for the segment's acknowledgement.
 */
static __always_inline void pull(struct __sk_buff *skb, __u32 len)
{
	if (unlikely(data_of(skb) + len > end_of(skb)))
		bpf_skb_pull_data(skb, len < skb->len ? len : skb->len);
}

static __always_inline enum reason parse_v4(struct __sk_buff *skb, __u32 off, struct ip *ip)
{
	struct iphdr *h = data_of(skb) + off;

	if (unlikely((void *)(h + 1) > end_of(skb)))
		return DROP_TRUNCATED;
	ip->hlen = (h->version_ihl & 0xf) * 4;
	if (unlikely(h->version_ihl >> 4 != 4 || ip->hlen < sizeof(*h)))
		return DROP_BAD_HEADER;
	ip->len = ntohs(h->tot_len);
	ip->v6 = false;
	ip->options = ip->hlen > sizeof(*h);
	ip->proto = h->protocol;
	ip->ttl = h->ttl;
	ip->tos = h->tos;
	ip->src = addr_of_v4(h->saddr);
	ip->dst = addr_of_v4(h->daddr);
	return OK;
}

static __always_inline enum reason parse_v6(struct __sk_buff *skb, __u32 off, struct ip *ip)
{
	struct ipv6hdr *h = data_of(skb) + off;
	__u32 flow;

	if (unlikely((void *)(h + 1) > end_of(skb)))
		return DROP_TRUNCATED;
	flow = ntohl(h->flow);
	if (unlikely(flow >> 28 != 6))
		return DROP_BAD_HEADER;
	ip->len = sizeof(*h) + ntohs(h->payload_len);
	ip->hlen = sizeof(*h);
	ip->v6 = true;
	ip->options = h->nexthdr == IPPROTO_HOPOPTS;
	ip->proto = h->nexthdr;
	ip->ttl = h->hop_limit;
	ip->tos = flow >> 20;
	ip->src = addr_of_v6(h->saddr);
	ip->dst = addr_of_v6(h->daddr);
	return OK;
}

/* Reads the IP header at off of a packet of `left` bytes from there on. proto is
 * the Ethernet type (network order) that the frame claims. Pointers into the packet are
 * void after it.
 */
static __always_inline enum reason parse_ip(struct __sk_buff *skb, __u32 off, __u16 proto,
					    __u32 left, struct ip *ip)
{
	enum reason why = DROP_NOT_IP;

	if (proto == htons(ETH_P_IP)) {
		pull(skb, off + sizeof(struct iphdr));
		why = parse_v4(skb, off, ip);
	} else if (proto == htons(ETH_P_IPV6)) {
		pull(skb, off + sizeof(struct ipv6hdr));
		why = parse_v6(skb, off, ip);
	}
	if (unlikely(why))
		return why;
	ip->big = left > 0xffff;
	if (unlikely(!ip->big && (ip->len > left || ip->len < ip->hlen)))
		return DROP_BAD_LENGTH;
	return OK;
}

/* What a router must look at itself before it forwards: the stack does. */
static __always_inline enum reason may_forward(const struct ip *ip)
{
	if (unlikely(ip->big))
		return STACK_TOO_BIG;
	if (unlikely(ip->options))
		return STACK_OPTIONS;
	if (unlikely(ip->ttl <= 1))
		return STACK_TTL;
	return OK;
}

/* How long each packet is that this one becomes on the wire: the packet itself, or its
 * segments (GSO). 0: that is not known.
 */
static __always_inline __u32 wire_len(struct __sk_buff *skb, const struct ip *ip)
{
	__u32 size = skb->gso_size;
	__u8 *doff;

	if (!size)
		return ip->len;
	if (ip->proto == IPPROTO_TCP) {
		doff = data_of(skb) + ETH_HLEN + (ip->v6 ? 40 : 20) + 12;
		if (unlikely((void *)(doff + 1) > end_of(skb)))
			return 0;
		size += (*doff >> 4) * 4;
	} else if (ip->proto == IPPROTO_UDP) {
		size += sizeof(struct udphdr);
	} else {
		return 0;
	}
	return size + ip->hlen;
}

/* Whether it fits into mtu so. */
static __always_inline enum reason fits(struct __sk_buff *skb, const struct ip *ip, __u32 mtu)
{
	__u32 len = wire_len(skb, ip);

	if (unlikely(!len))
		return STACK_SEGMENTS;
	return likely(len <= mtu) ? OK : STACK_TOO_BIG;
}

/* Counts one hop at the IP header behind the Ethernet header (RFC 1624 for IPv4's
 * checksum; for IPv6 the device's sum over the packet, if it made one).
 */
static __always_inline enum reason hop(struct __sk_buff *skb, bool v6)
{
	void *data = data_of(skb) + ETH_HLEN;

	if (v6) {
		struct ipv6hdr *h = data;

		if (unlikely((void *)(h + 1) > end_of(skb)))
			return DROP_INTERNAL;
		h->hop_limit--;
		bpf_csum_update(skb, ~(__u32)htons(1));
	} else {
		struct iphdr *h = data;
		__u32 sum;

		if (unlikely((void *)(h + 1) > end_of(skb)))
			return DROP_INTERNAL;
		sum = h->check + htons(0x0100);
		h->check = sum + (sum >= 0xffff);
		h->ttl--;
	}
	return OK;
}
