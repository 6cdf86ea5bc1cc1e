/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The part of the kernel's interface that the programs use. Own declarations, so
 * that the object depends on no header of the machine that compiles it. Sources:
 * include/uapi/linux/{bpf,if_ether,ip,ipv6,udp,icmpv6}.h of Linux 6.6.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef _Bool bool;

#define NULL  ((void *)0)
#define false 0
#define true  1

#define SEC(name)	__attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline	__attribute__((noinline))
#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)
/* Map attributes travel as types in BTF. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the committed object is for little-endian machines"
#endif
#define htons(x) ((__u16)__builtin_bswap16(x))
#define ntohs(x) ((__u16)__builtin_bswap16(x))
#define htonl(x) ((__u32)__builtin_bswap32(x))
#define ntohl(x) ((__u32)__builtin_bswap32(x))

enum {
	TCX_NEXT = -1,
	TCX_DROP = 2,
	TCX_REDIRECT = 7,
};

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,
};

/* bpf_ringbuf_submit */
enum {
	BPF_RB_NO_WAKEUP = 1 << 0,
	BPF_RB_FORCE_WAKEUP = 1 << 1,
};

/* bpf_l4_csum_replace */
enum {
	BPF_F_PSEUDO_HDR = 1 << 4,
	BPF_F_MARK_MANGLED_0 = 1 << 5,
	BPF_F_IPV6 = 1 << 7,
};

/* bpf_skb_adjust_room */
enum {
	BPF_ADJ_ROOM_MAC = 1,
};

enum {
	ADJ_FIXED_GSO = 1 << 0,
	ADJ_ENCAP_L3_IPV4 = 1 << 1,
	ADJ_ENCAP_L3_IPV6 = 1 << 2,
	ADJ_ENCAP_L4_UDP = 1 << 4,
	ADJ_ENCAP_L2_ETH = 1 << 6,
	ADJ_DECAP_L3_IPV4 = 1 << 7,
	ADJ_DECAP_L3_IPV6 = 1 << 8,
};
#define ADJ_ENCAP_L2(len) (((__u64)(len) & 0xff) << 56)

/* bpf_skb_set_tunnel_key, bpf_skb_get_tunnel_key */
enum {
	TUN_IPV6 = 1 << 0,
	TUN_ZERO_CSUM = 1 << 1,
	TUN_DONT_FRAGMENT = 1 << 2,
};

enum {
	PACKET_HOST = 0,
	PACKET_OTHERHOST = 3,
};

/* struct __sk_buff up to the last field that is used. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

struct bpf_tunnel_key {
	__u32 tunnel_id;
	union {
		__u32 remote_ipv4; /* host order */
		__u32 remote_ipv6[4];
	};
	__u8 tunnel_tos;
	__u8 tunnel_ttl;
	__u16 tunnel_ext;
	__u32 tunnel_label;
	union {
		__u32 local_ipv4; /* host order */
		__u32 local_ipv6[4];
	};
};

struct bpf_redir_neigh {
	__u32 nh_family;
	union {
		__u32 ipv4_nh;
		__u32 ipv6_nh[4];
	};
};

/* bpf_fib_lookup; source and destination are network order. */
struct bpf_fib_lookup {
	__u8 family;
	__u8 l4_protocol;
	__u16 sport;
	__u16 dport;
	__u16 tot_len; /* out: MTU */
	__u32 ifindex;
	__u32 flow; /* in: TOS or flow label */
	__u32 src[4];
	__u32 dst[4]; /* out: the next hop */
	__u32 vlan;
	__u8 macs[12];
};

enum {
	FIB_SKIP_NEIGH = 1 << 2,
	FIB_FRAG_NEEDED = 8,
};

enum {
	AF_INET = 2,
	AF_INET6 = 10,
};

/* include/uapi/asm-generic/errno.h */
enum {
	ENOBUFS = 105,
	ECONNREFUSED = 111,
	EHOSTUNREACH = 113,
};

/* bpf_map_update_elem */
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

/* The context of the programs at connect, sendmsg, recvmsg and getpeername. Addresses
 * and the port (in the low 16 bits) are in network order.
 */
struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
};

/* A socket, up to the last field that is used; also the context of the programs at a socket's
 * making and end, of which none is.
 */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port;
	__u32 dst_port;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
};

/* include/net/tcp_states.h */
enum {
	TCP_TIME_WAIT = 6,
	TCP_LISTEN = 10,
	TCP_NEW_SYN_RECV = 12,
};

