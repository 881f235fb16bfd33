/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the composer gives a cube beside its maps: its fields of a flow, events
 * and packets for its Python. The composer defines the structs KIND_flow_fields
 * and KIND_event and the maps KIND_event_ring, KIND_event_rate, KIND_event_lost and
 * the same of KIND_packet, and has each instance's functions made here.
 */
#pragma once

#include "mirror.h"

/*
 * Fields behind which another generation stands are somebody else's, or of another layout: they
 * begin at zero. A new record's generation is 0, which is nobody's. JUDGED beside it says that
 * they were there when the flow was judged: those of a flow that is older than the cube are
 * not, and get what is written when it is judged for the first time.
 */
#define CUBELET_FIELDS_JUDGED 0x8000
#define cubelet_provide_fields(instance, offset, current)                                          \
	struct instance##_flow_slot {                                                              \
		struct instance##_flow_fields fields;                                              \
		__u16 generation;                                                                  \
	};                                                                                         \
	CUBELET_INLINE struct instance##_flow_slot *instance##_fields_at(void *area)               \
	{                                                                                          \
		struct instance##_flow_slot *slot = area + (offset);                               \
                                                                                                   \
		if ((slot->generation & ~CUBELET_FIELDS_JUDGED) != (current)) {                    \
			__builtin_memset(&slot->fields, 0, sizeof(slot->fields));                  \
			slot->generation = (current);                                              \
		}                                                                                  \
		return slot;                                                                       \
	}                                                                                          \
	CUBELET_INLINE struct instance##_flow_fields *instance##_fields(struct cubelet_flow *flow) \
	{                                                                                          \
		return &instance##_fields_at(flow->area)->fields;                                  \
	}                                                                                          \
	CUBELET_INLINE struct instance##_flow_fields *instance##_new_fields(                       \
		struct cubelet_pkt *pkt)                                                           \
	{                                                                                          \
		struct instance##_flow_slot *slot = instance##_fields_at(pkt->area);               \
                                                                                                   \
		slot->generation |= CUBELET_FIELDS_JUDGED;                                         \
		return &slot->fields;                                                              \
	}                                                                                          \
	CUBELET_INLINE void instance##_join_fields(void *area, const void *judged)                 \
	{                                                                                          \
		const __u16 both = (current) | CUBELET_FIELDS_JUDGED;                              \
		const struct instance##_flow_slot *from = judged + (offset);                       \
		struct instance##_flow_slot *slot = area + (offset);                               \
                                                                                                   \
		if (from->generation == both && slot->generation != both)                          \
			*slot = *from;                                                             \
	}

/* 1, or 0 if the event is lost. */
#define cubelet_provide_events(instance, limit)                                                   \
	CUBELET_INLINE int instance##_emit(const struct instance##_event *event)                  \
	{                                                                                         \
		__u32 zero = 0;                                                                   \
		struct cubelet_rate *rate = cubelet_lookup(instance##_event_rate, &zero);         \
		struct cubelet_lost *lost;                                                        \
                                                                                                  \
		if (rate && cubelet_rate_take(rate, (limit)) &&                                   \
		    !bpf_ringbuf_output(instance##_event_ring, (void *)event, sizeof(*event), 0)) \
			return 1;                                                                 \
		lost = cubelet_lookup(instance##_event_lost, &zero);                              \
		if (lost)                                                                         \
			lost->lost++;                                                             \
		return 0;                                                                         \
	}

/* A copy of each packet of the flow goes to the pod behind this port. */
#define cubelet_provide_mirror(instance)                                             \
	CUBELET_INLINE int instance##_mirror(struct cubelet_pkt *pkt, __u32 ifindex) \
	{                                                                            \
		return cubelet_mirror_add(pkt, ifindex);                             \
	}

/* A whole frame on its way to the agent; see PuntedHead in composer/core.py. */
struct cubelet_punted {
	struct cubelet_punted_head head;
	__u8 frame[CUBELET_PUNT_BYTES];
};

CUBELET_INLINE long cubelet_punt_copy(struct __sk_buff *skb, __u8 *frame, __u64 length)
{
	if (length < ETH_HLEN)
		return -1;
	/* apart, or the compiler makes one comparison of both, which the verifier does not see */
	asm volatile("" : "+r"(length));
	if (length > CUBELET_PUNT_BYTES)
		return -1;
	return bpf_skb_load_bytes(skb, 0, frame, length);
}

/* Hands the frame over. 0, or the reason to drop it for. */
CUBELET_INLINE __u16 cubelet_punt_to(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
				     void *ring, struct cubelet_rate *rate,
				     struct cubelet_lost *lost, __u32 limit)
{
	struct cubelet_punted *punted;
	__u64 length = skb->len;

	if (skb->len > CUBELET_PUNT_BYTES)
		return CUBELET_REASON_PUNT_TOO_LONG;
	if (!rate || !lost)
		return CUBELET_REASON_RATE_LIMITED;
	punted = cubelet_rate_take(rate, limit) ? bpf_ringbuf_reserve(ring, sizeof(*punted), 0)
						: NULL;
	if (!punted) {
		lost->lost++;
		return CUBELET_REASON_RATE_LIMITED;
	}
	if (cubelet_punt_copy(skb, punted->frame, length)) {
		bpf_ringbuf_discard(punted, 0);
		return CUBELET_REASON_HELPER;
	}
	punted->head.ifindex = pkt->ifindex;
	punted->head.length = length;
	punted->head.entered = pkt->entered;
	bpf_ringbuf_submit(punted, 0);
	return 0;
}

#define cubelet_provide_packets(instance, limit)                                                 \
	CUBELET_INLINE int instance##_punt(struct __sk_buff *skb, struct cubelet_pkt *pkt)       \
	{                                                                                        \
		__u32 zero = 0;                                                                  \
		__u16 reason =                                                                   \
			cubelet_punt_to(skb, pkt, instance##_packet_ring,                        \
					cubelet_lookup(instance##_packet_rate, &zero),           \
					cubelet_lookup(instance##_packet_lost, &zero), (limit)); \
                                                                                                 \
		return reason ? cubelet_drop(pkt, reason) : CUBELET_PUNT;                        \
	}
