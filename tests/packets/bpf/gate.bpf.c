/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests: says no to what one address sends to another, in any of the ways there are. */
#include "cubelet.h"

enum gate_way {
	GATE_DROP = 1,
	GATE_REFUSE,
	GATE_REJECT,
	GATE_RESTART,
	GATE_TO_STACK,
};

static __always_inline int gate_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct gate_pair key = { .src = pkt->orig.src, .dst = pkt->cur.dst };
	struct gate_answer *answer = cubelet_lookup(gate_closed, &key);

	if (!answer)
		return cubelet_next(pkt);
	switch (answer->way) {
	case GATE_REFUSE:
		return cubelet_refuse(pkt, GATE_REASON_CLOSED);
	case GATE_REJECT:
		return cubelet_reject(pkt, GATE_REASON_CLOSED, answer->type, answer->code, 0);
	case GATE_RESTART:
		if (!cubelet_rejudging(pkt))
			return cubelet_next(pkt);
		return cubelet_restart(pkt, GATE_REASON_CLOSED);
	case GATE_TO_STACK:
		return cubelet_to_stack(pkt);
	default:
		return cubelet_drop(pkt, GATE_REASON_CLOSED);
	}
}
