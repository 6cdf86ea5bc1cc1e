/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Load balancers' addresses on the node's links: questions for their MAC are answered
 * here, so that they are while no daemon runs, and other nodes' probes whether this one is
 * well. Both only as long as the daemon gave a sign of life not too long ago: what it does
 * not know any more, others decide, see docs/loadbalancer.md.
 */
#pragma once
#include "neighbour.h"
#include "reject.h"

/* Flags of a row; bpf.Announced. */
enum {
	ANNOUNCED_ON = 1 << 0, /* this node answers; else it could, if others did not */
};

struct announced {
	__u32 ifindex; /* the address's link */
	__u32 flags;
	union mac mac; /* of that link's device */
	__u16 pad;
};

/* Written by the daemon; a row per load balancer's address that this node may announce. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, union addr);
	__type(value, struct announced);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} announced SEC(".maps");

/* Written by the daemon: when it last gave a sign of life (CLOCK_BOOTTIME, ns); 0: never. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} heartbeat SEC(".maps");

struct claim {
	__u64 at;      /* CLOCK_BOOTTIME, ns */
	union mac mac; /* who says that the address is its own */
	__u16 pad;
};

/* Written by the programs: who else says that it has an address which this node answers
 * for. Read by the daemon. As many as a person would look at.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, union addr);
	__type(value, struct claim);
	__uint(max_entries, 1024);
} claims SEC(".maps");

/* Which of the packets that the daemon wants other nodes to return (passed.h) did come: when
 * (CLOCK_BOOTTIME, ns), by nonce as in the packet. The daemon makes the rows, with 0, and
 * deletes them, so that strangers' packets leave no trace; those that it has forgotten go by
 * themselves.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u64);
	__type(value, __u64);
	__uint(max_entries, 4096);
} returned SEC(".maps");

/* A daemon that has been silent for so long announces nothing; bpf.SilenceLimit. */
#define SILENCE_LIMIT (15 * 1000000000ULL)

/* What nodes ask each other, in a UDP datagram; daemon/announce has the same. Numbers are
 * in network order.
 */
struct probe {
	__u8 magic[4]; /* "weft" */
	__u8 kind;
	__u8 flags; /* of an answer */
	__u16 pad;
	__u64 nonce;
	__u32 age; /* of the daemon's last sign of life, ms; all ones: there was none */
	__u32 pad2;
	union addr addr; /* asked about */
};

enum {
	PROBE_MAGIC = 0x74666577,
	PROBE_QUESTION = 1,
	PROBE_ANSWER = 2,
	PROBE_RETURN = 4,    /* by another node, from an address that need not be its own */
	PROBE_ON = 1 << 0,   /* it answers for the address */
	PROBE_HELD = 1 << 1, /* or could */
	PROBE_LEN = 40,
};

/* How long the daemon has been silent, ns. */
static __always_inline __u64 silence(void)
{
	__u32 key = 0;
	__u64 *at = bpf_map_lookup_elem(&heartbeat, &key), now = bpf_ktime_get_boot_ns();

	if (!at || !*at)
		return ~0ULL;
	return now > *at ? now - *at : 0;
}

static __always_inline struct announced *announced_of(const union addr *addr)
{
	return bpf_map_lookup_elem(&announced, addr);
}

static __always_inline bool answers_for(const struct announced *row)
{
	return row && row->flags & ANNOUNCED_ON && silence() < SILENCE_LIMIT;
}

/* Somebody says that addr is its own. */
static __always_inline void note_claim(struct __sk_buff *skb, const union addr *addr,
				       const __u16 *mac)
{
	struct announced *row = announced_of(addr);
	struct claim c = {};

	if (!row || !(row->flags & ANNOUNCED_ON) || row->ifindex != skb->ifindex ||
	    same_mac(mac, row->mac.h))
		return;
	c.at = bpf_ktime_get_boot_ns();
	copy_mac(c.mac.h, mac);
	bpf_map_update_elem(&claims, addr, &c, BPF_ANY);
}

/* Answers an ARP question for an announced address; also one without a sender, by which
 * somebody wants to find out whether the address is free (RFC 5227).
 */
