/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services at the socket: where a connection or datagram goes is decided once, before
 * there is a packet. What stays for the packets' programs is in docs/services.md.
 */
#pragma once
#include "kernel.h"
#include "rows.h"
#include "service.h"
#include "choose.h"
#include "affinity.h"

/* A socket that was connected to a backend. */
struct connected {
	union addr service;
	union addr backend;
	__u16 service_port; /* host order */
	__u16 backend_port; /* host order */
	__u32 generation;   /* of the backend */
	__u64 netns;	    /* cookie of the socket's network namespace */
	__u8 proto;
	__u8 family; /* of the socket; an AF_INET6 one may have an IPv4 peer */
	__u8 pad[6];
};

/* Datagram directions. */
enum {
	TO_SERVICE,   /* key: the Service's place; value: the backend */
	FROM_BACKEND, /* key: the backend's place; value: the Service */
};

struct datagram_key {
	__u64 cookie;
	union addr addr;
	__u16 port; /* host order */
	__u8 direction;
	__u8 pad;
	__u32 pad2;
};

struct datagram {
	union addr addr;
	__u16 port; /* host order */
	__u16 pad;
	__u32 generation; /* of the backend */
};

/* Written by the programs: one row per socket that is connected to a backend, by
 * cookie. It goes with the socket; LRU is for what is missed.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u64);
	__type(value, struct connected);
	__uint(max_entries, 65536); /* replaced at load by the setting */
} sockets SEC(".maps");

/* Written by the programs: two rows per Service that an unconnected socket sends to.
 * Nobody says when they are not needed any more: the least recently used go. Apart
 * from `sockets`, so that a burst of DNS queries pushes out no long connection.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct datagram_key);
	__type(value, struct datagram);
	__uint(max_entries, 65536); /* replaced at load by the setting */
} datagrams SEC(".maps");

/* What a socket is asked: where to, or where from. */
struct call {
	union addr addr;
	__u16 port; /* host order */
	__u8 proto;
	bool host; /* the node's own socket, not a pod's */
	__u64 netns;
};

/* What becomes of a call; or a negative errno. */
enum {
	LEAVE,
	REWRITE,
};

static __always_inline struct call call_of(struct bpf_sock_addr *ctx, union addr addr)
{
	__u64 netns = bpf_get_netns_cookie(ctx);

	return (struct call){
		.addr = addr,
		.port = ntohs(ctx->user_port),
		.proto = ctx->protocol,
		.host = netns == config.netns_cookie,
		.netns = netns,
	};
}

/* 127.0.0.0/8, ::1 */
static __always_inline bool is_loopback(const union addr *a)
{
	if (is_v4(a))
		return a->b[12] == 127;
	return a->d[0] == 0 && a->w[2] == 0 && a->w[3] == htonl(1);
}

/* Finds the Service; LEAVE if there is none, or none that can be served here. */
static __always_inline int find(const struct call *c, struct frontend **frontend, struct set **set)
{
	struct frontend_key key = {.addr = c->addr, .port = c->port, .proto = c->proto};

	if (c->proto != IPPROTO_TCP && c->proto != IPPROTO_UDP && c->proto != IPPROTO_SCTP)
		return LEAVE;
	if (!c->host && is_loopback(&c->addr))
		return LEAVE; /* a pod's own */
	*frontend = bpf_map_lookup_elem(&frontends, &key);
	if (!*frontend) {
		key.port = 0;
		key.proto = 0;
		return !by_netfilter() && bpf_map_lookup_elem(&frontends, &key) ? -ECONNREFUSED
										: LEAVE;
	}
	/* A pod's address is not known here. */
	if (is_left(*frontend) || (*frontend)->ranges || (!c->host && (*frontend)->affinity))
		return LEAVE;
	*set = set_of(set_at_socket(*frontend, c->host));
	return *set ? REWRITE : LEAVE;
}

