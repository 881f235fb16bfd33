/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the core's programs share: a per-CPU scratch (512 bytes of stack are too
 * few for a packet's metadata and two flow records), jumps, drops.
 */
#pragma once

#include "cubelet.h"
#include "cubelet/flow.h"

/* Slots of the jump table. Tail-call compositions put their stages behind the last. */
enum cubelet_jump {
	CUBELET_JUMP_SLOW = 0,
	CUBELET_JUMP_RELATED,
	CUBELET_JUMP_ERROR,
	CUBELET_JUMP_FLOOD,
	CUBELET_JUMP_FINISH,
	CUBELET_JUMP_FRAGMENT,
	CUBELET_JUMP_MIRRORED,
	CUBELET_JUMP_STAGES = 8,
};

#define CUBELET_QUOTE 512 /* bytes of the offending packet that an ICMP error can quote */

struct cubelet_scratch {
	struct cubelet_pkt pkt;
	struct cubelet_tuple key; /* of the reply record */
	struct cubelet_flow forward;
	struct cubelet_flow reply;
	struct cubelet_headers quoted; /* the packet inside an ICMP error */
	__u8 quote[CUBELET_QUOTE];
};

CUBELET_INLINE struct cubelet_scratch *cubelet_scratch_get(void)
{
	__u32 zero = 0;

	return cubelet_lookup(cubelet_scratch_map, &zero);
}

/* BCC declares the tail call for its own map syntax only. */
static long (*cubelet_tail_call)(void *ctx, void *map, __u32 slot) = (void *)BPF_FUNC_tail_call;

CUBELET_INLINE void cubelet_jump(struct __sk_buff *skb, __u32 slot)
{
	cubelet_tail_call(skb, cubelet_jumps, slot);
}

CUBELET_INLINE void cubelet_count(__u32 slot, __u32 bytes)
{
	struct cubelet_counter *counter = cubelet_lookup(cubelet_drops, &slot);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += bytes;
}

/* Where the packet went, for compositions that are asked: see Trace in composer/core.py. */
CUBELET_INLINE void cubelet_trace_sent(const struct cubelet_hop *hop, __u8 sent)
{
#if CUBELET_TRACE
	struct cubelet_trace *trace = (void *)cubelet_trace_value;

	trace->hop = *hop;
	trace->sent = sent;
#endif
}

CUBELET_INLINE void cubelet_trace_dropped(const struct cubelet_pkt *pkt)
{
#if CUBELET_TRACE
	struct cubelet_trace *trace = (void *)cubelet_trace_value;

	if (!trace->reason) { /* the first reason is the cause */
		trace->reason = pkt->reason;
		trace->stage = pkt->stage;
		trace->verdict = pkt->verdict;
	}
#endif
}

/* For a packet that no scratch is filled for. */
CUBELET_INLINE void cubelet_trace_early(__u16 reason, __u8 stage)
{
#if CUBELET_TRACE
	struct cubelet_trace *trace = (void *)cubelet_trace_value;

	trace->reason = reason;
	trace->stage = stage;
#endif
}

/* Drops the packet: counted by reason and class, shown to whoever watches (DropEvent). */
CUBELET_INLINE int cubelet_dropped(struct __sk_buff *skb, struct cubelet_pkt *pkt, __u16 reason)
{
	struct cubelet_drop_event event = {};

	pkt->reason = reason;
	cubelet_trace_dropped(pkt);
	cubelet_count(reason * 4 + (pkt->entered & 3), skb->len);
	if (*(volatile __u32 *)cubelet_monitor_value) {
		event.tuple = pkt->hdr.tuple;
		event.ifindex = pkt->ifindex;
		event.length = skb->len;
		event.reason = reason;
		event.ethertype = pkt->hdr.ethertype;
		event.entered = pkt->entered;
		event.stage = pkt->stage;
		event.tcp_flags = pkt->hdr.tcp_flags;
		event.mode = pkt->mode;
		bpf_ringbuf_output(cubelet_events, &event, sizeof(event), 0);
	}
	return TC_ACT_SHOT;
}
