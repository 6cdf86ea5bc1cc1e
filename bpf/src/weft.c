/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The datapath's entry points. What each may do with a packet is in docs/packets.md. */
#include "kernel.h"
#include "rows.h"
#include "reasons.h"
#include "ip.h"
#include "neighbour.h"
#include "announce.h"
#include "vxlan.h"
#include "pod.h"
#include "overlay.h"
#include "adopt.h"
#include "explain.h"
#include "check.h"
#include "policy.h"
#include "served.h"
#include "delivered.h"
#include "passed.h"
#include "sock.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Ingress of the host end of a pod's veth. */
SEC("tcx/ingress")
int from_pod(struct __sk_buff *skb)
{
	struct endpoint *from, *to;
	struct peer *peer;
	struct packet p;
	enum reason why;
	__u32 way = 0;

	if (unlikely(skb->vlan_present))
		return give_up(skb, DROP_NOT_IP);
	if (unlikely(skb->protocol == htons(ETH_P_ARP)))
		return answer_arp(skb);
	why = parse_ip(skb, ETH_HLEN, skb->protocol, skb->len - ETH_HLEN, &p.ip);
	if (unlikely(why))
		return give_up(skb, why);
	from = endpoint_of(&p.ip.src);
	if (unlikely(!from && p.ip.v6 && is_link_local(&p.ip.src)))
		return give_up(skb, DROP_LINK_LOCAL);
	why = check_source(skb, from);
	if (unlikely(why || !from))
		return give_up(skb, why);
	if (unlikely(is_solicit(skb, &p.ip)))
		return answer_solicit(skb, &p.ip, from);
	if (unlikely(is_isolated(from)))
		way = WAY_JUDGED;
	if (unlikely(skb->pkt_type != PACKET_HOST)) {
		why = way ? judge_aside(skb, &p) : OK;
		return why ? give_up(skb, why) : TCX_NEXT;
	}
	if (unlikely(from->flags & EP_STACK))
		way |= WAY_LIMITED;
	if (may_be_place(&p.ip.dst))
		return from_pod_served(skb, &p, way | WAY_UNKNOWN);
	to = endpoint_of(&p.ip.dst);
	peer = to ? NULL : peer_of(&p.ip.dst);
	if (!peer && (!to || to->flags & EP_HOST))
		return from_pod_served(skb, &p, way | (to ? WAY_HOST : 0));
	if (unlikely(is_pair(&p.ip.src, &p.ip.dst)) || (to && unlikely(is_client(&p.ip.dst))))
		return from_pod_served(skb, &p, way | WAY_POD);
	if (likely(!(to && is_isolated(to))))
		why = way & WAY_JUDGED ? judge_plain(skb, &p, ETH_HLEN, true) : OK;
	else
		why = way & WAY_JUDGED ? judge_between(skb, &p)
				       : judge_plain(skb, &p, ETH_HLEN, false);
	if (unlikely(why))
		return give_up(skb, why);
	if (unlikely(way & WAY_LIMITED))
		return give_up(skb, STACK_LIMITED);
	return to ? plain_local(skb, to, &p.ip) : plain_peer(skb, peer, &p.ip);
}

/* Ingress of the devices that carry the node's addresses. What is in a VLAN comes again, to
 * that VLAN's device; with a tag no pod would take it.
 */
SEC("tcx/ingress")
int from_uplink(struct __sk_buff *skb)
{
	int did;

	if (unlikely(skb->vlan_present && skb->vlan_tci & VLAN_ID))
		return TCX_NEXT;
	if (skb->protocol == htons(ETH_P_IP)) {
		if (is_tunnel_v4(skb))
			return from_uplink_v4(skb);
		did = announce_v4(skb);
	} else if (skb->protocol == htons(ETH_P_IPV6)) {
		if (is_tunnel_v6(skb))
			return from_uplink_v6(skb);
		did = announce_v6(skb);
	} else {
		return skb->protocol == htons(ETH_P_ARP) ? announce_arp(skb) : TCX_NEXT;
	}
	return likely(did == NOT_OURS) ? from_outside_served(skb) : did;
}