/* Chooses a backend. */
static __always_inline int pick(const struct call *c, const struct frontend *frontend,
				const struct set *set, struct backend *to)
{
	struct affinity_key key = {.set = set_at_socket(frontend, c->host)};
	const struct backend *backend;

	if (frontend->affinity && stays_with(&key, c->proto, frontend->affinity, to)) {
		count_begun(frontend);
		return REWRITE;
	}
	backend = choose(key.set, set, bpf_get_prandom_u32());
	if (!backend)
		return set->flags & SET_DROP ? -EHOSTUNREACH : -ECONNREFUSED;
	*to = *backend;
	count_begun(frontend);
	if (frontend->affinity)
		stay_with(&key, frontend->affinity, to);
	return REWRITE;
}

/* Set by the daemon while pods have connections that began before their sockets were served:
 * those that begin now are the packets' programs' matter, too. To one backend both may
 * otherwise get one source port, as the kernel takes them to go to different places.
 */
__u32 pods_by_packet;

static __always_inline int connecting(struct bpf_sock_addr *ctx, struct call *c)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct frontend *frontend;
	struct connected row;
	struct backend to;
	struct set *set;
	int did;

	/* The packets' programs move a pod's socket to another backend. */
	if (!c->host && (c->proto == IPPROTO_UDP || unlikely(pods_by_packet)))
		return LEAVE;
	did = find(c, &frontend, &set);
	if (did != REWRITE)
		return did;
	did = pick(c, frontend, set, &to);
	if (did != REWRITE)
		return did;
	row = (struct connected){
		.service = c->addr,
		.backend = to.addr,
		.service_port = c->port,
		.backend_port = to.port,
		.generation = to.generation,
		.netns = c->netns,
		.proto = c->proto,
		.family = ctx->family,
	};
	bpf_map_update_elem(&sockets, &cookie, &row, BPF_ANY);
	c->addr = to.addr;
	c->port = to.port;
	return REWRITE;
}

/* Remembers both directions. An answer that could not be given its sender would be
 * worse than no datagram.
 */
static __always_inline int remember(__u64 cookie, const struct call *c, const struct backend *to)
{
	struct datagram_key there = {
		.cookie = cookie, .addr = c->addr, .port = c->port, .direction = TO_SERVICE};
	struct datagram_key back = {
		.cookie = cookie, .addr = to->addr, .port = to->port, .direction = FROM_BACKEND};
	struct datagram backend = {
		.addr = to->addr, .port = to->port, .generation = to->generation};
	struct datagram service = {.addr = c->addr, .port = c->port, .generation = to->generation};

	if (bpf_map_update_elem(&datagrams, &back, &service, BPF_ANY) ||
	    bpf_map_update_elem(&datagrams, &there, &backend, BPF_ANY))
		return -ENOBUFS;
	return REWRITE;
}

/* The backend that the socket's last datagram to the Service went to, if it is alive and
 * its answers are known.
 */
static __always_inline bool remembered(__u64 cookie, const struct call *c, struct backend *to)
{
	struct datagram_key key = {
		.cookie = cookie, .addr = c->addr, .port = c->port, .direction = TO_SERVICE};
	struct datagram *row = bpf_map_lookup_elem(&datagrams, &key);

	if (!row || !is_alive(&row->addr, row->port, c->proto, row->generation))
		return false;
	*to = (struct backend){.addr = row->addr, .port = row->port, .generation = row->generation};
	key.addr = to->addr;
	key.port = to->port;
	key.direction = FROM_BACKEND;
	row = bpf_map_lookup_elem(&datagrams, &key);
	return row && same_addr(&row->addr, &c->addr) && row->port == c->port;
}

static __always_inline int sending(struct bpf_sock_addr *ctx, struct call *c)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct frontend *frontend;
	struct backend to;
	struct set *set;
	int did;

	did = find(c, &frontend, &set);
	if (did != REWRITE)
		return did;
	if (!remembered(cookie, c, &to)) {
		did = pick(c, frontend, set, &to);
		if (did == REWRITE)
			did = remember(cookie, c, &to);
		if (did != REWRITE)
			return did;
	}
	c->addr = to.addr;
	c->port = to.port;
	return REWRITE;
}

