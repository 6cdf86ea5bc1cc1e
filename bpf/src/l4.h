/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports of a packet, its later fragments included. */
#pragma once
#include "ip.h"

/* TCP flags (RFC 9293, section 3.1). */
enum {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/* The header behind the IP header. Without one (a later fragment) off is 0. */
struct l4 {
	__u16 sport; /* host order */
	__u16 dport;
	__u16 off; /* from the frame's start */
	__u8 proto;
	__u8 flags;    /* TCP's */
	bool more;     /* the first fragment of several */
	bool unported; /* a protocol without ports, or IPv4 options before them */
	__u8 kind; /* ICMP's type; SCTP's first chunk's; the protocol behind hop-by-hop options */
};

struct fragment_key {
	union addr src;
	union addr dst;
	__u32 id;
	__u8 proto;
	__u8 pad[3];
};

struct fragment {
	__u16 sport;
	__u16 dport;
};

/* Ports of datagrams whose first fragment has passed. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 8192);
} fragments SEC(".maps");

/* How much of a header is read or changed here; of others there may be nothing more. */
static __always_inline __u32 l4_len(__u8 proto)
{
	if (proto == IPPROTO_TCP)
		return sizeof(struct tcphdr);
	return proto == IPPROTO_SCTP ? 12 : 8;
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static __always_inline int read_ports(struct __sk_buff *skb, __u32 off, struct l4 *l4)
{
	__u16 *ports;
	__u8 *flags;

	pull(skb, off + l4_len(l4->proto));
	ports = fresh_data(skb) + off;
	flags = (void *)ports + 13;
	l4->off = off;
	if (!has_ports(l4->proto)) {
		l4->unported = true;
		if ((l4->proto == IPPROTO_ICMP || l4->proto == IPPROTO_ICMPV6 ||
		     l4->proto == IPPROTO_HOPOPTS) &&
		    (void *)(ports + 1) <= fresh_end(skb))
			l4->kind = *(__u8 *)ports;
		return OK;
	}
	if (unlikely((void *)(ports + 4) > fresh_end(skb)))
		return DROP_TRUNCATED;
	l4->sport = ntohs(ports[0]);
	l4->dport = ntohs(ports[1]);
	if (l4->proto == IPPROTO_SCTP && (void *)(ports + 7) <= fresh_end(skb))
		l4->kind = ports[6];
	if (l4->proto != IPPROTO_TCP)
		return OK;
	if (unlikely((void *)(ports + 10) > fresh_end(skb)))
		return DROP_TRUNCATED;
	l4->flags = *flags;
	return OK;
}

/* Behind a fragment header at off with this id: the first one's ports are kept for the
 * others.
 */
static __always_inline int read_fragment(struct __sk_buff *skb, const struct ip *ip, __u32 off,
					 __u32 id, __u16 at, struct l4 *l4)
{
	struct fragment_key key = {.id = id, .proto = l4->proto};
	struct fragment ports, *known;
	int why;

	key.src = ip->src;
	key.dst = ip->dst;
	if (at) {
		known = bpf_map_lookup_elem(&fragments, &key);
		if (!known)
			return DROP_FRAGMENT;
		l4->sport = known->sport;
		l4->dport = known->dport;
		return OK;
	}
	l4->more = true;
	why = read_ports(skb, off, l4);
	if (why || l4->unported)
		return why;
	ports.sport = l4->sport;
	ports.dport = l4->dport;
	bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	return OK;
}

/* Where the header begins, within bounds that the verifier accepts of a packet. */
static __always_inline __u32 start_of(const struct l4 *l4)
{
	return l4->off & 0x1ff;
}

/* A packet as far as Services know it. */
struct packet {
	struct ip ip;
	struct l4 l4;
};

/* Reads the ports of a packet, whose IP header is at `at` and in p. A function of its
 * own (global: verified once, whatever its callers know).
 */
__noinline int read_l4(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct l4 *l4;

	if (!p || at > 256)
		return DROP_INTERNAL;
	l4 = &p->l4;
	__builtin_memset(l4, 0, sizeof(*l4));
	l4->proto = p->ip.proto;
	if (!p->ip.v6) {
		struct iphdr *h = fresh_data(skb) + at;
		__u16 frag;

		if (unlikely((void *)(h + 1) > fresh_end(skb)))
			return DROP_TRUNCATED;
		frag = ntohs(h->frag_off);
		if (unlikely(p->ip.options)) { /* the stack's matter, and policies' */
			at += p->ip.hlen & 0x3c;
			if (frag & 0x3fff)
				read_fragment(skb, &p->ip, at, h->id, frag & 0x1fff, l4);
			else
				read_ports(skb, at, l4);
			l4->unported = true;
			l4->off = 0;
			return OK;
		}
		if (unlikely(frag & 0x3fff))
			return read_fragment(skb, &p->ip, at + sizeof(*h), h->id, frag & 0x1fff,
					     l4);
		return read_ports(skb, at + sizeof(*h), l4);
	}
	if (unlikely(p->ip.proto == IPPROTO_FRAGMENT)) {
		struct fraghdr *f;

		pull(skb, at + sizeof(struct ipv6hdr) + sizeof(*f));
		f = fresh_data(skb) + at + sizeof(struct ipv6hdr);
		if (unlikely((void *)(f + 1) > fresh_end(skb)))
			return DROP_TRUNCATED;
		l4->proto = f->nexthdr;
		return read_fragment(skb, &p->ip, at + sizeof(struct ipv6hdr) + sizeof(*f), f->id,
				     ntohs(f->offset) & 0xfff8, l4);
	}
	return read_ports(skb, at + sizeof(struct ipv6hdr), l4);
}
