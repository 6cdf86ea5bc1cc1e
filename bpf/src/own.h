/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Addresses of this node that stand in for others. */
#pragma once
#include "kernel.h"
#include "rows.h"

/* For clients, by kind of backend, and for other nodes; by family. */
enum {
	OWN_GATEWAY,   /* towards pods; IPv6: one more */
	OWN_NODE = 2,  /* towards other nodes; IPv6: one more */
	OWN_PORTS = 4, /* stands in for other nodes: has the node ports; IPv6: one more */
	OWN_ADDRS = 6,
};

/* Written by the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, union addr);
	__uint(max_entries, OWN_ADDRS);
} own SEC(".maps");
