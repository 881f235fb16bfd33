/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parsing: once per packet, into struct cubelet_headers.
 *
 * cubelet_parse() returns CUBELET_PLAIN for a packet whose tuple alone finds
 * its flow, CUBELET_SPECIAL for one that needs the slow side (not IP, fragments,
 * IP options or extensions, TCP SYN/FIN/RST, ICMP errors and echo replies) and CUBELET_MALFORMED
 * for one that contradicts itself: then the headers hold what came before that, and zeros.
 */
#pragma once

#if CUBELET_FAMILY == 4
#include "cubelet/ip4.h"
#else
#include "cubelet/ip6.h"
#endif

CUBELET_INLINE int cubelet_parse(struct __sk_buff *skb, struct cubelet_headers *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth;

	__builtin_memset(h, 0, sizeof(*h));
	if (data + ETH_HLEN + CUBELET_IP_BYTES + sizeof(struct tcphdr) > end) {
		/* the headers may lie outside the linear part */
		bpf_skb_pull_data(skb, skb->len < CUBELET_PULL ? skb->len : CUBELET_PULL);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	eth = data;
	if (data + ETH_HLEN > end)
		return CUBELET_MALFORMED;
	h->ethertype = eth->h_proto;
	if (skb->vlan_present || eth->h_proto != bpf_htons(CUBELET_ETHERTYPE))
		return CUBELET_SPECIAL;
	if (data + ETH_HLEN + CUBELET_IP_BYTES > end)
		return CUBELET_MALFORMED;
	return cubelet_parse_ip(skb, data + ETH_HLEN, end, h);
}