/* bpf_skc_lookup_tcp, as in the packet that is to the socket */
struct bpf_sock_tuple {
	union {
		struct {
			__u32 saddr;
			__u32 daddr;
			__u16 sport;
			__u16 dport;
		} ipv4;
		struct {
			__u32 saddr[4];
			__u32 daddr[4];
			__u16 sport;
			__u16 dport;
		} ipv6;
	};
};

#define BPF_F_CURRENT_NETNS (-1L)

static void *(*const bpf_map_lookup_elem)(const void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(const void *map, const void *key, const void *value,
					 __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(const void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from,
					 __u32 len, __u64 flags) = (void *)9;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
					 __u64 flags) = (void *)11;
static long (*const bpf_skb_get_tunnel_key)(struct __sk_buff *skb, struct bpf_tunnel_key *key,
					    __u32 size, __u64 flags) = (void *)20;
static long (*const bpf_skb_set_tunnel_key)(struct __sk_buff *skb, struct bpf_tunnel_key *key,
					    __u32 size, __u64 flags) = (void *)21;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*const bpf_csum_diff)(const __u32 *from, __u32 from_size, const __u32 *to,
				   __u32 to_size, __u32 seed) = (void *)28;
static long (*const bpf_skb_change_type)(struct __sk_buff *skb, __u32 type) = (void *)32;
static long (*const bpf_skb_load_bytes)(const struct __sk_buff *skb, __u32 offset, void *to,
					__u32 len) = (void *)26;
static __u32 (*const bpf_get_hash_recalc)(struct __sk_buff *skb) = (void *)34;
static long (*const bpf_skb_change_tail)(struct __sk_buff *skb, __u32 len,
					 __u64 flags) = (void *)38;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static long (*const bpf_csum_update)(struct __sk_buff *skb, __u32 csum) = (void *)40;
static __u64 (*const bpf_get_socket_cookie)(void *ctx) = (void *)46;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 len_diff, __u32 mode,
					 __u64 flags) = (void *)50;
static long (*const bpf_fib_lookup)(struct __sk_buff *skb, struct bpf_fib_lookup *params,
				    __s32 plen, __u32 flags) = (void *)69;
static long (*const bpf_sk_release)(struct bpf_sock *sk) = (void *)86;
static struct bpf_sock *(*const bpf_skc_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple,
						    __u32 size, __u64 netns,
						    __u64 flags) = (void *)99;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static __u64 (*const bpf_get_netns_cookie)(void *ctx) = (void *)122;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static long (*const bpf_redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *params, __s32 plen,
					__u64 flags) = (void *)152;
static long (*const bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)155;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)160;
static long (*const bpf_loop)(__u32 times, void *each, void *with, __u64 flags) = (void *)181;
static int (*const bpf_set_retval)(int retval) = (void *)187;
static __u64 (*const bpf_ktime_get_tai_ns)(void) = (void *)208;

/* Protocol headers. Not packed: every field is at its natural offset, and the
 * kernel's packets are aligned enough for the machines we run on.
 */
enum {
	ETH_HLEN = 14,
	VLAN_ID = 0x0fff, /* of a tag: IEEE 802.1Q */
	ETH_P_IP = 0x0800,
	ETH_P_ARP = 0x0806,
	ETH_P_IPV6 = 0x86dd,
	IPPROTO_HOPOPTS = 0,
	IPPROTO_ICMP = 1,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_ICMPV6 = 58,
	IPPROTO_DSTOPTS = 60,
	IPPROTO_SCTP = 132,
};

struct ethhdr {
	__u16 dst[3];
	__u16 src[3];
	__u16 proto;
};

struct iphdr {
	__u8 version_ihl;
	__u8 tos;
	__u16 tot_len;
	__u16 id;
	__u16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__u32 saddr;
	__u32 daddr;
};

struct ipv6hdr {
	__u32 flow; /* version, traffic class, flow label */
	__u16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__u32 saddr[4];
	__u32 daddr[4];
};

struct udphdr {
	__u16 source;
	__u16 dest;
	__u16 len;
	__u16 check;
};

struct tcphdr {
	__u16 source;
	__u16 dest;
	__u32 seq;
	__u32 ack;
	__u8 doff; /* upper 4 bits, units of 4 bytes */
	__u8 flags;
	__u16 window;
	__u16 check;
	__u16 urgent;
};

/* RFC 792, RFC 4443 */
struct icmphdr {
	__u8 type;
	__u8 code;
	__u16 check;
	__u32 info; /* the MTU of "too big" */
};

struct fraghdr {
	__u8 nexthdr;
	__u8 reserved;
	__u16 offset; /* upper 13 bits, units of 8 bytes; lowest: more follow */
	__u32 id;
};
