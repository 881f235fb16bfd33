/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* meter: counts every packet of a flow, and drops those above a size. For tests. */
#include "cubelet.h"

static __always_inline __u16 meter_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					  struct cubelet_flow *flow)
{
	__u32 zero = 0;
	struct meter_tally *tally = cubelet_lookup(meter_seen, &zero);

	if (tally)
		tally->packets++;
	return h->size > METER_LIMIT ? METER_REASON_TOO_LONG : 0;
}
