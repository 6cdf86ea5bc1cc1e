/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a node that passes a packet on says of its choice. It is told by the MACs of the
 * frame in the tunnel, which nobody else reads: both nodes so have the same backend even
 * while one of them knows more of the Service than the other.
 */
#pragma once
#include "kernel.h"
#include "rows.h"

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
