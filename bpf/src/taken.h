/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports that a flow through a Service cannot have, as its client has a connection to the backend
 * itself from there, which is not translated: it has no row (direct.h is about the other way
 * round), but if the backend is in the node's own network, the kernel knows its socket. Of sockets
 * in pods it does not tell here: their namespaces have no number.
 */
#pragma once
#include "claim.h"
#include "kernel.h"

enum {
	TAKEN_TRIES = 4, /* if all those ports are taken, the SYN comes again: see note_answer */
};

/* The state of the socket of this node that has the tuple of packets that become f; 0: there is
 * none. One that only listens has no tuple.
 */
static __always_inline __u32 socket_of(struct __sk_buff *skb, const struct flow *f)
{
	struct bpf_sock_tuple k;
	struct bpf_sock *sk;
	__u32 state;

	if (is_v4(&f->dst)) {
		k.ipv4.saddr = f->src.w[3];
		k.ipv4.daddr = f->dst.w[3];
		k.ipv4.sport = htons(f->sport);
		k.ipv4.dport = htons(f->dport);
		sk = bpf_skc_lookup_tcp(skb, &k, sizeof(k.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(k.ipv6.saddr, &f->src, 16);
		__builtin_memcpy(k.ipv6.daddr, &f->dst, 16);
		k.ipv6.sport = htons(f->sport);
		k.ipv6.dport = htons(f->dport);
		sk = bpf_skc_lookup_tcp(skb, &k, sizeof(k.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state == TCP_LISTEN ? 0 : state;
}

/* Gives a new connection to an address of this node, f, another port if its own is taken: the one
 * by which this node stands in for it, or, if that is taken as well, any. (What claim has to say
 * about the tuple of its replies comes after that.)
 *
 * A connection that is half open may be this flow, if its row was pushed out before its SYN came
 * again. One that has ended (TIME_WAIT) lets a newer SYN follow, but what is newer (sequence
 * numbers, timestamps) a client counts apart for each address that it asks: after one to the
 * backend itself, one to a Service would have to come again, as often as not. What has ended on the
 * other port was to the Service, too, and from the same port of the client. A port below 1024 may
 * be what the client is let in for, and is used again for the same address.
 */
__noinline int avoid_taken(struct __sk_buff *skb, struct flow *f, __u32 stand_in)
{
	__u32 state;
	int i;

	if (!f)
		return DROP_INTERNAL;
	for (i = 0; i < TAKEN_TRIES; i++) {
		state = socket_of(skb, f);
		if (likely(!state) || state == TCP_NEW_SYN_RECV)
			return OK;
		if (state == TCP_TIME_WAIT && (f->sport == stand_in || f->sport < PORT_FIRST))
			return OK;
		f->sport = i == 0 && f->sport != stand_in
				   ? stand_in
				   : PORT_FIRST + bpf_get_prandom_u32() % PORTS;
	}
	return OK;
}
