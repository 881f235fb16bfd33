/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The programs that both ways of composing share: entries and the core's own jumps. */
#include "error.h"
#include "flood.h"
#include "keep.h"
#include "related.h"

int cubelet_pod(struct __sk_buff *skb)
{
	return cubelet_entry(skb, CUBELET_POD);
}

int cubelet_host(struct __sk_buff *skb)
{
	return cubelet_entry(skb, CUBELET_HOST);
}

int cubelet_overlay(struct __sk_buff *skb)
{
	return cubelet_entry(skb, CUBELET_OVERLAY);
}

int cubelet_uplink(struct __sk_buff *skb)
{
	return cubelet_entry(skb, CUBELET_UPLINK);
}

int cubelet_error(struct __sk_buff *skb)
{
	return cubelet_send_error(skb);
}

int cubelet_related(struct __sk_buff *skb)
{
	return cubelet_send_related(skb);
}

int cubelet_floods(struct __sk_buff *skb)
{
	return cubelet_send_flood(skb);
}

int cubelet_fragment(struct __sk_buff *skb)
{
	return cubelet_send_fragment(skb);
}

/* What tracking decided without the cubes. */
CUBELET_INLINE int cubelet_settled(struct __sk_buff *skb, struct cubelet_scratch *s, int tracked,
				   struct cubelet_flow *f)
{
	if (tracked == CUBELET_TRACKED_PASS)
		return TC_ACT_UNSPEC;
	if (tracked == CUBELET_TRACKED_REJECT)
		return cubelet_rejected(skb, &s->pkt);
	if (tracked == CUBELET_TRACKED_DROP || !f)
		return cubelet_dropped(skb, &s->pkt, s->pkt.reason);
	return cubelet_send_on(skb, s, f);
}
