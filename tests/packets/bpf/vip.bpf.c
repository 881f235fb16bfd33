/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests: destination translation by one map. */
#include "cubelet.h"

static __always_inline int vip_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct vip_end key = { .address = pkt->orig.dst, .port = pkt->orig.dport };
	struct vip_end *backend = cubelet_lookup(vip_backends, &key);

	if (backend)
		cubelet_set_dst(pkt, &backend->address, backend->port);
	return cubelet_next(pkt);
}
