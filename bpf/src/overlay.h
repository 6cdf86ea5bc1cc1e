/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Between nodes: which peer, which sender, and the ways there and back. */
#pragma once
#include "flow.h"
#include "ip.h"
#include "pod.h"
#include "vxlan.h"

/* In served.h. */
__noinline int from_peer_served(struct __sk_buff *skb, __u32 at, bool v6, bool outer_v6, __u32 ecn);

/* In passed.h. */
__noinline int from_passed(struct __sk_buff *skb, __u32 at, bool v6, bool outer_v6, __u32 ecn);

/* In policy.h. */
static __always_inline bool is_isolated(const struct endpoint *ep);
__noinline int judge_plain(struct __sk_buff *skb, struct packet *p, __u32 at, bool leaving);

/* fe80::/10, or the unspecified address. */
static __always_inline bool is_link_local(const union addr *a)
{
	return (a->w[0] & htonl(0xffc00000)) == htonl(0xfe800000) || !(a->d[0] | a->d[1]);
}

/* To an address that ends on this node. */
static __always_inline int to_local(struct __sk_buff *skb, const struct endpoint *to,
				    const struct ip *ip)
{
	enum reason why;

	if (to->flags & EP_HOST)
		return TCX_NEXT;
	why = may_enter(to, ip);
	if (unlikely(why))
		return give_up(skb, why);
	return enter(skb, to, ip->v6);
}

/* To what is no pod: the stack's. But not to the overlay's port: masquerade would make
 * such a packet one of this node, and what a pod puts into it would be believed. What
 * this look cannot see (options, later fragments, translation) meets WEFT-FORWARD.
 */
static __always_inline int to_outside(struct __sk_buff *skb, const struct ip *ip)
{
	const __u32 hlen = ip->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct udphdr *udp;
	struct iphdr *h;

	if (likely(ip->proto != IPPROTO_UDP))
		return TCX_NEXT;
	pull(skb, ETH_HLEN + hlen + sizeof(*udp));
	h = data_of(skb) + ETH_HLEN;
	udp = (void *)h + hlen;
	if ((void *)(udp + 1) > end_of(skb) || udp->dest != htons(config.port))
		return TCX_NEXT;
	if (!ip->v6 && (ip->options || h->frag_off & htons(0x1fff)))
		return TCX_NEXT;
	return give_up(skb, DROP_OVERLAY_PORT);
}

/* A packet that is ready for the wire, to the neighbour that leads to a peer. */
static __always_inline int send_to(const struct peer *peer)
{
	struct bpf_redir_neigh next = {};

	if (is_v4(&peer->next_hop)) {
		next.nh_family = AF_INET;
		next.ipv4_nh = peer->next_hop.w[3];
	} else {
		next.nh_family = AF_INET6;
		__builtin_memcpy(next.ipv6_nh, peer->next_hop.w, 16);
	}
	return bpf_redirect_neigh(peer->ifindex, &next, sizeof(next), 0);
}

/* To a pod of another node. */
static __always_inline int to_peer(struct __sk_buff *skb, const struct peer *peer,
				   const struct ip *ip)
{
	enum reason why;

	why = may_forward(ip);
	if (!why)
		why = peer->ifindex ? fits(skb, ip, peer->mtu) : STACK_NO_LINK;
	if (!why)
		why = hop(skb, ip->v6);
	if (unlikely(why))
		return give_up(skb, why);
	if (!(peer->flags & PEER_DIRECT))
		why = is_v4(&peer->remote) ? encap_v4(skb, ip, peer, false)
					   : encap_v6(skb, ip, peer, false);
	return unlikely(why) ? give_up(skb, why) : send_to(peer);
}

/* The same two for a packet that is not translated here. Where netfilter serves Services it
 * must see both ways of all flows, as any may be one of those.
 */
static __always_inline int plain_local(struct __sk_buff *skb, const struct endpoint *to,
				       const struct ip *ip)
{
	if (by_netfilter() && !(to->flags & EP_HOST))
		return give_up(skb, STACK_NETFILTER);
	return to_local(skb, to, ip);
}

static __always_inline int plain_peer(struct __sk_buff *skb, const struct peer *peer,
				      const struct ip *ip)
{
	return by_netfilter() ? give_up(skb, STACK_NETFILTER) : to_peer(skb, peer, ip);
}

