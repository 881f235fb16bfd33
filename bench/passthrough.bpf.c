/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A cube with nothing to say, in either direction. */
#include "cubelet.h"

CUBELET_INLINE int passthrough_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}

CUBELET_INLINE int passthrough_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}