__noinline int announce_arp(struct __sk_buff *skb)
{
	struct announced *row;
	struct ethhdr *eth;
	struct arphdr *arp;
	union addr from, target;
	__u32 spa, tpa;

	pull(skb, ETH_HLEN + sizeof(*arp));
	eth = data_of(skb);
	arp = (void *)eth + ETH_HLEN;
	if ((void *)(arp + 1) > end_of(skb) || skb->vlan_present ||
	    skb->pkt_type == PACKET_OTHERHOST || arp->hrd != htons(1) ||
	    arp->pro != htons(ETH_P_IP) || arp->hln_pln != htons(0x0604))
		return TCX_NEXT;
	spa = arp->spa[0] | (__u32)arp->spa[1] << 16;
	tpa = arp->tpa[0] | (__u32)arp->tpa[1] << 16;
	from = addr_of_v4(spa);
	target = addr_of_v4(tpa);
	note_claim(skb, &from, arp->sha);
	row = announced_of(&target);
	if (arp->op != htons(ARP_REQUEST) || spa == tpa || !answers_for(row) ||
	    row->ifindex != skb->ifindex || same_mac(arp->sha, row->mac.h))
		return TCX_NEXT;
	arp->op = htons(ARP_REPLY);
	copy_mac(eth->dst, arp->sha);
	copy_mac(eth->src, row->mac.h);
	copy_mac(arp->tha, arp->sha);
	copy_mac(arp->sha, row->mac.h);
	arp->spa[0] = tpa;
	arp->spa[1] = tpa >> 16;
	arp->tpa[0] = spa;
	arp->tpa[1] = spa >> 16;
	return bpf_redirect(skb->ifindex, 0);
}

/* An advertisement of an announced address to who asked, or to all if that one has no
 * address yet (RFC 4862, 5.4.3): always with our MAC.
 */
static __always_inline int answer_announced(struct __sk_buff *skb, const struct announced *row)
{
	const __u32 len = sizeof(struct ndhdr) + sizeof(struct ndopt);
	union mac mac = row->mac;
	struct ipv6hdr *h;
	struct ethhdr *eth;
	struct ndopt *opt;
	struct ndhdr *nd;
	bool asks;
	__u32 sum;

	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(*h) + len, 0))
		return TCX_NEXT;
	pull(skb, ETH_HLEN + sizeof(*h) + len);
	eth = data_of(skb);
	h = (void *)eth + ETH_HLEN;
	nd = (void *)(h + 1);
	opt = (void *)(nd + 1);
	if ((void *)(opt + 1) > end_of(skb))
		return TCX_NEXT;
	asks = h->saddr[0] | h->saddr[1] | h->saddr[2] | h->saddr[3];
	h->flow = htonl(0x60000000);
	h->payload_len = htons(len);
	h->hop_limit = 255;
	if (asks) {
		__builtin_memcpy(h->daddr, h->saddr, 16);
		copy_mac(eth->dst, eth->src);
	} else {
		const __u16 all[] = {htons(0x3333), 0, htons(1)};

		h->daddr[0] = htonl(0xff020000);
		h->daddr[1] = h->daddr[2] = 0;
		h->daddr[3] = htonl(1);
		copy_mac(eth->dst, all);
	}
	copy_mac(eth->src, mac.h);
	__builtin_memcpy(h->saddr, nd->target, 16);
	nd->type = ND_ADVERT;
	nd->code = 0;
	nd->check = 0;
	nd->flags = asks ? htonl(0x60000000) : htonl(0x20000000); /* solicited, override */
	opt->type = 2;
	opt->len = 1;
	copy_mac(opt->mac, mac.h);
	sum = bpf_csum_diff(NULL, 0, h->saddr, 32, htonl(len + IPPROTO_ICMPV6));
	sum = bpf_csum_diff(NULL, 0, (__u32 *)nd, len, sum);
	nd->check = ~fold(sum);
	return bpf_redirect(skb->ifindex, 0);
}

/* The same for ICMPv6: a solicitation is answered, an advertisement by others noted.
 * NOT_OURS: it is neither.
 */
__noinline int announce_nd(struct __sk_buff *skb)
{
	struct announced *row;
	struct ethhdr *eth;
	struct ipv6hdr *h;
	struct ndhdr *nd;
	struct ndopt *opt;
	union addr target;
	__u16 mac[3];
	__u8 type;

	pull(skb, ETH_HLEN + sizeof(*h) + sizeof(*nd) + sizeof(*opt));
	eth = data_of(skb);
	h = (void *)eth + ETH_HLEN;
	nd = (void *)(h + 1);
	opt = (void *)(nd + 1);
	if ((void *)(nd + 1) > end_of(skb) || h->hop_limit != 255 || nd->code ||
	    (nd->type != ND_SOLICIT && nd->type != ND_ADVERT))
		return NOT_OURS;
	if (skb->vlan_present || skb->pkt_type == PACKET_OTHERHOST)
		return TCX_NEXT;
	type = nd->type;
	target = addr_of_v6(nd->target);
	copy_mac(mac, eth->src);
	if (type == ND_ADVERT) {
		if ((void *)(opt + 1) <= end_of(skb) && opt->type == 2)
			copy_mac(mac, opt->mac);
		note_claim(skb, &target, mac);
		return TCX_NEXT;
	}
	row = announced_of(&target);
	if (!answers_for(row) || row->ifindex != skb->ifindex || same_mac(mac, row->mac.h))
		return TCX_NEXT;
	return answer_announced(skb, row);
}