/* The outer header of a packet from another node. */
struct sender {
	union addr remote;
	union addr local;
};

/* A node may send what comes from its own pod prefixes, from the address we know it
 * by to the address we use towards it.
 */
static __always_inline bool is_sender(const struct peer *peer, const struct sender *s)
{
	return peer && same_addr(&peer->remote, &s->remote) && same_addr(&peer->local, &s->local);
}

/* Any other node may pass on what came to it from outside, likewise. */
static __always_inline bool is_passer(const struct sender *s)
{
	union addr *local = bpf_map_lookup_elem(&nodes, &s->remote);

	return local && same_addr(local, &s->local);
}

/* A packet to our port is ours only if it is for an address of this node. */
static __always_inline int not_taken(struct __sk_buff *skb, const struct sender *s, enum reason why)
{
	struct endpoint *ep = endpoint_of(&s->local);

	return ep && ep->flags & EP_HOST ? give_up(skb, why) : TCX_NEXT;
}

/* Takes a VXLAN packet whose outer IP header ends at off and whose UDP datagram has
 * room for `left` bytes. Nothing is changed before everything is known to be well,
 * so that the stack can take over.
 */
static __always_inline int take(struct __sk_buff *skb, const struct sender *s, __u32 off,
				__u32 left, __u8 tos, bool outer_v6)
{
	struct endpoint *to;
	struct tunnel *t;
	enum reason why;
	struct peer *peer;
	struct packet p;

	pull(skb, off + TUNNEL_LEN);
	t = data_of(skb) + off;
	if (unlikely((void *)t + TUNNEL_LEN > end_of(skb)))
		return not_taken(skb, s, DROP_TRUNCATED);
	if (unlikely(ntohs(t->udp.len) < TUNNEL_LEN || ntohs(t->udp.len) > left))
		return not_taken(skb, s, DROP_BAD_LENGTH);
	if (unlikely((__u8)t->vxlan.flags != 0x08))
		return not_taken(skb, s, DROP_VXLAN_FLAGS);
	if (unlikely(ntohl(t->vxlan.vni) >> 8 != config.vni)) {
		if (ntohl(t->vxlan.vni) >> 8 != VNI_PASSED)
			return not_taken(skb, s, DROP_VXLAN_VNI);
		if (unlikely(!is_passer(s)))
			return not_taken(skb, s, DROP_UNKNOWN_SENDER);
		return from_passed(skb, off + TUNNEL_LEN, t->eth.proto == htons(ETH_P_IPV6),
				   outer_v6, tos & 3);
	}
	left = ntohs(t->udp.len) - TUNNEL_LEN;
	why = parse_ip(skb, off + TUNNEL_LEN, t->eth.proto, left, &p.ip);
	if (unlikely(why))
		return not_taken(skb, s, why);
	peer = peer_of(&p.ip.src);
	if (unlikely(!is_sender(peer, s)))
		return not_taken(skb, s, DROP_UNKNOWN_SENDER);
	if (unlikely(is_client(&p.ip.dst))) {
		int did = from_peer_served(skb, off + TUNNEL_LEN, p.ip.v6, outer_v6, tos & 3);

		if (did != NOT_OURS)
			return did;
	}
	to = endpoint_of(&p.ip.dst);
	if (unlikely(!to || to->flags & EP_HOST))
		return TCX_NEXT;
	if (unlikely(is_isolated(to))) {
		why = judge_plain(skb, &p, off + TUNNEL_LEN, false);
		if (why)
			return give_up(skb, why);
	}
	why = by_netfilter() ? STACK_NETFILTER : may_enter(to, &p.ip); /* see plain_local */
	/* Only of TCP can the kernel take the outer headers off a segment train here. */
	if (unlikely(!why && skb->gso_size && p.ip.proto != IPPROTO_TCP))
		why = STACK_SEGMENTS;
	if (unlikely(!why && (tos & 3) == 3 && !(p.ip.tos & 3)))
		why = DROP_CONGESTION;
	if (!why)
		why = decap(skb, outer_v6, p.ip.v6);
	if (unlikely(!why && (tos & 3) == 3))
		why = mark_congestion(skb, p.ip.v6);
	if (unlikely(why))
		return give_up(skb, why);
	return enter(skb, to, p.ip.v6);
}

