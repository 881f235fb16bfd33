/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests: source translation of what leaves by a port class. */
#include "cubelet.h"

static __always_inline int masq_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct masq_sender key = { .address = pkt->cur.src, .leaves = pkt->out.port_class };
	struct masq_source *source = cubelet_lookup(masq_sources, &key);

	if (source)
		cubelet_set_src_range(pkt, &source->address, source->first, source->count);
	return cubelet_next(pkt);
}
