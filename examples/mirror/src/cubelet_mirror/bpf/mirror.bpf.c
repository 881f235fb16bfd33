/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * mirror: copies a pod's packets to another pod, its collector.
 *
 * mirror_collectors: port 7, a pod's -> port 9, the collector's.
 */
#include "cubelet.h"

/* The pod behind the port asks for copies, if there is an entry: of both directions. */
CUBELET_INLINE int mirror_copies(struct cubelet_pkt *pkt, __u32 ifindex)
{
	struct mirror_port_key key = { .ifindex = ifindex };
	struct mirror_collector *collector = cubelet_lookup(mirror_collectors, &key);

	if (collector)
		mirror_mirror(pkt, collector->ifindex);
	return cubelet_next(pkt);
}

static __always_inline int mirror_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return mirror_copies(pkt, pkt->in.ifindex);
}

static __always_inline int mirror_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return mirror_copies(pkt, pkt->out.ifindex);
}
