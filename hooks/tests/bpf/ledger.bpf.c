/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ledger: labels flows when they are judged, and counts each direction's packets. For tests. */
#include "cubelet.h"

static __always_inline int ledger_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct ledger_flow_fields *fields = ledger_new_fields(pkt);

	/* what is read back must be zero for a new flow, and the flow's own when judged again */
	fields->label += bpf_ntohs(pkt->orig.sport) + LEDGER_OFFSET;
	if (cubelet_rejudging(pkt) && fields->packets) {
		__u32 zero = 0;
		struct ledger_seen *seen = cubelet_lookup(ledger_judged, &zero);

		if (seen)
			seen->packets = fields->packets;
	}
	if (pkt->mode == CUBELET_NEW && pkt->orig.sport == bpf_htons(LEDGER_DENIED))
		return cubelet_drop(pkt, LEDGER_REASON_DENIED);
	return cubelet_next(pkt);
}

static __always_inline __u16 ledger_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					   struct cubelet_flow *flow)
{
	struct ledger_flow_fields *fields = ledger_fields(flow);

	fields->packets++;
	return fields->packets > LEDGER_LIMIT ? LEDGER_REASON_ENOUGH : 0;
}
