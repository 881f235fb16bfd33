/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cubes that see every packet from the uplink before anything else does, the
 * host's own traffic too: in XDP (cubelet_early) or, without it, in the uplink's
 * program. The composer defines CUBELET_EARLY as a list of STAGE(number, function,
 * classes), CUBELET_EARLY_CUBES as how many there are and CUBELET_EARLY_XDP.
 */
#pragma once

#include "cubelet/early.h"
#include "state.h"

#define CUBELET_STAGE_EARLY(number, function, classes) \
	if (!reason) {                                 \
		*stage = (number);                     \
		reason = function(e);                  \
	}

/* 0, or the reason that the last cube asked drops the packet for. */
CUBELET_INLINE __u16 cubelet_early_judge(const struct cubelet_early *e, __u8 *stage)
{
	__u16 reason = 0;

	CUBELET_EARLY(CUBELET_STAGE_EARLY)
	return reason;
}

/* As cubelet_dropped(), where there is no sk_buff. */
CUBELET_INLINE void cubelet_early_dropped(const struct cubelet_early *e, __u32 ifindex,
					  __u16 reason, __u8 stage)
{
	struct cubelet_drop_event event = {};

	cubelet_count(reason * 4 + CUBELET_UPLINK, e->length);
	if (!*(volatile __u32 *)cubelet_monitor_value)
		return;
	event.tuple.src = e->src;
	event.tuple.dst = e->dst;
	event.tuple.sport = e->sport;
	event.tuple.dport = e->dport;
	event.tuple.protocol = e->protocol;
	event.ifindex = ifindex;
	event.length = e->length;
	event.reason = reason;
	event.ethertype = bpf_htons(CUBELET_ETHERTYPE);
	event.entered = CUBELET_UPLINK;
	event.stage = stage;
	event.tcp_flags = e->tcp_flags;
	bpf_ringbuf_output(cubelet_events, &event, sizeof(event), 0);
}

/* In the uplink's program, after parsing: 1 if the packet has been dropped. */
CUBELET_INLINE int cubelet_early_refuses(struct __sk_buff *skb, const struct cubelet_headers *h)
{
#if CUBELET_EARLY_CUBES && !CUBELET_EARLY_XDP
	struct cubelet_early e = {};
	__u8 stage = 0;
	__u16 reason;

	if (!h->ip)
		return 0;
	e.src = h->tuple.src;
	e.dst = h->tuple.dst;
	e.sport = h->tuple.sport;
	e.dport = h->tuple.dport;
	e.length = skb->len;
	e.protocol = h->tuple.protocol;
	e.fragment = h->fragment;
	e.tcp_flags = h->tcp_flags;
	reason = cubelet_early_judge(&e, &stage);
	if (!reason)
		return 0;
	cubelet_early_dropped(&e, skb->ifindex, reason, stage);
	cubelet_trace_early(reason, stage);
	return 1;
#else
	return 0;
#endif
}
