/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* VXLAN (RFC 7348) written and removed by the programs themselves. */
#pragma once
#include "ip.h"

struct vxlanhdr {
	__u32 flags; /* first byte 0x08: the VNI is valid; the rest reserved */
	__u32 vni;   /* upper 24 bits */
};

#define VXLAN_FLAGS htonl(0x08000000)

/* Behind the outer IP header. */
struct tunnel {
	struct udphdr udp;
	struct vxlanhdr vxlan;
	struct ethhdr eth;
};

enum {
	/* sizeof(struct tunnel) has tail padding. */
	TUNNEL_LEN = sizeof(struct udphdr) + sizeof(struct vxlanhdr) + ETH_HLEN,
};

/* One's complement sum of an IPv4 header without options (RFC 1071). */
static __always_inline __u16 sum_v4(const struct iphdr *h)
{
	const __u32 *w = (const __u32 *)h;

	return fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]);
}

/* The source port carries the flow's hash (RFC 7348, section 5), so that the
 * network spreads flows; IANA's dynamic range.
 */
static __always_inline __u16 source_port(__u32 hash)
{
	return htons(0xc000 | ((hash ^ hash >> 16) & 0x3fff));
}

/* Writes what is behind the outer IP header. The UDP checksum is 0 (RFC 7348;
 * RFC 6935 for IPv6).
 */
static __always_inline void write_tunnel(struct tunnel *t, const struct peer *peer, __u16 len,
					 __u32 hash, __u16 inner_proto)
{
	__u32 *to = (__u32 *)&t->eth, *from = (__u32 *)&peer->mac;

	t->udp.source = source_port(hash);
	t->udp.dest = htons(config.port);
	t->udp.len = htons(len);
	t->udp.check = 0;
	t->vxlan.flags = VXLAN_FLAGS;
	t->vxlan.vni = htonl(config.vni << 8);
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	t->eth.proto = inner_proto;
}

#define ENCAP_FLAGS (ADJ_FIXED_GSO | ADJ_ENCAP_L4_UDP | ADJ_ENCAP_L2_ETH | ADJ_ENCAP_L2(ETH_HLEN))

/* Makes room for outer headers. The kernel refuses that, without a change, for what is
 * encapsulated already. If the nodes are namespaces of one kernel, it still counts a packet as
 * such that has been taken out of a tunnel (again). What it has noted of the inner headers is
 * true then; room is needed, and the outer protocol, which it sets when headers go.
 */
static __always_inline long widen(struct __sk_buff *skb, __u32 more, bool outer_v6, bool again)
{
	const __u64 encap = outer_v6 ? ADJ_ENCAP_L3_IPV6 : ADJ_ENCAP_L3_IPV4;
	const __u64 protocol = outer_v6 ? ADJ_DECAP_L3_IPV6 : ADJ_DECAP_L3_IPV4;
	const __s32 spare = 4;
	long err = bpf_skb_adjust_room(skb, more, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS | encap);

	if (likely(!err || !again))
		return err;
	err = bpf_skb_adjust_room(skb, more + spare, BPF_ADJ_ROOM_MAC, ADJ_FIXED_GSO);
	if (err)
		return err;
	return bpf_skb_adjust_room(skb, -spare, BPF_ADJ_ROOM_MAC, ADJ_FIXED_GSO | protocol);
}

