/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services per packet: which backend, and which addresses the packet gets for it. */
#pragma once
#include "affinity.h"
#include "choose.h"
#include "claim.h"
#include "flow.h"
#include "hint.h"
#include "own.h"
#include "overlay.h"
#include "reject.h"
#include "taken.h"

static __always_inline struct frontend *frontend_of(const union addr *addr, __u16 port, __u8 proto)
{
	struct frontend_key key = {.port = port, .proto = proto};

	key.addr = *addr;
	return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline bool in_ranges(__u64 id, const union addr *addr)
{
	struct range_key key = {.bits = 192};

	__builtin_memcpy(key.ranges, &id, 8);
	__builtin_memcpy(key.addr, addr, 16);
	return bpf_map_lookup_elem(&ranges, &key) != NULL;
}

/* The same on every node. */
static __always_inline __u32 hash_of(const struct tuple *t, bool client_only)
{
	__u64 h = mix(mix(0x77656674, t->src.d[0]), t->src.d[1]);

	if (!client_only) {
		h = mix(mix(h, t->dst.d[0]), t->dst.d[1]);
		h = mix(h, t->sport | (__u32)t->dport << 16 | (__u64)t->proto << 32);
	}
	return mix(h, 0) >> 32; /* ports come in steps, and a single round leaves that to be seen */
}

/* What a client that has no backend to stay with gets one by, when it comes from outside.
 * Nodes agree on it, so that it finds the same one through another node, but by the clock
 * it changes as often as the affinity may end: a client is not bound for ever.
 */
static __always_inline __u32 hash_of_client(const struct tuple *t, __u32 affinity)
{
	return mix(hash_of(t, true), bpf_ktime_get_tai_ns() / 1000000000 / affinity) >> 32;
}

/* A backend for a new flow, as the key's set and client have it; stays is the row of the one
 * that the client stays with, or NULL. Nothing is changed by it.
 */
static __always_inline enum reason find_backend(const struct frontend *fe, const struct tuple *t,
						bool outside, struct affinity_key *key,
						struct affinity **stays, struct backend *to)
{
	struct backend *b;
	struct set *set;

	*stays = NULL;
	*key = (struct affinity_key){.set = outside ? fe->outside : fe->inside};
	if (unlikely(fe->ranges) && !in_ranges(fe->ranges, &t->src))
		return DROP_SOURCE_RANGE;
	set = set_of(key->set);
	if (unlikely(!set))
		return REJECT_NO_BACKEND;
	if (unlikely(!set->count))
		return set->flags & SET_DROP ? DROP_NO_LOCAL_BACKEND : REJECT_NO_BACKEND;
	if (unlikely(fe->affinity)) {
		key->client = t->src;
		*stays = stay_of(key, t->proto);
		if (*stays) {
			*to = stayed_with(*stays);
			return OK;
		}
	}
	if (!outside)
		b = choose(key->set, set, bpf_get_prandom_u32());
	else
		b = choose_alike(key->set, set,
				 unlikely(fe->affinity) ? hash_of_client(t, fe->affinity)
							: hash_of(t, false));
	if (unlikely(!b))
		return REJECT_NO_BACKEND;
	*to = *b;
	return OK;
}

/* The same for a flow that begins now: its client stays with the backend. passed: another
 * node has counted it, and this one has another choice.
 */
static __always_inline enum reason pick_backend(const struct frontend *fe, const struct tuple *t,
						bool outside, bool passed, struct backend *to)
{
	struct affinity_key key;
	struct affinity *stays;
	enum reason why = find_backend(fe, t, outside, &key, &stays, to);

	if (likely(!why && !passed))
		count_begun(fe);
	if (likely(why || !fe->affinity))
		return why;
	if (stays)
		stays->until = now_seconds() + fe->affinity;
	else
		stay_with(&key, fe->affinity, to);
	return OK;
}

/* The port that this node stands in for a client by. One for each of a client's, always the same:
 * what the backend remembers of it (TIME_WAIT, timestamps) is then of that very port. An address's
 * own ports (ip_local_port_range) are fewer than PORTS, so none gets another's.
 */
static __always_inline __u16 stand_in(const struct tuple *t)
{
	return PORT_FIRST + (hash_of(t, true) % PORTS + t->sport) % PORTS;
}

/* Whose address the backend sees: the client's, unless its answer would not come back
 * here. A pod that reaches itself does not do so from outside.
 */
static __always_inline enum reason pick_source(const struct tuple *t, bool outside, struct flow *f)
{
	__u32 kind = OWN_GATEWAY;
	union addr *own_addr;

	f->src = t->src;
	f->sport = t->sport;
	if (outside) {
		if (endpoint_of(&f->dst))
			return same_addr(&t->src, &f->dst) ? DROP_SPOOFED_ADDRESS : OK;
		if (!peer_of(&f->dst))
			kind = OWN_NODE;
	} else if (likely(!same_addr(&t->src, &f->dst))) {
		return OK;
	}
	kind += !is_v4(&f->dst);
	own_addr = bpf_map_lookup_elem(&own, &kind);
	if (own_addr)
		f->src = *own_addr;
	f->sport = stand_in(t);
	return OK;
}

/* A new flow to a place of a Service; from another node that has passed it on with a hint
 * of what that chose. Of f the flags are set. BEGINS: begin_flow is to make it. PASS_ON: the node
 * of f's backend is to translate it.
 */
static __always_inline int new_flow(const struct frontend *fe, const struct tuple *t, bool outside,
				    const struct hint *hint, struct flow *f)
{
	struct affinity_key key;
	struct backend to;
	enum reason why;

	if (hint && hinted(hint, t, &to)) {
		if (unlikely(fe->affinity)) {
			key = (struct affinity_key){.set = fe->outside, .client = t->src};
			stay_with(&key, fe->affinity, &to);
		}
	} else {
		why = pick_backend(fe, t, outside, hint, &to);
		if (unlikely(why))
			return why;
	}
	f->dst = to.addr;
	f->dport = to.port;
	f->generation = to.generation;
	f->seen = now();
	if (unlikely(outside && (hint ? !is_again(hint) : fe->flags & FRONTEND_PASS)) &&
	    may_pass(&f->dst)) {
		f->src = t->src;
		f->sport = t->sport;
		f->flags = FLOW_PASSED;
		why = put_brief(t, f, BPF_ANY);
		return why ? why : PASS_ON;
	}
	return BEGINS;
}

/* Makes a flow that new_flow has a backend for: f, of the packet whose tuple is at hand. */
__noinline int begin_flow(struct __sk_buff *skb, bool outside, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	struct endpoint *to;
	int why;

	if (!f || !h)
		return DROP_INTERNAL;
	why = pick_source(&h->t, outside, f);
	if (unlikely(why))
		return why;
	to = endpoint_of(&f->dst);
	if (unlikely(to && to->flags & EP_HOST) && h->t.proto == IPPROTO_TCP &&
	    f->flags & FLOW_BEGUN)
		avoid_taken(skb, f, stand_in(&h->t));
	why = make_flow(&h->t, f);
	if (likely(!why))
		mark_flow(&h->t.src, f);
	return why;
}

/* Whether the backend of a flow may keep it; t is its tuple, f a copy of its row, and place that
 * of its row in `brief`, or none. It is known there then until `alive` changes from what it was
 * now.
 */
__noinline int look_alive(const struct tuple *t, const struct flow *f, int place)
{
	struct brief_set *set = set_at(place);
	const __u16 now = alive_now();
	__u64 port = now;

	asm volatile("%0 &= 0" : "+r"(port)); /* no processor looks before it has read that */
	if (!t || !f || !is_alive(&f->dst, f->dport | port, t->proto, f->generation))
		return false;
	place &= BRIEF_WAYS - 1;
	if (set && set->tag[place] && same_tuple(&set->slot[place].t, t))
		set->known[place] = now;
	return true;
}

/* The same; each look is three calls of the kernel and as many lines of memory. */
static __always_inline bool is_served(const struct tuple *t, const struct flow *f, int place)
{
	struct brief_set *set = set_at(place);
	const __u16 now = alive_now();

	asm volatile("" : "+r"(place)); /* nothing is added to set before it is looked at */
	if (likely(set && now && set->known[place & (BRIEF_WAYS - 1)] == now))
		return true;
	return look_alive(t, f, place);
}

/* The flow of a tuple if there is one whose backend lives. NOT_OURS: a new one is to be
 * made, if the packet may begin one. So it is if a SYN comes again, and the backend gets no
 * new flows of fe any more; NULL: that is another node's matter, or none.
 */
static __always_inline int known_flow(const struct tuple *t, __u8 flags, const struct frontend *fe,
				      bool outside, struct flow *f)
{
	int place, why;
	struct flow *known = copy_flow(t, f, &place);

	if (!known || f->flags & FLOW_REPLY)
		return NOT_OURS;
	if (unlikely(f->flags & FLOW_PASSED)) {
		if (!outside ||
		    (flags & TCP_SYN && fe && slot_in_set(fe->outside, &f->dst, f->dport, 0) < 0))
			return NOT_OURS;
		return note_passed(t, known, f, flags, place);
	}
	if (unlikely(!is_served(t, f, place))) {
		why = forget_flow(t, f);
		if (unlikely(why))
			return why;
		return t->proto == IPPROTO_TCP && !(flags & TCP_SYN) ? REJECT_BACKEND_GONE
								     : NOT_OURS;
	}
	if (unlikely(flags & TCP_SYN) &&
	    (f->flags & (FLOW_CLOSED | FLOW_ADOPTED) || (f->flags & FLOW_LIVE && is_half(t, f)) ||
	     (fe && !(f->flags & FLOW_LIVE) &&
	      slot_in_set(outside ? fe->outside : fe->inside, &f->dst, f->dport, 0) < 0))) {
		why = forget_flow(t, f);
		return unlikely(why) ? why : NOT_OURS;
	}
	if (likely(f->flags & FLOW_LIVE))
		return note_live(t, known, f, flags, place);
	mark_flow(&t->src, f); /* the daemon may have cleared it a moment ago */
	known->seen = now();
	return note_client(t, f, flags, place);
}

/* What becomes of a packet to a Service: f. NOT_OURS: it is to none. BEGINS: f is to be made.
 * PASS_ON: the node of f's backend is to have it.
 */
__noinline int service_of(struct packet *p, bool outside, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	struct frontend *fe;
	int why;

	if (!p || !f || !h)
		return DROP_INTERNAL;
	fe = frontend_of(&p->ip.dst, p->l4.dport, p->l4.proto);
	if (!fe) /* of what others serve the row may be about to come */
		return !by_netfilter() && frontend_of(&p->ip.dst, 0, 0) ? REJECT_NO_PORT : NOT_OURS;
	if (unlikely(!fe->inside || (outside && !fe->outside)))
		return NOT_OURS;
	tuple_of(&p->ip, &p->l4, &h->t);
	why = known_flow(&h->t, p->l4.flags, fe, outside, f);
	if (why != NOT_OURS)
		return why;
	if (is_left(fe) && (h->t.proto != IPPROTO_TCP || !(p->l4.flags & TCP_SYN)))
		return NOT_OURS;
	f->flags = p->l4.flags & TCP_SYN ? FLOW_BEGUN : 0;
	return new_flow(fe, &h->t, outside, NULL, f);
}

/* Whether the flow of a tuple may go on: one to a backend itself always. */
static __always_inline bool may_go_on(const struct tuple *t, const struct flow *f, int place)
{
	return is_diverted(t, f) || is_served(t, f, place);
}

/* What becomes of a packet that is of a flow translated here, as far as that can be told
 * without the place it is for: f. NOT_OURS: it is of none, or one to which another look
 * is due (service_of). PASS_ON: if it comes from outside, the node of f's backend is to
 * have it.
 */
__noinline int flow_of(struct packet *p, struct flow *f)
{
	struct at_hand *h = at_hand_of();
	struct flow *known;
	int place, why;

	if (!p || !f || !h)
		return DROP_INTERNAL;
	if ((p->l4.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return NOT_OURS;
	tuple_of(&p->ip, &p->l4, &h->t);
	known = copy_flow(&h->t, f, &place);
	if (!known)
		return NOT_OURS;
	if (f->flags & FLOW_REPLY) {
		if (unlikely(!(f->flags & FLOW_LIVE))) {
			known->seen = now();
			return note_answer(&h->t, f, p->l4.flags, place);
		}
		/* The answer to another, of the same tuple, that is not translated: after its
		 * end, or after one that was not seen either.
		 */
		if (unlikely(p->l4.flags & TCP_SYN && f->flags & (FLOW_CLOSED | FLOW_ADOPTED))) {
			why = forget_flow(&h->t, f);
			return unlikely(why) ? why : NOT_OURS;
		}
		return note_live(&h->t, known, f, p->l4.flags, place);
	}
	/* Connections outlive their Service, datagrams do not. */
	if (unlikely(h->t.proto == IPPROTO_UDP && !frontend_of(&h->t.dst, h->t.dport, h->t.proto)))
		return NOT_OURS;
	if (unlikely(f->flags & FLOW_PASSED))
		return note_passed(&h->t, known, f, p->l4.flags, place);
	if (unlikely(p->l4.flags & TCP_SYN) || !may_go_on(&h->t, f, place))
		return NOT_OURS;
	if (likely(f->flags & FLOW_LIVE))
		return note_live(&h->t, known, f, p->l4.flags, place);
	if (h->t.proto == IPPROTO_UDP)
		return NOT_OURS;
	mark_flow(&h->t.src, f); /* the daemon may have cleared it a moment ago */
	known->seen = now();
	return note_client(&h->t, f, p->l4.flags, place);
}

/* To where the node's routes lead, past its stack: that would not take a packet with an
 * address of its own as the source. A verdict, or, above all of these, the biggest size that
 * fits: then it is too big, and as it was. What came in the tunnel is left to the stack then,
 * and of its segments nobody asks whether they fit.
 */
__noinline int leave(struct __sk_buff *skb, struct ip *ip, bool tunnelled)
{
	struct bpf_fib_lookup fib = {.ifindex = skb->ifindex};
	struct bpf_redir_neigh next = {};
	enum reason why;
	long got;

	if (!ip)
		return give_up(skb, DROP_INTERNAL);
	fib.l4_protocol = ip->proto;
	fib.tot_len = tunnelled && skb->gso_size ? 0 : wire_len(skb, ip);
	if (ip->v6) {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.src, ip->src.w, 16);
		__builtin_memcpy(fib.dst, ip->dst.w, 16);
	} else {
		fib.family = AF_INET;
		fib.src[0] = ip->src.w[3];
		fib.dst[0] = ip->dst.w[3];
	}
	got = bpf_fib_lookup(skb, &fib, sizeof(fib), FIB_SKIP_NEIGH);
	if (unlikely(got == FIB_FRAG_NEEDED))
		return tunnelled ? TCX_NEXT : fib.tot_len;
	if (unlikely(got))
		return give_up(skb, DROP_NO_ROUTE);
	why = may_forward(ip);
	if (!why)
		why = hop(skb, ip->v6);
	if (unlikely(why))
		return give_up(skb, why);
	next.nh_family = fib.family;
	__builtin_memcpy(next.ipv6_nh, fib.dst, 16);
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}
