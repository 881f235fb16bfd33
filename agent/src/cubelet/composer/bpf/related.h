/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors of others, about flows of ours. The packet that an error quotes is
 * one that left by some flow, where the error comes from; the error travels like that
 * flow's replies, and is translated like them outside, and like their inverse inside
 * (RFC 5508 4). What quotes no such packet is forged, or too late (RFC 5927).
 */
#pragma once

#include "commit.h"
#include "cubelet/socket.h"
#if CUBELET_FAMILY == 4
#include "related4.h"
#else
#include "related6.h"
#endif

#define CUBELET_SEQUENCE_BEFORE 0x10000U /* bytes: keep-alives, what is sent again */
#define CUBELET_SEQUENCE_AHEAD 0x40000000U /* RFC 7323 2.3: no window is larger */

/* The quoted transport header: ports or identifier, and its checksum where it is quoted. */
CUBELET_INLINE int cubelet_related_l4(struct __sk_buff *skb, struct cubelet_scratch *s,
				      const struct cubelet_flow *f, __u32 check)
{
	const struct cubelet_headers *q = &s->quoted;
	__u32 at = q->l4, sum_at = at, sum = f->port_delta;
	__u16 old, new;

	if (!q->ports)
		return 0;
	if (q->tuple.protocol == CUBELET_ICMP) {
		sum_at += __builtin_offsetof(struct icmphdr, checksum);
#if CUBELET_FAMILY == 6
		sum = cubelet_csum_fold(sum) + cubelet_csum_fold(f->l4_delta);
#endif
		if (cubelet_edit(skb, check, at + 4, q->tuple.sport + q->tuple.dport,
				 f->to.sport + f->to.dport, 2))
			return -1;
	} else {
		sum_at += q->tuple.protocol == IPPROTO_TCP
				  ? __builtin_offsetof(struct tcphdr, check)
				  : __builtin_offsetof(struct udphdr, check);
		sum = cubelet_csum_fold(sum) + cubelet_csum_fold(f->l4_delta);
		if (cubelet_edit(skb, check, at, q->tuple.sport, f->to.dport, 2) ||
		    cubelet_edit(skb, check, at + 2, q->tuple.dport, f->to.sport, 2))
			return -1;
	}
	if (q->tuple.protocol == IPPROTO_SCTP) /* neither address counts in its checksum */
		return 0;
	if (sum_at + 2 > ETH_HLEN + s->pkt.hdr.size || bpf_skb_load_bytes(skb, sum_at, &old, 2) ||
	    !old)
		return 0; /* not quoted, or UDP without a checksum */
	new = ~cubelet_csum_fold((__u16)~old + cubelet_csum_fold(sum));
	if (!new && q->tuple.protocol == IPPROTO_UDP)
		new = 0xffff; /* RFC 768: zero would say that there is none */
	return cubelet_edit(skb, check, sum_at, old, new, 2);
}

/* Redirects and source quench: advice to a host by its own router, which pods take from nobody. */
CUBELET_INLINE int cubelet_related_advice(struct __sk_buff *skb, const struct cubelet_scratch *s)
{
	__u8 type;

#if CUBELET_FAMILY == 6 /* there, redirects are no errors, and never leave their link */
	return 0;
#endif
	return bpf_skb_load_bytes(skb, s->pkt.hdr.l4 & CUBELET_L4_MASK, &type, 1) ||
	       type == ICMP_REDIRECT || type == ICMP_SOURCE_QUENCH;
}

/*
 * Can the quoted TCP segment be under way? `ack` is what its receiver acknowledged about a
 * second ago at most. The sender's own stack knows exactly, and asks again (RFC 5927 4.1).
 */
CUBELET_INLINE int cubelet_related_sequence(struct __sk_buff *skb, const struct cubelet_scratch *s,
					    __u32 ack)
{
	__be32 sequence;

	if (s->quoted.tuple.protocol != IPPROTO_TCP || !ack)
		return 1;
	if (bpf_skb_load_bytes(skb, s->quoted.l4 + 4, &sequence, 4))
		return 0;
	return bpf_ntohl(sequence) - ack + CUBELET_SEQUENCE_BEFORE <
	       CUBELET_SEQUENCE_BEFORE + CUBELET_SEQUENCE_AHEAD;
}

/*
 * Is the quoted packet one that a flow sent out by where the error comes from? `f` is the
 * record of the other direction. A direction that has not sent anything causes no errors.
 */
CUBELET_INLINE int cubelet_related_left(struct __sk_buff *skb, struct cubelet_scratch *s,
					const struct cubelet_flow *f)
{
	struct cubelet_flow *sent;

	if (!cubelet_enters(skb, f, s->pkt.entered) || !cubelet_flow_current(f) ||
	    !cubelet_addr_equal(&s->pkt.hdr.tuple.dst, &s->quoted.tuple.src))
		return 0;
	cubelet_partner_key(s, f);
	sent = cubelet_find(&s->key);
	return sent && sent->packets && cubelet_tuple_equal(&sent->to, &s->quoted.tuple) &&
	       cubelet_related_sequence(skb, s, f->ack);
}

/*
 * Does an error that came by the uplink quote what the node itself has sent? Of ports that
 * pods' packets are given, only what one of the node's sockets has.
 */
CUBELET_INLINE int cubelet_related_to_node(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	const struct cubelet_tuple *q = &s->quoted.tuple;

	if (!cubelet_addr_equal(&s->pkt.hdr.tuple.dst, &q->src) || !cubelet_is_own(&q->src))
		return 0;
	if (q->protocol != IPPROTO_TCP && q->protocol != IPPROTO_UDP)
		return 1;
	if (!cubelet_used_port(q->protocol, bpf_ntohs(q->sport)))
		return 1;
	cubelet_tuple_invert(&s->key, q);
	return cubelet_node_socket(skb, &s->key) != CUBELET_NO_SOCKET;
}