static __always_inline int note_returned(__u64 nonce)
{
	__u64 *at = bpf_map_lookup_elem(&returned, &nonce);

	if (!at)
		return NOT_OURS;
	*at = bpf_ktime_get_boot_ns();
	return TCX_DROP;
}

/* Answers another node's probe, whose UDP header is behind an IP header of hlen bytes, by
 * that packet turned around. Whatever else comes to that port is the daemon's.
 */
static __always_inline int answer_probe(struct __sk_buff *skb, bool v6)
{
	const __u32 hlen = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 len = sizeof(struct udphdr) + PROBE_LEN;
	struct announced *row;
	struct endpoint *ep;
	struct ethhdr *eth;
	struct udphdr *udp;
	struct probe *p;
	struct ip ip = {.v6 = v6};
	union addr addr;
	__u64 silent = silence();
	__u8 flags = 0;
	__u16 port;
	__u32 sum;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return NOT_OURS;
	pull(skb, ETH_HLEN + hlen + len);
	udp = data_of(skb) + ETH_HLEN + hlen;
	p = (void *)(udp + 1);
	if ((void *)(p + 1) > end_of(skb) || udp->len != htons(len) ||
	    *(__u32 *)p->magic != PROBE_MAGIC)
		return NOT_OURS;
	if (p->kind == PROBE_RETURN)
		return note_returned(p->nonce);
	if (p->kind != PROBE_QUESTION)
		return NOT_OURS;
	if (v6 ? parse_v6(skb, ETH_HLEN, &ip) : parse_v4(skb, ETH_HLEN, &ip))
		return NOT_OURS;
	ep = endpoint_of(&ip.dst);
	if (ip.len != hlen + len || !ep || !(ep->flags & EP_HOST))
		return NOT_OURS;
	eth = data_of(skb);
	udp = (void *)eth + ETH_HLEN + hlen;
	p = (void *)(udp + 1);
	if ((void *)(p + 1) > end_of(skb))
		return NOT_OURS;
	addr = p->addr;
	row = announced_of(&addr);
	if (row)
		flags = PROBE_HELD;
	if (row && row->flags & ANNOUNCED_ON && silent < SILENCE_LIMIT)
		flags |= PROBE_ON;
	turn_frame(eth);
	sum = write_back(eth + 1, &ip, IPPROTO_UDP, len);
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	p->kind = PROBE_ANSWER;
	p->flags = flags;
	p->age = silent == ~0ULL ? ~0U : htonl(silent / 1000000);
	udp->check = 0;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)udp, len, sum);
	udp->check = ~fold(sum);
	if (!udp->check)
		udp->check = 0xffff;
	return bpf_redirect(skb->ifindex, 0);
}

__noinline int answer_probe_v4(struct __sk_buff *skb)
{
	return answer_probe(skb, false);
}

__noinline int answer_probe_v6(struct __sk_buff *skb)
{
	return answer_probe(skb, true);
}

/* Of what is no tunnel's, what the daemon need not see. NOT_OURS: all else. The first bytes
 * have been pulled (is_tunnel_v4, is_tunnel_v6).
 */
static __always_inline int announce_v4(struct __sk_buff *skb)
{
	struct iphdr *h = data_of(skb) + ETH_HLEN;
	struct udphdr *udp = (void *)(h + 1);

	if (likely((void *)(udp + 1) > end_of(skb) || h->protocol != IPPROTO_UDP ||
		   udp->dest != htons(config.announce_port)))
		return NOT_OURS;
	if (h->version_ihl != 0x45 || h->frag_off & htons(0x3fff))
		return NOT_OURS;
	return answer_probe_v4(skb);
}

static __always_inline int announce_v6(struct __sk_buff *skb)
{
	struct ipv6hdr *h = data_of(skb) + ETH_HLEN;
	struct udphdr *udp = (void *)(h + 1);

	if ((void *)(udp + 1) > end_of(skb))
		return NOT_OURS;
	if (unlikely(h->nexthdr == IPPROTO_ICMPV6))
		return announce_nd(skb);
	if (likely(h->nexthdr != IPPROTO_UDP || udp->dest != htons(config.announce_port)))
		return NOT_OURS;
	return answer_probe_v6(skb);
}
