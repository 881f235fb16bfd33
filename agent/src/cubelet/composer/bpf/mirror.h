/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Copies of a flow's packets to pods of this node, which cubes describe by KIND_mirror().
 * Where to stands in the flow's records; the composer defines its place, CUBELET_MIRROR_AT,
 * and its generation. All of it is compiled out where no cube mirrors.
 *
 * A copy leaves by a pod's veth, where no program of ours stands: it opens no flow, is
 * translated and counted by nobody, and is never copied again.
 */
#pragma once

#include "rate.h"

#if CUBELET_MIRRORS

#define CUBELET_MIRROR_PORTS 4 /* the fields of struct cubelet_mirror_targets before `epoch` */

/*
 * Behind the cubes' fields of a flow. Targets count only under the epochs that they were
 * described under, so that none outlives a judging in which no cube named it.
 */
struct cubelet_mirror_slot {
	struct cubelet_mirror_targets to;
	__u16 generation;
};

CUBELET_INLINE struct cubelet_mirror_slot *cubelet_mirror_at(void *area)
{
	return area + CUBELET_MIRROR_AT;
}

/* 1, or 0 if the flow is copied to as many pods already. */
CUBELET_INLINE int cubelet_mirror_add(struct cubelet_pkt *pkt, __u32 port)
{
	__u32 *ports = (__u32 *)&cubelet_mirror_at(pkt->area)->to;

#pragma unroll
	for (int i = 0; i < CUBELET_MIRROR_PORTS; i++) {
		if (!ports[i] || ports[i] == port) {
			ports[i] = port;
			return 1;
		}
	}
	return 0;
}

/* A known flow is judged again, and what was said of copies said anew. */
CUBELET_INLINE void cubelet_mirror_anew(struct cubelet_pkt *pkt)
{
	__builtin_memset(cubelet_mirror_at(pkt->area), 0, sizeof(struct cubelet_mirror_slot));
}

/* What was described becomes the record's. */
CUBELET_INLINE void cubelet_mirror_store(struct cubelet_flow *f, struct cubelet_pkt *pkt)
{
	struct cubelet_mirror_slot *slot = cubelet_mirror_at(f->area);

	slot->to = cubelet_mirror_at(pkt->area)->to;
	slot->to.epoch = pkt->epoch_sum;
	slot->generation = CUBELET_MIRROR_GENERATION;
}

CUBELET_INLINE void cubelet_mirror_count(struct __sk_buff *skb, __u32 slot)
{
	struct cubelet_counter *counter = cubelet_lookup(cubelet_mirrored, &slot);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += skb->len;
}

/* One copy. The target must still be a pod's port: none else gets anything, in a trial nobody. */
CUBELET_INLINE void cubelet_mirror_to(struct __sk_buff *skb, __u32 port)
{
	__u32 zero = 0;
	struct cubelet_rate *rate = cubelet_lookup(cubelet_mirror_rate, &zero);
	int lost = 1;

	if (rate && cubelet_lookup(cubelet_ports, &port) &&
	    cubelet_rate_take(rate, CUBELET_MIRRORED_PER_SECOND))
		lost = !!bpf_clone_redirect(skb, port, 0);
	cubelet_mirror_count(skb, lost);
}

/*
 * The frame has the router's MAC while it is copied, so that it is nobody's own in the pod, whose
 * stack then leaves it to whoever listens. The rewrite that follows gives it its next one.
 */
CUBELET_INLINE void cubelet_mirror(struct __sk_buff *skb, struct cubelet_flow *f)
{
	struct cubelet_mirror_targets to = cubelet_mirror_at(f->area)->to;
	const __u8 router[ETH_ALEN] = CUBELET_ROUTER_MAC;
	const __u32 *ports = (const __u32 *)&to;
	__u32 enters = f->enters.ifindex, leaves = f->leaves.ifindex;

	if (bpf_skb_store_bytes(skb, 0, router, sizeof(router), 0))
		return;
#pragma unroll
	for (int i = 0; i < CUBELET_MIRROR_PORTS; i++)
		/* who sends the packet, or is sent it, has it */
		if (ports[i] && ports[i] != enters && ports[i] != leaves)
			cubelet_mirror_to(skb, ports[i]);
}

/* Are the flow's packets copied? Then a program of its own sends them. */
CUBELET_INLINE int cubelet_is_mirrored(const struct cubelet_flow *f)
{
	const struct cubelet_mirror_slot *slot = cubelet_mirror_at((void *)f->area);

	return slot->to.first && slot->generation == CUBELET_MIRROR_GENERATION &&
	       slot->to.epoch == f->epoch_sum;
}

#else

CUBELET_INLINE void cubelet_mirror_anew(struct cubelet_pkt *pkt)
{
}

CUBELET_INLINE void cubelet_mirror_store(struct cubelet_flow *f, struct cubelet_pkt *pkt)
{
}

CUBELET_INLINE void cubelet_mirror(struct __sk_buff *skb, struct cubelet_flow *f)
{
}

CUBELET_INLINE int cubelet_is_mirrored(const struct cubelet_flow *f)
{
	return 0;
}

#endif
