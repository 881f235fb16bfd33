/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A core for tests: every packet leaves by one port, whatever it is. */
#include "cubelet.h"

static __always_inline int outlet_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	__builtin_memcpy(pkt->out.dst_mac, (__u8[6]){ 2, 0, 0, 0, 0xff, 1 }, ETH_ALEN);
	__builtin_memcpy(pkt->out.src_mac, (__u8[6])CUBELET_ROUTER_MAC, ETH_ALEN);
	pkt->out.mtu = OUTLET_MTU;
	pkt->out.remote = OUTLET_REMOTE;
	if (OUTLET_ROUTED)
		pkt->flags |= CUBELET_ROUTED;
	return cubelet_forward(pkt, OUTLET_CLASS, OUTLET_IFINDEX);
}
