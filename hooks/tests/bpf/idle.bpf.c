/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* idle: a ledger that keeps nothing. For tests. */
#include "cubelet.h"

static __always_inline int ledger_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}