/* Where in s->quote what translation writes over is kept, by what it is. */
enum cubelet_related_kept {
	CUBELET_KEPT_IP = 0, /* Ethernet's header and IP's */
	CUBELET_KEPT_ICMP = 64,
	CUBELET_KEPT_QUOTED_IP = 96,
	CUBELET_KEPT_QUOTED_L4 = 160,
};

/* An error about an echo request may be about the node's own ping: see echo.h. */
CUBELET_INLINE int cubelet_related_shared(const struct cubelet_scratch *s,
					  const struct cubelet_flow *f)
{
	return s->pkt.entered == CUBELET_UPLINK && s->quoted.tuple.protocol == CUBELET_ICMP &&
	       f->flags & CUBELET_FLOW_TRANSLATED;
}

CUBELET_INLINE long cubelet_related_keep(struct __sk_buff *skb, struct cubelet_scratch *s,
					 __u32 ip_at)
{
	__u32 l4 = s->pkt.hdr.l4 & CUBELET_L4_MASK;

	return bpf_skb_load_bytes(skb, 0, s->quote + CUBELET_KEPT_IP, CUBELET_ECHO_IP) ||
	       bpf_skb_load_bytes(skb, l4, s->quote + CUBELET_KEPT_ICMP, 8) ||
	       bpf_skb_load_bytes(skb, ip_at, s->quote + CUBELET_KEPT_QUOTED_IP,
				  CUBELET_IP_BYTES) ||
	       bpf_skb_load_bytes(skb, s->quoted.l4, s->quote + CUBELET_KEPT_QUOTED_L4, 8);
}

/* The frame as it came, for the node. */
CUBELET_INLINE int cubelet_related_restore(struct __sk_buff *skb, struct cubelet_scratch *s,
					   __u32 ip_at)
{
	__u32 l4 = s->pkt.hdr.l4 & CUBELET_L4_MASK;

	if (bpf_skb_store_bytes(skb, 0, s->quote + CUBELET_KEPT_IP, CUBELET_ECHO_IP, 0) ||
	    bpf_skb_store_bytes(skb, l4, s->quote + CUBELET_KEPT_ICMP, 8, 0) ||
	    bpf_skb_store_bytes(skb, ip_at, s->quote + CUBELET_KEPT_QUOTED_IP, CUBELET_IP_BYTES,
				0) ||
	    bpf_skb_store_bytes(skb, s->quoted.l4, s->quote + CUBELET_KEPT_QUOTED_L4, 8, 0))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_HELPER);
	return TC_ACT_UNSPEC;
}

/* Makes the error what the flow's sender is to see. 0, or the reason that it cannot be. */
CUBELET_INLINE __u16 cubelet_related_translate(struct __sk_buff *skb, struct cubelet_scratch *s,
					       const struct cubelet_flow *f, __u32 ip_at)
{
	__u32 check =
		(s->pkt.hdr.l4 & CUBELET_L4_MASK) + __builtin_offsetof(struct icmphdr, checksum);

	if (f->flags & CUBELET_FLOW_TRANSLATED &&
	    (cubelet_related_l4(skb, s, f, check) || cubelet_related_ip(skb, s, f, check, ip_at) ||
	     cubelet_related_outer(skb, s, f)))
		return CUBELET_REASON_HELPER;
	return cubelet_related_frame(skb, f) ? CUBELET_REASON_TTL : 0;
}

/* The flow that an error is about, as its record of the error's direction; NULL if none is. */
CUBELET_INLINE struct cubelet_flow *cubelet_related_flow(struct __sk_buff *skb,
							 struct cubelet_scratch *s)
{
	struct cubelet_flow *f;

	if (cubelet_related_advice(skb, s))
		return NULL;
	cubelet_tuple_invert(&s->key, &s->quoted.tuple);
	f = cubelet_find(&s->key);
	return f && cubelet_related_left(skb, s, f) ? f : NULL;
}

/* The program behind CUBELET_JUMP_RELATED. */
CUBELET_INLINE int cubelet_send_related(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	struct cubelet_flow *f = NULL;
	__u32 ip_at = 0;
	__u16 reason;
	int quotes, shared;

	if (!s)
		return TC_ACT_SHOT;
	if (s->pkt.entered == CUBELET_UPLINK && cubelet_is_martian(&s->pkt.hdr.tuple.src))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_MARTIAN);
	quotes = !cubelet_related_parse(skb, s, &ip_at);
	if (quotes)
		f = cubelet_related_flow(skb, s);
	if (!f) {
		if (quotes && s->pkt.entered == CUBELET_UPLINK && cubelet_related_to_node(skb, s))
			return TC_ACT_UNSPEC;
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_UNRELATED);
	}
	if (s->pkt.entered == CUBELET_POD && !cubelet_pod_source(&s->pkt))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_SPOOFED);
	shared = cubelet_related_shared(s, f);
	if (shared && cubelet_related_keep(skb, s, ip_at))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_HELPER);
	reason = cubelet_related_translate(skb, s, f, ip_at);
	if (shared) {
		if (!reason && cubelet_transmit(skb, &f->leaves) == TC_ACT_REDIRECT)
			cubelet_echo_copy(skb, &f->leaves);
		return cubelet_related_restore(skb, s, ip_at);
	}
	return reason ? cubelet_dropped(skb, &s->pkt, reason) : cubelet_transmit(skb, &f->leaves);
}