static __always_inline enum reason encap_v4(struct __sk_buff *skb, const struct ip *ip,
					    const struct peer *peer, bool again)
{
	const __u32 more = sizeof(struct iphdr) + TUNNEL_LEN;
	__u32 len = skb->len - ETH_HLEN + more;
	__u32 hash = bpf_get_hash_recalc(skb);
	struct ethhdr *eth;
	struct iphdr *h;

	if (unlikely(widen(skb, more, false, again)))
		return STACK_NO_ROOM;
	eth = data_of(skb);
	h = (void *)eth + ETH_HLEN;
	if (unlikely((void *)h + more > end_of(skb)))
		return DROP_INTERNAL;
	eth->proto = htons(ETH_P_IP);
	h->version_ihl = 0x45;
	h->tos = ip->tos & 3; /* ECN travels outside too (RFC 6040, normal mode) */
	h->tot_len = htons(len);
	h->id = 0; /* never fragmented: RFC 6864 */
	h->frag_off = htons(0x4000);
	h->ttl = 64;
	h->protocol = IPPROTO_UDP;
	h->check = 0;
	h->saddr = peer->local.w[3];
	h->daddr = peer->remote.w[3];
	h->check = ~sum_v4(h);
	write_tunnel((void *)(h + 1), peer, len - sizeof(*h), hash,
		     ip->v6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP));
	return OK;
}

static __always_inline enum reason encap_v6(struct __sk_buff *skb, const struct ip *ip,
					    const struct peer *peer, bool again)
{
	const __u32 more = sizeof(struct ipv6hdr) + TUNNEL_LEN;
	__u32 len = skb->len - ETH_HLEN + TUNNEL_LEN;
	__u32 hash = bpf_get_hash_recalc(skb);
	struct ipv6hdr *h;
	struct ethhdr *eth;

	if (unlikely(widen(skb, more, true, again)))
		return STACK_NO_ROOM;
	eth = data_of(skb);
	h = (void *)eth + ETH_HLEN;
	if (unlikely((void *)h + more > end_of(skb)))
		return DROP_INTERNAL;
	eth->proto = htons(ETH_P_IPV6);
	/* The flow label too carries the hash (RFC 6438). */
	h->flow = htonl(0x60000000 | (ip->tos & 3) << 20 | (hash & 0xfffff));
	h->payload_len = htons(len);
	h->nexthdr = IPPROTO_UDP;
	h->hop_limit = 64;
	__builtin_memcpy(h->saddr, peer->local.w, 16);
	__builtin_memcpy(h->daddr, peer->remote.w, 16);
	write_tunnel((void *)(h + 1), peer, len, hash,
		     ip->v6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP));
	return OK;
}

/* Removes the outer headers; the outer Ethernet header stays in front. */
static __always_inline enum reason decap(struct __sk_buff *skb, bool outer_v6, bool inner_v6)
{
	__s32 less = TUNNEL_LEN + (outer_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u64 flags = ADJ_FIXED_GSO;
	struct ethhdr *eth;

	if (outer_v6 != inner_v6)
		flags |= inner_v6 ? ADJ_DECAP_L3_IPV6 : ADJ_DECAP_L3_IPV4;
	if (unlikely(bpf_skb_adjust_room(skb, -less, BPF_ADJ_ROOM_MAC, flags)))
		return STACK_NO_ROOM;
	eth = data_of(skb);
	if (unlikely((void *)eth + ETH_HLEN > end_of(skb)))
		return DROP_INTERNAL;
	eth->proto = inner_v6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	return OK;
}

/* A congestion mark of the outer path goes on inside (RFC 6040, section 4.2); the
 * inner header has been checked to allow it.
 */
static __always_inline enum reason mark_congestion(struct __sk_buff *skb, bool v6)
{
	void *data = data_of(skb) + ETH_HLEN;

	if (v6) {
		struct ipv6hdr *h = data;
		__u32 old;

		if (unlikely((void *)(h + 1) > end_of(skb)))
			return DROP_INTERNAL;
		old = h->flow;
		h->flow |= htonl(3 << 20);
		bpf_csum_update(skb, h->flow - old);
	} else {
		struct iphdr *h = data;
		__u16 old;
		__u32 sum;

		if (unlikely((void *)(h + 1) > end_of(skb)))
			return DROP_INTERNAL;
		old = htons(h->tos);
		h->tos |= 3;
		/* HC' = ~(~HC + ~m + m'), RFC 1624 */
		sum = (__u16)~h->check + (__u16)~old + htons(h->tos);
		h->check = ~fold(sum);
	}
	return OK;
}
