/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What would become of the first packet of a flow, told by the functions and the maps that
 * packets meet, and without a trace: ../explain.go asks.
 */
#pragma once
#include "policy.h"
#include "reject.h"
#include "serve.h"

/* bpf.Exemption */
enum {
	EXEMPT_NOT,
	EXEMPT_NODE, /* it is the node's own, or the node sends it */
	EXEMPT_SELF, /* a pod's to itself */
	EXEMPT_ECHO, /* a Service's address answers an echo */
};

/* What the policies of one end make of it. */
struct told {
	__u64 set;
	__u64 class; /* of the other end */
	__u16 rule;  /* index in the set, or RULE_NONE */
	__u8 here;   /* it is an address of this node */
	__u8 verdict;
	__u8 exempt;
	__u8 pad[3];
};

struct explained {
	union addr from; /* the question */
	union addr to;
	__u16 port; /* host order */
	__u8 proto;

	__u8 served;	/* it is to a Service */
	__u8 netfilter; /* which is left to netfilter */
	__u8 pad;
	__u16 backend_port;
	union addr backend;
	__u32 reason; /* enum reason: why it does not pass */
	__u32 pad2;
	struct told egress;
	struct told ingress;
};

/* The Service that it is to: fills served, netfilter and backend, as service_of and
 * serve_unported have it. NOT_OURS: it goes on to where it is to.
 */
__noinline int explain_service(struct explained *e)
{
	struct affinity_key key;
	struct frontend *fe, own;
	struct affinity *stays;
	struct endpoint *from;
	struct backend to;
	struct tuple t;
	bool outside;
	int why;

	if (!e)
		return DROP_INTERNAL;
	from = endpoint_of(&e->from);
	outside = !from && !peer_of(&e->from);
	fe = has_ports(e->proto) ? frontend_of(&e->to, e->port, e->proto) : NULL;
	if (!fe) {
		if (!frontend_of(&e->to, 0, 0) || by_netfilter())
			return NOT_OURS;
		e->served = true;
		if (has_ports(e->proto))
			return REJECT_NO_PORT;
		return e->proto == (is_v4(&e->to) ? IPPROTO_ICMP : IPPROTO_ICMPV6)
			       ? OK
			       : DROP_SERVICE_PROTOCOL;
	}
	if (outside && !fe->outside)
		return NOT_OURS;
	e->served = true;
	if (!fe->inside || (is_left(fe) && e->proto != IPPROTO_TCP)) {
		e->netfilter = true;
		return OK;
	}
	if (from && from->flags & EP_HOST) { /* at its socket */
		own = *fe;
		own.inside = set_at_socket(fe, true);
		fe = &own;
	}
	__builtin_memset(&t, 0, sizeof(t));
	t.src = e->from;
	t.dst = e->to;
	t.dport = e->port;
	t.proto = e->proto;
	why = find_backend(fe, &t, outside, &key, &stays, &to);
	if (!why) {
		e->backend = to.addr;
		e->backend_port = to.port;
	}
	return why;
}

/* Judges what a pod begins at `remote`, or what that begins at the pod, as judge_leaving
 * and judge_arriving have it; exempt is why it would pass always.
 */
static __always_inline enum reason explain_end(struct told *end, struct judged *j,
					       const struct endpoint *ep, bool by_pod, __u8 exempt)
{
	enum reason why;

	if (!ep)
		return OK;
	end->here = true;
	end->rule = RULE_NONE;
	end->verdict = VERDICT_ALLOW;
	if (ep->flags & EP_HOST) {
		end->exempt = EXEMPT_NODE;
		return OK;
	}
	end->set = by_pod ? ep->egress : ep->ingress;
	end->exempt = exempt;
	if (exempt || !end->set)
		return OK;
	if (end->set != RULES_CLOSED)
		end->class = class_of(&j->t.dst);
	j->ingress = ep->ingress;
	j->egress = ep->egress;
	j->walk.found = 0;
	why = judge(j, by_pod);
	if (why) {
		end->verdict = VERDICT_DENY;
		end->rule = j->index;
	} else {
		end->rule = j->walk.found >> 8;
	}
	return why;
}

/* Both ends, by the addresses that their policies see. */
__noinline int explain_ends(struct explained *e)
{
	struct endpoint *from, *to;
	__u8 exempt = EXEMPT_NOT;
	struct judged j;
	union addr dst;
	int why, also;
	__u16 port;

	if (!e)
		return DROP_INTERNAL;
	dst = e->served ? e->backend : e->to;
	port = e->served ? e->backend_port : e->port;
	if (!has_ports(e->proto))
		port = 0;
	from = endpoint_of(&e->from);
	to = endpoint_of(&dst);
	if (same_addr(&e->from, &dst))
		exempt = EXEMPT_SELF;
	__builtin_memset(&j, 0, sizeof(j));
	j.t.src = e->from;
	j.t.dst = dst;
	j.t.dport = port;
	j.t.proto = e->proto;
	why = explain_end(&e->egress, &j, from, true, exempt);
	if (from && from->flags & EP_HOST)
		exempt = EXEMPT_NODE;
	j.t.src = dst;
	j.t.dst = e->from;
	j.t.sport = port;
	j.t.dport = 0;
	also = explain_end(&e->ingress, &j, to, false, exempt);
	return why ? why : also;
}

/* Never attached: the daemon runs it (PROG_TEST_RUN), with a struct explained behind the
 * Ethernet header, and reads the answer there.
 */
SEC("tcx/ingress")
int explain(struct __sk_buff *skb)
{
	struct explained e;
	int why;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &e, sizeof(e)))
		return TCX_DROP;
	why = explain_service(&e);
	if (why == NOT_OURS || (!why && (e.backend.d[0] | e.backend.d[1]))) {
		why = explain_ends(&e);
	} else if (!why && !e.netfilter && endpoint_of(&e.from)) {
		e.egress.here = true;
		e.egress.rule = RULE_NONE;
		e.egress.verdict = VERDICT_ALLOW;
		e.egress.exempt = EXEMPT_ECHO;
	}
	e.reason = why;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &e, sizeof(e), 0) ? TCX_DROP : TCX_NEXT;
}
