/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a packet carries behind its TCP, UDP, SCTP or ICMP header: the first bytes of it, for
 * cubes that look at a protocol. A packet is one segment: what a message has in the
 * next one is not there, and nothing says that a sender does not cut it where it likes.
 */
#pragma once

#include "cubelet/packet.h"

#define CUBELET_PAYLOAD_MOST 128

/* Where the payload begins, bytes from the frame's start; 0 if it cannot be told. */
CUBELET_INLINE __u32 cubelet_payload_start(struct __sk_buff *skb, const struct cubelet_headers *h)
{
	__u8 offset;

	if (!h->ip || h->fragment == CUBELET_LATER)
		return 0;
	switch (h->tuple.protocol) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, h->l4 + 12, &offset, 1) || offset >> 4 < 5)
			return 0;
		return h->l4 + (offset >> 4) * 4;
	case IPPROTO_UDP:
	case CUBELET_ICMP:
		return h->l4 + 8;
	case IPPROTO_SCTP:
		return h->l4 + 12;
	}
	return 0;
}

/*
 * Copies up to `length` bytes of the payload, from `offset` on, and zeroes the rest of `to`: how
 * many there were, 0 if none. `length` is a constant of 1 to CUBELET_PAYLOAD_MOST, and `to`
 * has as many bytes. Of a GSO packet it is the first segment's payload. Costs some 20 ns.
 */
CUBELET_INLINE __u32 cubelet_payload(struct __sk_buff *skb, const struct cubelet_headers *h,
				     __u32 offset, void *to, const __u32 length)
{
	__u64 start = cubelet_payload_start(skb, h), end = ETH_HLEN + h->size, many;

	__builtin_memset(to, 0, length);
	if (!start || length > CUBELET_PAYLOAD_MOST || offset > 0xffff || start + offset >= end)
		return 0;
	many = end - start - offset;
	if (many > length)
		many = length;
	/* apart, or the compiler makes one comparison of both, which the verifier does not see */
	asm volatile("" : "+r"(many));
	if (many < 1)
		return 0;
	asm volatile("" : "+r"(many));
	if (many > length)
		return 0;
	return bpf_skb_load_bytes(skb, start + offset, to, many) ? 0 : many;
}
