/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* herald: tells its Python of each flow, and hands it the packets to one port. For tests. */
#include "cubelet.h"

static __always_inline int herald_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct herald_event event = {};

	if (pkt->orig.dport == bpf_htons(HERALD_PORT))
		return herald_punt(skb, pkt);
	event.source = pkt->orig.src;
	event.port = pkt->orig.dport;
	event.ifindex = pkt->ifindex;
	herald_emit(&event);
	return cubelet_next(pkt);
}
