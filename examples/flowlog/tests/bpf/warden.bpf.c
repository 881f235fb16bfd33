/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * warden: stands for the cubes that flowlog watches. What it does depends on
 * the destination's port: 80 is a Service of 10.1.0.5:8080, 81 is masqueraded,
 * 90 and the first port of translation are dropped on the way in, 91 is refused
 * on the way out. Once warden_shut says so, 92 is dropped, and known flows to 93
 * begin anew.
 */
#include "cubelet.h"

CUBELET_INLINE int warden_is_shut(void)
{
	__u32 zero = 0;
	struct warden_shut_value *shut = cubelet_lookup(warden_shut, &zero);

	return shut && shut->shut;
}

static __always_inline int warden_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct cubelet_addr backend = { { bpf_htonl(0x0a010005) } };
	__u16 port = bpf_ntohs(pkt->cur.dport);

	if (port == 80)
		cubelet_set_dst(pkt, &backend, bpf_htons(8080));
	if (port == 93 && cubelet_rejudging(pkt) && warden_is_shut())
		return cubelet_restart(pkt, WARDEN_REASON_IN);
	if (port == 90 || port == CUBELET_SNAT_FIRST)
		return cubelet_drop(pkt, WARDEN_REASON_IN);
	return cubelet_next(pkt);
}

static __always_inline int warden_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	__u16 port = bpf_ntohs(pkt->cur.dport);

	if (port == 81)
		cubelet_set_src_range(pkt, &node, CUBELET_SNAT_FIRST, 100);
	if (port == 91)
		return cubelet_refuse(pkt, WARDEN_REASON_OUT);
	if (port == 92 && warden_is_shut())
		return cubelet_drop(pkt, WARDEN_REASON_OUT);
	return cubelet_next(pkt);
}
