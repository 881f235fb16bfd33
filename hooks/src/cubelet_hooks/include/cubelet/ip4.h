/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The header of IPv4 (RFC 791): cubelet_parse_ip() of that family.
 */
#pragma once

#include "cubelet/l4.h"

#define CUBELET_IP_PLAIN 0x45 /* version 4, and a header of 20 bytes: without options */
#define CUBELET_IP_MF 0x2000
#define CUBELET_IP_DF 0x4000
#define CUBELET_IP_OFFSET 0x1fff

CUBELET_INLINE int cubelet_parse_ip(struct __sk_buff *skb, struct iphdr *ip, void *end,
				    struct cubelet_headers *h)
{
	__u16 fragment = bpf_ntohs(ip->frag_off);
	__u16 total = bpf_ntohs(ip->tot_len);
	int parsed, special = 0;

	if (*(__u8 *)ip != CUBELET_IP_PLAIN) {
		if (ip->version != 4 || ip->ihl < 5)
			return CUBELET_MALFORMED;
		special = 1;
	}
	h->l4 = ETH_HLEN + ip->ihl * 4;
	if (!skb->gso_size && (total < ip->ihl * 4 || ETH_HLEN + total > skb->len))
		return CUBELET_MALFORMED;
	h->ip = 1;
	h->size = total;
	h->ttl = ip->ttl;
	h->may_fragment = !(fragment & CUBELET_IP_DF);
	h->tuple.src.w[0] = ip->saddr;
	h->tuple.dst.w[0] = ip->daddr;
	h->tuple.protocol = ip->protocol;
	if (fragment & (CUBELET_IP_MF | CUBELET_IP_OFFSET)) {
		h->fragment_id = ip->id;
		h->fragment = fragment & CUBELET_IP_OFFSET ? CUBELET_LATER : CUBELET_FIRST;
		if (h->fragment == CUBELET_LATER)
			return CUBELET_SPECIAL;
		special = 1;
	}
	parsed = cubelet_parse_l4(skb, (void *)ip + ip->ihl * 4, end, h);
	if (parsed == CUBELET_PLAIN && special)
		return CUBELET_SPECIAL;
	return parsed;
}
