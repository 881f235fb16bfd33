/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What errors of our own have of the packet that they answer, in either family. */
#pragma once

#include "commit.h"

/* The reset that answers the segment in hand (RFC 9293 3.5.2), but for its checksum; or -1. */
CUBELET_INLINE long cubelet_error_segment(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
					  struct tcphdr *reset)
{
	const struct cubelet_tuple *t = &pkt->hdr.tuple;
	struct tcphdr tcp;
	__u32 payload;

	if (bpf_skb_load_bytes(skb, pkt->hdr.l4, &tcp, sizeof(tcp)))
		return -1;
	payload = pkt->hdr.size - (pkt->hdr.l4 - ETH_HLEN) - tcp.doff * 4;
	__builtin_memset(reset, 0, sizeof(*reset));
	reset->source = t->dport;
	reset->dest = t->sport;
	reset->doff = 5;
	reset->rst = 1;
	if (tcp.ack) {
		reset->seq = tcp.ack_seq;
	} else {
		reset->ack = 1;
		reset->ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + payload + tcp.syn + tcp.fin);
	}
	return 0;
}

/* The packet in hand goes to s->quote, as much of it as an error quotes: *length bytes. Or -1. */
CUBELET_INLINE long cubelet_error_quote(struct __sk_buff *skb, struct cubelet_scratch *s,
					__u64 *length)
{
	*length = skb->len - ETH_HLEN;
	if (*length > s->pkt.hdr.size) /* without the frame's padding */
		*length = s->pkt.hdr.size;
	if (*length >= CUBELET_QUOTE)
		*length = CUBELET_QUOTE - 1;
	/* the same bound once more, where the compiler cannot drop it and the verifier sees it */
	asm volatile("%0 &= 511" : "+r"(*length));
	if (*length < CUBELET_IP_BYTES)
		return -1;
	__builtin_memset(s->quote, 0, sizeof(s->quote));
	return bpf_skb_load_bytes(skb, ETH_HLEN, s->quote, *length);
}

/* Who speaks: the refused destination itself, or the router where the packet entered. */
CUBELET_INLINE struct cubelet_addr cubelet_error_source(const struct cubelet_pkt *pkt)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS;

	if (pkt->error_type == ICMP_DEST_UNREACH && pkt->error_code == ICMP_PORT_UNREACH)
		return pkt->hdr.tuple.dst;
	return pkt->entered == CUBELET_UPLINK ? cubelet_uplink_address(pkt->ifindex) : gateway;
}