/* Egress of the VXLAN device: what the stack sends to other nodes' pods. */
SEC("tcx/egress")
int to_overlay(struct __sk_buff *skb)
{
	struct peer *peer;
	enum reason why;
	struct packet p;

	why = parse_ip(skb, ETH_HLEN, skb->protocol, skb->len - ETH_HLEN, &p.ip);
	if (unlikely(why))
		return give_up(skb, why);
	if (unlikely(by_netfilter())) {
		why = judge_overlaid(skb, &p);
		if (why)
			return give_up(skb, why);
	}
	peer = peer_of(&p.ip.dst);
	if (unlikely(!peer))
		return give_up(skb, p.ip.v6 && is_link_local(&p.ip.src) ? DROP_LINK_LOCAL
									: DROP_NO_PEER);
	why = set_macs(skb, &peer->mac);
	if (!why)
		why = set_tunnel(skb, peer, &p.ip);
	return why ? give_up(skb, why) : TCX_NEXT;
}

/* Ingress of the VXLAN device: what the kernel decapsulated. */
SEC("tcx/ingress")
int from_overlay(struct __sk_buff *skb)
{
	struct sender sender;
	struct endpoint *to;
	struct peer *peer;
	enum reason why;
	struct packet p;

	why = get_tunnel(skb, &sender);
	if (unlikely(why == PASS_ON)) {
		if (!is_passer(&sender))
			return give_up(skb, DROP_UNKNOWN_SENDER);
		return from_passed(skb, ETH_HLEN, skb->protocol == htons(ETH_P_IPV6), false, 0);
	}
	if (unlikely(why))
		return give_up(skb, why);
	why = parse_ip(skb, ETH_HLEN, skb->protocol, skb->len - ETH_HLEN, &p.ip);
	if (unlikely(why))
		return give_up(skb, why);
	peer = peer_of(&p.ip.src);
	if (unlikely(!is_sender(peer, &sender)))
		return give_up(skb, DROP_UNKNOWN_SENDER);
	if (unlikely(is_client(&p.ip.dst))) {
		int did = from_peer_served(skb, ETH_HLEN, p.ip.v6, false, 0);

		if (did != NOT_OURS)
			return did;
	}
	/* The device has one MAC, that of the node's first address; peers that know the
	 * node by another compute another.
	 */
	if (unlikely(skb->pkt_type == PACKET_OTHERHOST))
		bpf_skb_change_type(skb, PACKET_HOST);
	to = endpoint_of(&p.ip.dst);
	if (unlikely(skb->pkt_type != PACKET_HOST || !to || to->flags & EP_HOST))
		return TCX_NEXT;
	if (unlikely(is_isolated(to))) {
		why = judge_plain(skb, &p, ETH_HLEN, false);
		if (why)
			return give_up(skb, why);
	}
	return plain_local(skb, to, &p.ip);
}

/* Egress of the devices that carry the node's addresses. What came in from elsewhere
 * (pods, other nodes) has been translated where it did.
 */
SEC("tcx/egress")
int to_uplink(struct __sk_buff *skb)
{
	struct packet p;

	if (skb->ingress_ifindex ||
	    parse_ip(skb, ETH_HLEN, skb->protocol, skb->len - ETH_HLEN, &p.ip))
		return TCX_NEXT;
	return from_host_served(skb, &p);
}

/* Egress of the host end of a pod's veth: what the stack delivers. */
SEC("tcx/egress")
int to_pod(struct __sk_buff *skb)
{
	struct endpoint *to;
	struct packet p;

	if (parse_ip(skb, ETH_HLEN, skb->protocol, skb->len - ETH_HLEN, &p.ip))
		return TCX_NEXT;
	to = endpoint_of(&p.ip.dst);
	if (unlikely((to && is_isolated(to)) || by_netfilter()))
		return to_pod_judged(skb, &p);
	return from_host_served(skb, &p);
}
