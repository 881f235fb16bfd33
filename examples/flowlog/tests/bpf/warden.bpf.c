/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * warden: stands for the cubes that flowlog watches. What it does depends on
 * the destination's port: 80 is a Service of 10.1.0.5:8080, 81 is masqueraded,
 * 90 is dropped on the way in, 91 refused on the way out, and 92 is let
 * through as long as warden_shut has no entry.
 */
#include "cubelet.h"

static __always_inline int warden_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct cubelet_addr backend = { { bpf_htonl(0x0a010005) } };

	if (pkt->cur.dport == bpf_htons(80))
		cubelet_set_dst(pkt, &backend, bpf_htons(8080));
	if (pkt->cur.dport == bpf_htons(90))
		return cubelet_drop(pkt, WARDEN_REASON_IN);
	return cubelet_next(pkt);
}

static __always_inline int warden_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	__u32 zero = 0;
	struct warden_shut_value *shut = cubelet_lookup(warden_shut, &zero);

	if (pkt->cur.dport == bpf_htons(81))
		cubelet_set_src_range(pkt, &node, CUBELET_SNAT_FIRST, 100);
	if (pkt->cur.dport == bpf_htons(91))
		return cubelet_refuse(pkt, WARDEN_REASON_OUT);
	if (pkt->cur.dport == bpf_htons(92) && shut && shut->shut)
		return cubelet_drop(pkt, WARDEN_REASON_OUT);
	return cubelet_next(pkt);
}
