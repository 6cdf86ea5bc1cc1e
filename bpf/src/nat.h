/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Giving a packet other addresses and ports, its checksums kept right. */
#pragma once
#include "flow.h"

enum {
	MARK_TRANSLATED = 0x7765, /* tc_index; a class of traffic with this number is unlikely */
};

/* Marks what has been translated, is to a pod of this node, and is left to the stack: for to_pod
 * it could be a packet of another flow, by the tuple that it has now. The kernel keeps tc_index,
 * also of segments and fragments, but where another's program in TC says that a packet is well.
 */
static __always_inline int leave_mark(struct __sk_buff *skb, int did)
{
	if (unlikely(did == TCX_NEXT))
		skb->tc_index = MARK_TRANSLATED;
	return did;
}

/* Whether a packet has that mark. It does not keep it: pods send on what they get, too. */
static __always_inline bool take_mark(struct __sk_buff *skb)
{
	if (likely(skb->tc_index != MARK_TRANSLATED))
		return false;
	skb->tc_index = 0;
	return true;
}

/* GF(2) polynomials modulo CRC32c's, in the reflected form: bit 31 is x^0. */
static __always_inline __u32 times_x(__u32 v)
{
	return v >> 1 ^ (0x82f63b78 & -(v & 1));
}

/* a·b. */
static __noinline __u32 times(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = times_x(b);
	}
	return product;
}

/* What the CRC32c of a message of len bytes changes by when its first four bytes change
 * by diff (an XOR, as stored): CRC is linear, so the message itself need not be read.
 */
static __noinline __u32 crc_diff(__u32 diff, __u32 len)
{
	__u32 square = 0x00800000; /* x^8: by one byte */

	for (int i = 0; i < 16; i++) {
		if (len & 1)
			diff = times(diff, square);
		len >>= 1;
		square = times(square, square);
	}
	return diff;
}

/* SCTP's checksum (RFC 9260, appendix A) when the ports change from old to new, network
 * order. Zero is one that the device is still to make.
 */
static __always_inline enum reason sctp_sum(struct __sk_buff *skb, const struct ip *ip,
					    const struct l4 *l4, __u32 old, __u32 new)
{
	__u32 diff = crc_diff(old ^ new, ip->len - (l4->off - ETH_HLEN));
	__u32 *sum = data_of(skb) + start_of(l4) + 8;

	if (unlikely((void *)(sum + 1) > end_of(skb)))
		return DROP_TRUNCATED;
	if (*sum)
		*sum ^= diff;
	return OK;
}

