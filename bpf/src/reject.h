/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Telling the sender that there is no way: by the packet itself, turned around. */
#pragma once
#include "nat.h"

enum {
	ICMP_ECHO_REPLY = 0, /* RFC 792 */
	ICMP_ECHO = 8,
	ICMP_UNREACHABLE = 3,
	ICMP_PORT = 3,
	ICMP_FRAG_NEEDED = 4,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_ECHO = 128, /* RFC 4443 */
	ICMP6_UNREACHABLE = 1,
	ICMP6_PORT = 4,
	ICMP6_TOO_BIG = 2,
	QUOTED = 8, /* bytes quoted behind IP's headers: the ports are in them */
};

static __always_inline void turn_frame(struct ethhdr *eth)
{
	__u16 mac[3];

	__builtin_memcpy(mac, eth->dst, 6);
	__builtin_memcpy(eth->dst, eth->src, 6);
	__builtin_memcpy(eth->src, mac, 6);
}

/* Writes an IP header from what the packet was for to where it came from; returns the
 * sum of its pseudo header (RFC 9293, RFC 8200 8.1) for len bytes behind it.
 */
static __always_inline __u32 write_back(void *at, const struct ip *ip, __u8 proto, __u32 len)
{
	if (ip->v6) {
		struct ipv6hdr *h = at;

		h->flow = htonl(0x60000000);
		h->payload_len = htons(len);
		h->nexthdr = proto;
		h->hop_limit = 64;
		__builtin_memcpy(h->saddr, ip->dst.w, 16);
		__builtin_memcpy(h->daddr, ip->src.w, 16);
		return bpf_csum_diff(NULL, 0, h->saddr, 32, htonl(len + proto));
	} else {
		struct iphdr *h = at;

		h->version_ihl = 0x45;
		h->tos = 0;
		h->tot_len = htons(sizeof(*h) + len);
		h->id = 0;
		h->frag_off = htons(0x4000);
		h->ttl = 64;
		h->protocol = proto;
		h->check = 0;
		h->saddr = ip->dst.w[3];
		h->daddr = ip->src.w[3];
		h->check = ~fold((__u64)(__u16)0 + ((__u32 *)h)[0] + ((__u32 *)h)[1] +
				 ((__u32 *)h)[2] + h->saddr + h->daddr);
		return bpf_csum_diff(NULL, 0, &h->saddr, 8, htonl(len + proto));
	}
}

/* Answers a TCP segment, or the first fragment of one, by a reset (RFC 9293, section
 * 3.10.7.1). Behind an IPv6 fragment header the TCP header is further on than that of the
 * answer will be.
 */
static __always_inline int answer_reset(struct __sk_buff *skb, const struct packet *p)
{
	const struct ip *ip = &p->ip;
	const __u32 hlen = ip->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 at = start_of(&p->l4);
	struct tcphdr *tcp = data_of(skb) + at;
	struct tcphdr to;
	struct ethhdr *eth;
	__u32 len, sum;

	if ((void *)(tcp + 1) > end_of(skb) || tcp->flags & TCP_RST)
		return TCX_DROP;
	to = *tcp;
	len = ip->len - (at - ETH_HLEN) - (to.doff >> 4) * 4;
	len += !!(to.flags & TCP_SYN) + !!(to.flags & TCP_FIN);
	if (bpf_skb_change_tail(skb, ETH_HLEN + hlen + sizeof(*tcp), 0))
		return TCX_DROP;
	eth = data_of(skb);
	tcp = (void *)eth + ETH_HLEN + hlen;
	if ((void *)(tcp + 1) > end_of(skb))
		return TCX_DROP;
	turn_frame(eth);
	sum = write_back(eth + 1, ip, IPPROTO_TCP, sizeof(*tcp));
	*tcp = (struct tcphdr){.source = to.dest, .dest = to.source, .doff = sizeof(*tcp) / 4 << 4};
	if (to.flags & TCP_ACK) {
		tcp->seq = to.ack;
		tcp->flags = TCP_RST;
	} else {
		tcp->ack = htonl(ntohl(to.seq) + len);
		tcp->flags = TCP_RST | TCP_ACK;
	}
	tcp->check = ~fold(bpf_csum_diff(NULL, 0, (__u32 *)tcp, sizeof(*tcp), sum));
	return bpf_redirect(skb->ifindex, 0);
}