/* The Service that a connected socket's peer serves. */
static __always_inline int peer_name(struct bpf_sock_addr *ctx, struct call *c)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct connected *row = bpf_map_lookup_elem(&sockets, &cookie);

	if (!row || row->backend_port != c->port || !same_addr(&row->backend, &c->addr))
		return LEAVE;
	c->addr = row->service;
	c->port = row->service_port;
	return REWRITE;
}

/* The Service that a datagram's sender serves. */
static __always_inline int sender_name(struct bpf_sock_addr *ctx, struct call *c)
{
	struct datagram_key key = {.cookie = bpf_get_socket_cookie(ctx),
				   .addr = c->addr,
				   .port = c->port,
				   .direction = FROM_BACKEND};
	struct datagram *row = bpf_map_lookup_elem(&datagrams, &key);

	if (!row)
		return peer_name(ctx, c);
	c->addr = row->addr;
	c->port = row->port;
	return REWRITE;
}

/* Ends a program: what it did becomes what the kernel is to do. */
static __always_inline int end4(struct bpf_sock_addr *ctx, const struct call *c, int did)
{
	if (did == REWRITE) {
		ctx->user_ip4 = c->addr.w[3];
		ctx->user_port = htons(c->port);
	}
	return 1;
}

static __always_inline int end6(struct bpf_sock_addr *ctx, const struct call *c, int did)
{
	if (did == REWRITE) {
		ctx->user_ip6[0] = c->addr.w[0];
		ctx->user_ip6[1] = c->addr.w[1];
		ctx->user_ip6[2] = c->addr.w[2];
		ctx->user_ip6[3] = c->addr.w[3];
		ctx->user_port = htons(c->port);
	}
	return 1;
}

static __always_inline int fail(int err)
{
	bpf_set_retval(err);
	return 0;
}

static __always_inline struct call call4(struct bpf_sock_addr *ctx)
{
	return call_of(ctx, addr_of_v4(ctx->user_ip4));
}

static __always_inline struct call call6(struct bpf_sock_addr *ctx)
{
	union addr addr = {
		.w = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};

	return call_of(ctx, addr);
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct call c = call4(ctx);
	int did = connecting(ctx, &c);

	return did < 0 ? fail(did) : end4(ctx, &c, did);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct call c = call6(ctx);
	int did = connecting(ctx, &c);

	return did < 0 ? fail(did) : end6(ctx, &c, did);
}

SEC("cgroup/sendmsg4")
int sock_send4(struct bpf_sock_addr *ctx)
{
	struct call c = call4(ctx);
	int did = sending(ctx, &c);

	return did < 0 ? fail(did) : end4(ctx, &c, did);
}

SEC("cgroup/sendmsg6")
int sock_send6(struct bpf_sock_addr *ctx)
{
	struct call c = call6(ctx);
	int did = sending(ctx, &c);

	return did < 0 ? fail(did) : end6(ctx, &c, did);
}

SEC("cgroup/recvmsg4")
int sock_recv4(struct bpf_sock_addr *ctx)
{
	struct call c = call4(ctx);
	int did = sender_name(ctx, &c);

	return end4(ctx, &c, did);
}

SEC("cgroup/recvmsg6")
int sock_recv6(struct bpf_sock_addr *ctx)
{
	struct call c = call6(ctx);
	int did = sender_name(ctx, &c);

	return end6(ctx, &c, did);
}

SEC("cgroup/getpeername4")
int sock_peer4(struct bpf_sock_addr *ctx)
{
	struct call c = call4(ctx);
	int did = peer_name(ctx, &c);

	return end4(ctx, &c, did);
}

SEC("cgroup/getpeername6")
int sock_peer6(struct bpf_sock_addr *ctx)
{
	struct call c = call6(ctx);
	int did = peer_name(ctx, &c);

	return end6(ctx, &c, did);
}

/* The last close of any socket. */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (bpf_map_lookup_elem(&sockets, &cookie))
		bpf_map_delete_elem(&sockets, &cookie);
	return 1;
}