static __always_inline __u32 sum_words(const __u32 *a, const __u32 *b, int n)
{
	__u64 sum = 0;

	for (int i = 0; i < n; i++)
		sum += (__u64)b[i] + (__u32)~a[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* Writes addresses; *diff is what their sum changes by. */
static __always_inline enum reason set_addrs(struct __sk_buff *skb, struct ip *ip,
					     const union addr *src, const union addr *dst,
					     __u32 *diff)
{
	__u32 old[8], new[8];

	if (ip->v6) {
		struct ipv6hdr *h = data_of(skb) + ETH_HLEN;

		if (unlikely((void *)(h + 1) > end_of(skb)))
			return DROP_INTERNAL;
		__builtin_memcpy(old, ip->src.w, 16);
		__builtin_memcpy(old + 4, ip->dst.w, 16);
		__builtin_memcpy(new, src->w, 16);
		__builtin_memcpy(new + 4, dst->w, 16);
		__builtin_memcpy(h->saddr, src->w, 16);
		__builtin_memcpy(h->daddr, dst->w, 16);
		*diff = sum_words(old, new, 8);
	} else {
		struct iphdr *h = data_of(skb) + ETH_HLEN;

		if (unlikely((void *)(h + 1) > end_of(skb)))
			return DROP_INTERNAL;
		old[0] = h->saddr;
		old[1] = h->daddr;
		new[0] = src->w[3];
		new[1] = dst->w[3];
		h->saddr = new[0];
		h->daddr = new[1];
		*diff = sum_words(old, new, 2);
		/* HC' = ~(~HC + ~m + m'), RFC 1624 */
		h->check = ~fold((__u64)(__u16)~h->check + *diff);
	}
	ip->src = *src;
	ip->dst = *dst;
	return OK;
}

/* The place of the checksum of TCP or UDP, or NULL. */
static __always_inline __u16 *sum_of(struct __sk_buff *skb, const struct l4 *l4)
{
	__u16 *sum = data_of(skb) + start_of(l4) + (l4->proto == IPPROTO_UDP ? 6 : 16);

	return likely((void *)(sum + 1) <= end_of(skb)) ? sum : NULL;
}

/* Makes the checksum right for other ports. It had been `was`, and then the kernel added what the
 * addresses change by, diff: in another way where a device is to complete the sum, which has no
 * ports then. So that tells whether they are to be added; a second call of the kernel would take
 * as long as all of this several times. False: it does not tell.
 */
static __always_inline bool add_ports(struct __sk_buff *skb, const struct l4 *l4, __u16 was,
				      __u32 diff, __u32 old, __u32 new)
{
	__u16 partial = fold((__u64)was + diff), whole = ~fold((__u64)(__u32)~was + diff);
	__u16 *sum = sum_of(skb, l4);

	/* Where addresses change nothing, 0xffff could be either, and 0 none. */
	if (unlikely(!sum) || unlikely(partial == whole) || unlikely(fold(diff) == 0xffff))
		return false;
	if (likely(*sum == partial))
		return true;
	if (unlikely(*sum != whole))
		return false;
	whole = ~fold((__u64)(__u16)~whole + (__u32)~old + new); /* RFC 1624 */
	*sum = unlikely(!whole) && l4->proto == IPPROTO_UDP ? 0xffff : whole;
	return true;
}

/* Makes the packet, whose Ethernet header is followed by its IP header, one of the
 * tuple that the flow's row says.
 */
__noinline int translate(struct __sk_buff *skb, struct packet *p, struct flow *f)
{
	struct ip *ip = &p->ip;
	struct l4 *l4 = &p->l4;
	__u32 old, new, diff, at;
	__u16 *ports, *sum, was;
	enum reason why;
	__u64 flags;
	long bad = 0;

	if (!p || !f)
		return DROP_INTERNAL;
	why = set_addrs(skb, ip, &f->src, &f->dst, &diff);
	l4->sport = f->sport;
	l4->dport = f->dport;
	if (unlikely(why) || unlikely(!l4->off))
		return why;
	ports = data_of(skb) + start_of(l4);
	if (unlikely((void *)(ports + 2) > end_of(skb)))
		return DROP_INTERNAL;
	old = ports[0] | (__u32)ports[1] << 16;
	ports[0] = htons(f->sport);
	ports[1] = htons(f->dport);
	new = ports[0] | (__u32)ports[1] << 16;
	if (unlikely(l4->proto == IPPROTO_SCTP)) {
		if (old == new)
			return OK;
		return l4->more ? DROP_FRAGMENT : sctp_sum(skb, ip, l4, old, new);
	}
	sum = sum_of(skb, l4);
	was = likely(sum) ? *sum : 0;
	at = l4->off + (l4->proto == IPPROTO_UDP ? 6 : 16);
	flags = l4->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	/* Linux 6.16 knows that IPv6 has no header checksum to make up for the change. */
	if (!ip->v6 || bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_PSEUDO_HDR | BPF_F_IPV6))
		bad = bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_PSEUDO_HDR);
	if (old != new && unlikely(!add_ports(skb, l4, was, diff, old, new)))
		bad |= bpf_l4_csum_replace(skb, at, old, new, flags | sizeof(old));
	return unlikely(bad) ? DROP_INTERNAL : OK;
}
