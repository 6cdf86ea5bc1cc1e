/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flows that others have translated so far, of which one end has not spoken yet: their rows
 * belong into `brief`, which only programs write: ../adopt.go asks.
 */
#pragma once
#include "flow.h"

struct adopted {
	struct tuple there; /* what the client sends */
	struct tuple back;  /* what its backend answers */
	struct flow row;    /* of there */
	struct flow reply;
};

/* Its replies first: they lead to the client that has sent what they answer. */
__noinline int adopt_flow(struct adopted *a)
{
	int why;

	if (!a)
		return DROP_INTERNAL;
	why = put_brief(&a->back, &a->reply, BPF_NOEXIST);
	if (why)
		return why;
	why = put_brief(&a->there, &a->row, BPF_NOEXIST);
	if (why)
		drop_brief(&a->back, &a->there);
	return why;
}

/* Never attached: the daemon runs it (PROG_TEST_RUN), with a struct adopted behind the
 * Ethernet header. OK: both rows are there. NOT_OURS: a tuple has a row already. DROP_FLOWS_BUSY:
 * neither is there, it is to be tried again.
 */
SEC("tcx/ingress")
int adopt(struct __sk_buff *skb)
{
	struct adopted a;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &a, sizeof(a)))
		return DROP_INTERNAL;
	return adopt_flow(&a);
}
