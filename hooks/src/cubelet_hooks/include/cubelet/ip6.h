/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The header of IPv6 (RFC 8200) and its extensions: cubelet_parse_ip() of that family.
 */
#pragma once

#include "cubelet/extensions.h"
#include "cubelet/l4.h"

/* Walks the extensions to the transport header; whatever has any is CUBELET_SPECIAL. */
CUBELET_INLINE int cubelet_parse_extensions(struct __sk_buff *skb, struct cubelet_headers *h)
{
	struct cubelet_walk w = { .at = ETH_HLEN + CUBELET_IP_BYTES };
	void *data, *end;
	int walked;

	/* the chain may reach beyond the linear part */
	bpf_skb_pull_data(skb, skb->len < CUBELET_PULL ? skb->len : CUBELET_PULL);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	w.next = h->tuple.protocol;
	walked = cubelet_walk(data, end, &w);
	if (walked == CUBELET_WALK_BROKEN)
		return CUBELET_MALFORMED;
	h->tuple.protocol = w.next;
	h->l4 = w.at;
	if (walked != CUBELET_WALKED) {
		h->refused = walked == CUBELET_WALK_ROUTED ? CUBELET_REFUSED_ROUTE
							   : CUBELET_REFUSED_EXTENSIONS;
		return CUBELET_SPECIAL;
	}
	if (w.at - ETH_HLEN > h->size)
		return CUBELET_MALFORMED;
	if (w.part) { /* offset and flag zero: a whole packet (RFC 6946) */
		h->fragment_id = w.id;
		h->fragment_part = w.part;
		h->fragment = w.part & CUBELET_IP6_OFFSET ? CUBELET_LATER : CUBELET_FIRST;
		if (w.part & CUBELET_IP6_MORE && (h->size - (w.at - ETH_HLEN)) % 8)
			return CUBELET_MALFORMED;
		if (h->fragment == CUBELET_LATER)
			return CUBELET_SPECIAL;
	}
	if (cubelet_parse_l4(skb, data + (w.at & CUBELET_L4_MASK), end, h) == CUBELET_MALFORMED)
		return CUBELET_MALFORMED;
	return CUBELET_SPECIAL;
}

CUBELET_INLINE int cubelet_parse_ip(struct __sk_buff *skb, struct ipv6hdr *ip, void *end,
				    struct cubelet_headers *h)
{
	__u32 total = sizeof(*ip) + bpf_ntohs(ip->payload_len);

	if (*(__u8 *)ip >> 4 != 6)
		return CUBELET_MALFORMED;
	if (!skb->gso_size && ETH_HLEN + total > skb->len)
		return CUBELET_MALFORMED;
	h->ip = 1;
	h->l4 = ETH_HLEN + sizeof(*ip);
	h->size = total > 0xffff ? 0xffff : total;
	h->ttl = ip->hop_limit;
	__builtin_memcpy(&h->tuple.src, &ip->saddr, sizeof(h->tuple.src));
	__builtin_memcpy(&h->tuple.dst, &ip->daddr, sizeof(h->tuple.dst));
	h->tuple.protocol = ip->nexthdr;
	if (cubelet_is_extension(ip->nexthdr))
		return cubelet_parse_extensions(skb, h);
	return cubelet_parse_l4(skb, ip + 1, end, h);
}
