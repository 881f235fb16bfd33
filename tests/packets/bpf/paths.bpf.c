/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A core for tests: one map says where each destination lives. */
#include "cubelet.h"

#define PATHS_STACK 4 /* beyond the port classes: the node's own */

static __always_inline int paths_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct paths_target key = { .address = pkt->cur.dst };
	struct paths_path *path = cubelet_lookup(paths_known, &key);

	if (pkt->mode == CUBELET_LINK || !path)
		return cubelet_next(pkt);
	if (path->routed)
		pkt->flags |= CUBELET_ROUTED;
	if (path->leaves == PATHS_STACK)
		return cubelet_to_stack(pkt);
	__builtin_memcpy(pkt->out.dst_mac, path->dst_mac, ETH_ALEN);
	__builtin_memcpy(pkt->out.src_mac, (__u8[ETH_ALEN])CUBELET_ROUTER_MAC, ETH_ALEN);
	pkt->out.mtu = path->mtu;
	pkt->out.remote = path->remote;
	return cubelet_forward(pkt, path->leaves, path->ifindex);
}
