/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copies each packet to the ports in a map, and drops those of some flows. */
#include "cubelet.h"

static __always_inline int spy_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	for (__u32 i = 0; i < 5; i++) {
		struct spy_index slot = { .index = i };
		struct spy_count *port;

		port = cubelet_lookup(spy_targets, &slot);
		if (port && port->count && !spy_mirror(pkt, port->count))
			spy_new_fields(pkt)->left_out++;
	}
	return pkt->orig.dport == bpf_htons(81) ? cubelet_drop(pkt, SPY_REASON_REFUSED)
						: cubelet_next(pkt);
}

static __always_inline __u16 spy_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					struct cubelet_flow *flow)
{
	return h->tuple.dport == bpf_htons(82) ? SPY_REASON_REFUSED : 0;
}
