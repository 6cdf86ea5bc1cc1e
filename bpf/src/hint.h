/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a node that passes a packet on says of its choice. It is told by the MACs of the
 * frame in the tunnel, which nobody else reads: both nodes so have the same backend even
 * while one of them knows more of the Service than the other.
 */
#pragma once
#include "choose.h"
#include "flow.h"
#include "own.h"

/* The backend's port, and the second half of its address: the first is that of the node's
 * own pods, or of all IPv4 addresses. Both MACs are unicast, local ones, and no node's.
 */
struct hint {
	__u8 dst[6]; /* HINT, or HINT_AGAIN; port; 3 bytes of the address */
	__u8 src[6]; /* HINT; 5 bytes of the address */
};

enum {
	HINT = 0x02,
	HINT_AGAIN = 0x06, /* it has been passed on before */
};

static __always_inline bool is_again(const struct hint *h)
{
	return h->dst[0] == HINT_AGAIN;
}

static __always_inline void write_hint(struct hint *h, const union addr *to, __u16 port, bool again)
{
	h->dst[0] = again ? HINT_AGAIN : HINT;
	h->dst[1] = port >> 8;
	h->dst[2] = port;
	__builtin_memcpy(h->dst + 3, to->b + 8, 3);
	h->src[0] = HINT;
	__builtin_memcpy(h->src + 1, to->b + 11, 5);
}

/* Fills the second half of the address and returns the port; the first half is the
 * caller's, that of an IPv4 address is zero.
 */
static __always_inline __u16 read_hint(const struct hint *h, union addr *to)
{
	__builtin_memcpy(to->b + 8, h->dst + 3, 3);
	__builtin_memcpy(to->b + 11, h->src + 1, 5);
	return h->dst[1] << 8 | h->dst[2];
}

/* The backend that the node chose which passed the packet on, if it is a pod of this node
 * and lives. Whether it still is one of this Service's is not asked: that node may know more,
 * or less, for a moment.
 */
static __always_inline bool hinted(const struct hint *hint, const struct tuple *t,
				   struct backend *to)
{
	__u32 gateway = OWN_GATEWAY + 1, *generation;
	struct alive_key key = {.proto = t->proto};
	struct endpoint *ep;
	union addr *own_addr;

	if (!is_v4(&t->dst)) {
		own_addr = bpf_map_lookup_elem(&own, &gateway);
		if (!own_addr)
			return false;
		key.addr.d[0] = own_addr->d[0];
	}
	key.port = read_hint(hint, &key.addr);
	ep = endpoint_of(&key.addr);
	if (!ep || ep->flags & EP_HOST)
		return false;
	generation = bpf_map_lookup_elem(&alive, &key);
	if (!generation)
		return false;
	*to = (struct backend){.addr = key.addr, .port = key.port, .generation = *generation};
	return true;
}

/* Whether a backend is a pod of another node to which there is a way, and which can answer
 * clients itself.
 */
static __always_inline bool may_pass(const union addr *to)
{
	struct peer *peer;

	if (endpoint_of(to))
		return false;
	peer = peer_of(to);
	return peer && peer->ifindex && !(peer->flags & PEER_MUTE);
}

/* Takes note of a packet of a flow that is passed on, of which f is a copy of its row, or says
 * (NOT_OURS) that a backend is to be chosen anew: the former is gone, or another flow of the same
 * tuple begins, or the flow has no answer as its backend's node cannot send any. A connection that
 * is open stays: if it was answered before, it may be again.
 */
static __always_inline int note_passed(const struct tuple *t, struct flow *known,
				       const struct flow *f, __u8 flags, int place)
{
	struct at_hand *h = at_hand_of();

	if (unlikely(!is_alive(&f->dst, f->dport, t->proto, f->generation)))
		return NOT_OURS;
	if (unlikely(flags & TCP_SYN && f->flags & FLOW_CLOSED))
		return NOT_OURS;
	if (unlikely((flags & TCP_SYN || (t->proto == IPPROTO_UDP && f->seen != now())) &&
		     !may_pass(&f->dst)))
		return NOT_OURS;
	if (f->seen != now())
		known->seen = now();
	if (unlikely(flags & (TCP_FIN | TCP_RST)) && h) {
		other_of(f, t->proto, &h->other);
		if (flag_brief(place, t, &h->other, FLOW_CLOSED, 0) == -DROP_FLOWS_BUSY)
			return DROP_FLOWS_BUSY;
	}
	return PASS_ON;
}
