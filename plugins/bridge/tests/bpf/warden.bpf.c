/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Policies are in force: all but the pod that is told may hear floods. */
#include "cubelet.h"

static __always_inline int warden_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}

static __always_inline int warden_admits(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					 const struct cubelet_addr *pod)
{
	return bpf_ntohl(pod->w[0]) != WARDEN_ISOLATED;
}