/* Answers by an ICMP error that quotes the packet (RFC 792, RFC 4443) and so many bytes of
 * what is behind its IP header, a constant; the types and codes are `kind` of IPv4 and of
 * IPv6, code in the second byte.
 */
static __always_inline int answer_icmp(struct __sk_buff *skb, const struct ip *ip, __u16 kind,
				       __u16 kind6, __u32 info, const __u32 quoted)
{
	const __u32 hlen = ip->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 len = sizeof(struct icmphdr) + hlen + quoted;
	struct icmphdr *icmp;
	struct ethhdr *eth;
	__u32 sum;

	pull(skb, ETH_HLEN + hlen + quoted);
	if (bpf_skb_change_tail(skb, ETH_HLEN + hlen + quoted, 0) ||
	    bpf_skb_adjust_room(skb, hlen + sizeof(*icmp), BPF_ADJ_ROOM_MAC, 0))
		return TCX_DROP;
	eth = data_of(skb);
	icmp = (void *)eth + ETH_HLEN + hlen;
	if ((void *)icmp + len > end_of(skb))
		return TCX_DROP;
	turn_frame(eth);
	eth->proto = ip->v6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	sum = write_back(eth + 1, ip, ip->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, len);
	icmp->type = ip->v6 ? kind6 : kind;
	icmp->code = (ip->v6 ? kind6 : kind) >> 8;
	icmp->check = 0;
	icmp->info = htonl(info);
	icmp->check = ~fold(bpf_csum_diff(NULL, 0, (__u32 *)icmp, len, ip->v6 ? sum : 0));
	return bpf_redirect(skb->ifindex, 0);
}

/* The same, quoting no more than the ports. */
static __always_inline int answer_ports(struct __sk_buff *skb, const struct ip *ip, __u16 kind,
					__u16 kind6, __u32 info)
{
	if (unlikely(ip->proto == IPPROTO_FRAGMENT))
		return answer_icmp(skb, ip, kind, kind6, info, sizeof(struct fraghdr) + QUOTED);
	return answer_icmp(skb, ip, kind, kind6, info, QUOTED);
}

/* Tells the sender that a packet is too big, by the address that it was sent to. Of TCP the
 * whole header is quoted: one whose checksum a device is still to make (of a sender on this
 * machine) cannot be cut off before that.
 */
__noinline int answer_too_big(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	const __u16 kind = ICMP_UNREACHABLE | ICMP_FRAG_NEEDED << 8;

	give_up(skb, REJECT_TOO_BIG);
	if (!p)
		return TCX_DROP;
	if (p->ip.proto == IPPROTO_TCP)
		return answer_icmp(skb, &p->ip, kind, ICMP6_TOO_BIG, mtu, sizeof(struct tcphdr));
	return answer_ports(skb, &p->ip, kind, ICMP6_TOO_BIG, mtu);
}

/* Answers an ICMP echo, whose header is at off (RFC 792, RFC 4443). */
static __always_inline int answer_echo(struct __sk_buff *skb, struct ip *ip, __u32 off)
{
	const union addr src = ip->src, dst = ip->dst;
	struct ethhdr *eth = data_of(skb);
	struct icmphdr *icmp = (void *)eth + off;
	__u32 sum;

	if ((void *)(icmp + 1) > end_of(skb))
		return TCX_DROP;
	/* HC' = ~(~HC + ~m + m'), RFC 1624; the code is 0, the type the low byte */
	sum = (__u16)~icmp->check + (__u16)~icmp->type;
	icmp->type = ip->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY;
	sum += icmp->type;
	icmp->check = ~fold(sum);
	eth = data_of(skb);
	if ((void *)(eth + 1) > end_of(skb))
		return TCX_DROP;
	turn_frame(eth);
	if (set_addrs(skb, ip, &dst, &src, &sum)) /* a swap leaves ICMPv6's sum as it is */
		return TCX_DROP;
	return bpf_redirect(skb->ifindex, 0);
}