static __always_inline bool is_tunnel_v4(struct __sk_buff *skb)
{
	struct iphdr *h;
	struct udphdr *udp;

	pull(skb, ETH_HLEN + sizeof(*h) + sizeof(*udp));
	h = data_of(skb) + ETH_HLEN;
	udp = (void *)(h + 1);
	return (void *)(udp + 1) <= end_of(skb) && h->version_ihl == 0x45 &&
	       h->protocol == IPPROTO_UDP && udp->dest == htons(config.port) &&
	       !(h->frag_off & htons(0x1fff));
}

static __always_inline int from_uplink_v4(struct __sk_buff *skb)
{
	struct iphdr *h = data_of(skb) + ETH_HLEN;
	struct sender s;
	__u32 left;

	if ((void *)(h + 1) > end_of(skb))
		return TCX_NEXT;
	s.remote = addr_of_v4(h->saddr);
	s.local = addr_of_v4(h->daddr);
	if (h->frag_off & htons(0x2000))
		return not_taken(skb, &s, STACK_FRAGMENT);
	if (unlikely(sum_v4(h) != 0xffff))
		return not_taken(skb, &s, DROP_BAD_CHECKSUM);
	left = ntohs(h->tot_len) - sizeof(*h);
	if (unlikely(ntohs(h->tot_len) < sizeof(*h) || left + ETH_HLEN + sizeof(*h) > skb->len))
		return not_taken(skb, &s, DROP_BAD_LENGTH);
	return take(skb, &s, ETH_HLEN + sizeof(*h), left, h->tos, false);
}

static __always_inline bool is_tunnel_v6(struct __sk_buff *skb)
{
	struct ipv6hdr *h;
	struct udphdr *udp;

	pull(skb, ETH_HLEN + sizeof(*h) + sizeof(*udp));
	h = data_of(skb) + ETH_HLEN;
	udp = (void *)(h + 1);
	return (void *)(udp + 1) <= end_of(skb) && h->nexthdr == IPPROTO_UDP &&
	       udp->dest == htons(config.port);
}

static __always_inline int from_uplink_v6(struct __sk_buff *skb)
{
	struct ipv6hdr *h = data_of(skb) + ETH_HLEN;
	struct sender s;
	__u32 left;

	if ((void *)(h + 1) > end_of(skb))
		return TCX_NEXT;
	s.remote = addr_of_v6(h->saddr);
	s.local = addr_of_v6(h->daddr);
	left = ntohs(h->payload_len);
	if (unlikely(left + ETH_HLEN + sizeof(*h) > skb->len))
		return not_taken(skb, &s, DROP_BAD_LENGTH);
	return take(skb, &s, ETH_HLEN + sizeof(*h), left, ntohl(h->flow) >> 20, true);
}

/* What the kernel's VXLAN device is to write around the packet. */
static __always_inline enum reason set_tunnel(struct __sk_buff *skb, const struct peer *peer,
					      const struct ip *ip)
{
	struct bpf_tunnel_key key = {.tunnel_id = config.vni, .tunnel_ttl = 64};
	__u64 flags = TUN_ZERO_CSUM | TUN_DONT_FRAGMENT;

	key.tunnel_tos = ip->tos & 3;
	if (is_v4(&peer->remote)) {
		key.remote_ipv4 = ntohl(peer->remote.w[3]);
		key.local_ipv4 = ntohl(peer->local.w[3]);
	} else {
		flags = TUN_ZERO_CSUM | TUN_IPV6;
		__builtin_memcpy(key.remote_ipv6, peer->remote.w, 16);
		__builtin_memcpy(key.local_ipv6, peer->local.w, 16);
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ? DROP_INTERNAL : OK;
}

/* Whom the kernel's VXLAN device has it from. PASS_ON: it was passed on. */
static __always_inline enum reason get_tunnel(struct __sk_buff *skb, struct sender *s)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		s->remote = addr_of_v4(htonl(key.remote_ipv4));
		s->local = addr_of_v4(htonl(key.local_ipv4));
	} else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), TUN_IPV6)) {
		s->remote = addr_of_v6(key.remote_ipv6);
		s->local = addr_of_v6(key.local_ipv6);
	} else {
		return DROP_NO_TUNNEL;
	}
	if (key.tunnel_id == VNI_PASSED)
		return PASS_ON;
	return key.tunnel_id == config.vni ? OK : DROP_VXLAN_VNI;
}
