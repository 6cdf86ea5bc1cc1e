/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ICMP errors about translated packets: whoever sent such a packet knows it as it was
 * before, so the error and the packet that it quotes are turned into that.
 */
#pragma once
#include "nat.h"
#include "reject.h"

/* Errors of RFC 792; in RFC 4443 they are 1 to 4. */
enum {
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
};

static __always_inline bool is_error(__u8 type, bool v6)
{
	if (v6)
		return type >= 1 && type <= 4;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
}

/* Reads the packet quoted by the ICMP error p: t is the tuple that answers it, *off the
 * offset of its ports, which is as much as is known of protocols without any. False: p is
 * no error, or what it quotes cannot be read.
 */
static __always_inline bool read_quote(struct __sk_buff *skb, const struct packet *p,
				       struct tuple *t, __u32 *off)
{
	__u32 at = p->l4.off;
	__u16 ports[2];
	__u8 b[4];

	__builtin_memset(t, 0, sizeof(*t));
	if (!at || p->l4.more || p->l4.proto != (p->ip.v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) ||
	    bpf_skb_load_bytes(skb, at, b, 1) || !is_error(b[0], p->ip.v6))
		return false;
	at += sizeof(struct icmphdr);
	if (p->ip.v6) {
		struct fraghdr f;

		if (bpf_skb_load_bytes(skb, at + 8, &t->dst, 16) ||
		    bpf_skb_load_bytes(skb, at + 24, &t->src, 16) ||
		    bpf_skb_load_bytes(skb, at + 6, b, 1))
			return false;
		at += sizeof(struct ipv6hdr);
		if (b[0] == IPPROTO_FRAGMENT) {
			if (bpf_skb_load_bytes(skb, at, &f, sizeof(f)) || f.offset & htons(0xfff8))
				return false;
			b[0] = f.nexthdr;
			at += sizeof(f);
		}
		t->proto = b[0];
	} else {
		struct iphdr h;

		if (bpf_skb_load_bytes(skb, at, &h, sizeof(h)) || h.version_ihl != 0x45 ||
		    h.frag_off & htons(0x1fff))
			return false;
		t->src = addr_of_v4(h.daddr);
		t->dst = addr_of_v4(h.saddr);
		t->proto = h.protocol;
		at += sizeof(h);
	}
	*off = at;
	if (!has_ports(t->proto))
		return true;
	if (at + sizeof(ports) > p->l4.off - p->ip.hlen + p->ip.len ||
	    bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return false;
	t->dport = ntohs(ports[0]);
	t->sport = ntohs(ports[1]);
	return true;
}

/* The row by which an ICMP error is to be translated: f. NOT_OURS: it is about no
 * translated packet, or not for who sent that. PASS_ON: it is about one that f's backend's
 * node translates.
 */
__noinline int error_of(struct __sk_buff *skb, struct packet *p, struct flow *f)
{
	struct tuple t;
	int place;
	__u32 off;

	if (!p || !f)
		return DROP_INTERNAL;
	if (likely(!read_quote(skb, p, &t, &off)) || !has_ports(t.proto) ||
	    !same_addr(&t.dst, &p->ip.dst))
		return NOT_OURS;
	if (!copy_flow(&t, f, &place))
		return NOT_OURS;
	return unlikely(f->flags & FLOW_PASSED) ? PASS_ON : OK;
}

/* Changes a checksum at `at` for data that changed by diff; *total is what the sum of all
 * changes by. UDP's zero is none, and no sum is zero (RFC 768).
 */
static __always_inline long fix_sum(struct __sk_buff *skb, __u32 at, __u64 diff, bool udp,
				    __u64 *total)
{
	__u16 old, new;

	if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)))
		return -1;
	if (udp && !old)
		return 0;
	new = ~fold((__u16)~old + diff); /* RFC 1624 */
	if (udp && !new)
		new = 0xffff;
	*total += (__u16)~old + (__u64) new;
	return bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0);
}

/* Writes the quoted packet as its sender knows it, whose ports are at `at`; *total is
 * what the sum of the ICMP message changes by.
 */
static __always_inline long set_quote(struct __sk_buff *skb, const struct packet *p,
				      const struct tuple *t, const struct flow *f, __u32 at,
				      __u64 *total)
{
	const __u32 head = p->l4.off + sizeof(struct icmphdr);
	__u16 ports[2] = {htons(f->dport), htons(f->sport)};
	__u64 diff = sum_words(t->src.w, f->src.w, 8);
	__u32 sum = at + (t->proto == IPPROTO_UDP ? 6 : 16);
	long bad = 0;

	*total = diff;
	if (p->ip.v6) {
		bad |= bpf_skb_store_bytes(skb, head + 8, &f->dst, 16, 0);
		bad |= bpf_skb_store_bytes(skb, head + 24, &f->src, 16, 0);
	} else {
		bad |= bpf_skb_store_bytes(skb, head + 12, &f->dst.w[3], 4, 0);
		bad |= bpf_skb_store_bytes(skb, head + 16, &f->src.w[3], 4, 0);
		bad |= fix_sum(skb, head + 10, diff, false, total);
	}
	diff += (__u16)~htons(t->dport) + (__u64)ports[0];
	diff += (__u16)~htons(t->sport) + (__u64)ports[1];
	*total += (__u16)~htons(t->dport) + (__u64)ports[0];
	*total += (__u16)~htons(t->sport) + (__u64)ports[1];
	bad |= bpf_skb_store_bytes(skb, at, ports, sizeof(ports), 0);
	/* SCTP's is over what is not quoted: nobody can check it. */
	if (t->proto != IPPROTO_SCTP && sum + 2 <= p->l4.off - p->ip.hlen + p->ip.len)
		bad |= fix_sum(skb, sum, diff, t->proto == IPPROTO_UDP, total);
	return bad;
}

/* Translates the ICMP error p by the row of what it is about. What was translated said it
 * seems to come from the Service; a router on the way stays who it is, except before a
 * backend that sees this node as the client: the overlay takes no others from here.
 */
__noinline int translate_error(struct __sk_buff *skb, struct packet *p, struct flow *f)
{
	union addr src;
	struct tuple t;
	enum reason why;
	__u64 total;
	__u32 diff, at;

	if (!p || !f || !read_quote(skb, p, &t, &at))
		return DROP_INTERNAL;
	src = p->ip.src;
	if (same_addr(&src, &t.src) || (!(f->flags & FLOW_REPLY) && !same_addr(&t.src, &f->src)))
		src = f->src;
	if (unlikely(set_quote(skb, p, &t, f, at, &total)))
		return DROP_INTERNAL;
	pull(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	why = set_addrs(skb, &p->ip, &src, &f->dst, &diff);
	if (unlikely(why))
		return why;
	if (p->ip.v6) /* its pseudo header */
		total += diff;
	return fix_sum(skb, p->l4.off + 2, total, false, &total) ? DROP_INTERNAL : OK;
}
