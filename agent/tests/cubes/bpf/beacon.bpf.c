/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* beacon: tells of each flow, hands over packets to port 9, drops blocked sources. For tests. */
#include "cubelet.h"

static __always_inline int beacon_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct beacon_source source = { .address = pkt->orig.src };
	struct beacon_event event = {};
	struct beacon_tally *tally;
	__u32 zero = 0;

	if (cubelet_lookup(beacon_blocked, &source))
		return cubelet_drop(pkt, BEACON_REASON_BLOCKED);
	if (pkt->orig.dport == bpf_htons(9))
		return beacon_punt(skb, pkt);
	tally = cubelet_lookup(beacon_seen, &zero);
	if (tally)
		tally->flows++;
	event.source = source.address;
	event.port = pkt->orig.dport;
	beacon_emit(&event);
	return cubelet_next(pkt);
}
