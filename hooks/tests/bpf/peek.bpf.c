/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* peek: tells what it reads of the payload of every packet, from PEEK_OFFSET on. For tests. */
#include "cubelet.h"

static __always_inline __u16 peek_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					 struct cubelet_flow *flow)
{
	struct peek_event event = {};

	event.many = cubelet_payload(skb, h, PEEK_OFFSET, event.seen, sizeof(event.seen));
	peek_emit(&event);
	return 0;
}
