/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What cubes say. A cube's function ends with one of these, such as
 * `return cubelet_drop(pkt, LBRP_REASON_NO_BACKEND);`. Rewrites are described
 * here and applied once, by the core, when the packet leaves.
 */
#pragma once

#include "cubelet/epoch.h"

/* Nothing to say: the next cube's turn. */
CUBELET_INLINE int cubelet_next(struct cubelet_pkt *pkt)
{
	return CUBELET_NEXT;
}

CUBELET_INLINE int cubelet_drop(struct cubelet_pkt *pkt, __u16 reason)
{
	pkt->reason = reason;
	return CUBELET_DROP;
}

/*
 * Drops and tells the sender: an ICMP error, rate-limited. mtu only for fragmentation-needed. Type
 * and code are IPv4's in either family: of an IPv6 packet ICMPv6's that mean the same are sent.
 */
CUBELET_INLINE int cubelet_reject(struct cubelet_pkt *pkt, __u16 reason, __u8 type, __u8 code,
				  __u16 mtu)
{
	pkt->reason = reason;
	pkt->error_type = type;
	pkt->error_code = code;
	pkt->error_mtu = mtu;
	return CUBELET_REJECT;
}

/* Refuses a connection: a TCP reset, for others ICMP port unreachable. */
CUBELET_INLINE int cubelet_refuse(struct cubelet_pkt *pkt, __u16 reason)
{
	if (pkt->hdr.tuple.protocol == IPPROTO_TCP)
		return cubelet_reject(pkt, reason, 0, 0, 0);
	return cubelet_reject(pkt, reason, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0);
}

/* Core cubes: the packet leaves by this port; pkt->out holds MACs, remote and MTU. */
CUBELET_INLINE int cubelet_forward(struct cubelet_pkt *pkt, __u8 port_class, __u32 ifindex)
{
	pkt->out.port_class = port_class;
	pkt->out.ifindex = ifindex;
	return CUBELET_FORWARD;
}

/* Has a cube given the packet another destination? */
CUBELET_INLINE int cubelet_dst_translated(const struct cubelet_pkt *pkt)
{
	return !cubelet_addr_equal(&pkt->orig.dst, &pkt->cur.dst) ||
	       pkt->orig.dport != pkt->cur.dport;
}

/*
 * Core cubes: to the node's own network stack. From the uplink that leaves the
 * packet untouched and without a record; from elsewhere it goes through the gateway.
 */
CUBELET_INLINE int cubelet_to_stack(struct cubelet_pkt *pkt)
{
	if (pkt->in.port_class == CUBELET_UPLINK && !cubelet_dst_translated(pkt))
		return CUBELET_STACK;
	if (cubelet_addr_loopback(&pkt->cur.dst)) { /* which no other device takes */
		__builtin_memset(pkt->out.dst_mac, 0, 6);
		__builtin_memset(pkt->out.src_mac, 0, 6);
		pkt->out.mtu = 0xffff;
		return cubelet_forward(pkt, CUBELET_HOST, CUBELET_LOOPBACK_IFINDEX);
	}
	__builtin_memcpy(pkt->out.dst_mac, (__u8[6])CUBELET_GATEWAY_MAC, 6);
	__builtin_memcpy(pkt->out.src_mac, (__u8[6])CUBELET_ROUTER_MAC, 6);
	pkt->out.mtu = CUBELET_UPLINK_MTU;
	return cubelet_forward(pkt, CUBELET_HOST, CUBELET_GATEWAY_IFINDEX);
}

/* The cube has turned the frame into its own answer: back to where it came from. */
CUBELET_INLINE int cubelet_answer(struct cubelet_pkt *pkt)
{
	return CUBELET_ANSWER;
}

/* Core cubes: to every port of the segment but the one it came from; never cached. */
CUBELET_INLINE int cubelet_flood(struct cubelet_pkt *pkt)
{
	return CUBELET_FLOOD;
}

/*
 * What the flow rests on is gone (a Service's backend): forget it. A packet of its
 * client is judged afresh at once; one of the other side is dropped with the reason.
 */
CUBELET_INLINE int cubelet_restart(struct cubelet_pkt *pkt, __u16 reason)
{
	pkt->reason = reason;
	return CUBELET_RESTART;
}

/*
 * Is the packet in hand part of a connection that both ends know of, and that no other
 * backend could go on with? Not what opens one, nor a mere datagram.
 */
CUBELET_INLINE int cubelet_connected(const struct cubelet_pkt *pkt)
{
	if (pkt->orig.protocol == IPPROTO_TCP)
		return (pkt->hdr.tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_ACK)) !=
		       CUBELET_TCP_SYN;
	return pkt->orig.protocol == IPPROTO_SCTP;
}

/* Is a known flow judged again? Its translation stands; set_src and set_dst do nothing. */
CUBELET_INLINE int cubelet_rejudging(const struct cubelet_pkt *pkt)
{
	return pkt->mode == CUBELET_REJUDGE;
}

CUBELET_INLINE void cubelet_set_dst(struct cubelet_pkt *pkt, const struct cubelet_addr *address,
				    __be16 port)
{
	if (cubelet_rejudging(pkt))
		return;
	pkt->cur.dst = *address;
	pkt->cur.dport = port;
	cubelet_epoch_retake(pkt);
}

CUBELET_INLINE void cubelet_set_src(struct cubelet_pkt *pkt, const struct cubelet_addr *address,
				    __be16 port)
{
	if (cubelet_rejudging(pkt))
		return;
	pkt->cur.src = *address;
	pkt->cur.sport = port;
}

/*
 * A flow from the uplink that ends at the host's own sockets is to keep its source. Its replies
 * find back only while a cube asks for the uplink's egress (UPLINK_EGRESS): else this does nothing.
 */
CUBELET_INLINE void cubelet_keep_src(struct cubelet_pkt *pkt)
{
	if (CUBELET_UPLINK_EGRESS && pkt->in.port_class == CUBELET_UPLINK)
		pkt->flags |= CUBELET_KEEP_SRC;
}

/* Source address and any free port of first..first+count-1 (host byte order), found on commit. */
CUBELET_INLINE void cubelet_set_src_range(struct cubelet_pkt *pkt,
					  const struct cubelet_addr *address, __u16 first,
					  __u16 count)
{
	if (cubelet_rejudging(pkt))
		return;
	pkt->cur.src = *address;
	pkt->range_first = first;
	pkt->range_count = count;
	pkt->flags |= CUBELET_SRC_RANGE;
}
