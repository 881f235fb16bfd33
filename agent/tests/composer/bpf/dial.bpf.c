/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* dial: drops packets above a size that is a setting, read from a map. For tests. */
#include "cubelet.h"

static __always_inline __u16 dial_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					 struct cubelet_flow *flow)
{
	__u32 zero = 0;
	struct dial_values *values = cubelet_lookup(dial_settings, &zero);

	return values && h->size > values->limit ? DIAL_REASON_TOO_LONG : 0;
}
