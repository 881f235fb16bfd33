/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Epochs say which configuration a cached verdict was judged under. They are
 * counters that only grow; a flow keeps the sum of those it depends on: the
 * global ones and those of its addresses. They are read before the cubes read
 * their maps, and raised after the maps are written, so a stale verdict can
 * never carry a fresh sum.
 */
#pragma once

#include "cubelet/packet.h"

#define CUBELET_EPOCH_BUCKETS 4096

struct cubelet_epochs {
	__u32 global; /* raised by the agent */
	__u32 datapath; /* raised by programs, such as when a station moves */
	__u32 address[CUBELET_EPOCH_BUCKETS];
};

#define cubelet_epoch_values ((struct cubelet_epochs *)cubelet_epochs_value)

CUBELET_INLINE __u16 cubelet_epoch_bucket(const struct cubelet_addr *address)
{
	return (cubelet_addr_fold(address) * 0x9E3779B1U) >> 20;
}

CUBELET_INLINE __u32 cubelet_epoch_sum(__u16 src, __u16 dst, __u16 backend)
{
	const volatile struct cubelet_epochs *epochs = cubelet_epoch_values;

	return epochs->global + epochs->datapath + epochs->address[src % CUBELET_EPOCH_BUCKETS] +
	       epochs->address[dst % CUBELET_EPOCH_BUCKETS] +
	       epochs->address[backend % CUBELET_EPOCH_BUCKETS];
}

/* Takes the epochs of the tuple to be judged, before the first cube runs. */
CUBELET_INLINE void cubelet_epoch_take(struct cubelet_pkt *pkt)
{
	pkt->epoch_src = cubelet_epoch_bucket(&pkt->orig.src);
	pkt->epoch_dst = cubelet_epoch_bucket(&pkt->orig.dst);
	pkt->epoch_backend = cubelet_epoch_bucket(&pkt->cur.dst);
	pkt->epoch_sum = cubelet_epoch_sum(pkt->epoch_src, pkt->epoch_dst, pkt->epoch_backend);
}

/* The destination has been rewritten: depend on the new one's epoch instead. */
CUBELET_INLINE void cubelet_epoch_retake(struct cubelet_pkt *pkt)
{
	const volatile struct cubelet_epochs *epochs = cubelet_epoch_values;

	pkt->epoch_sum -= epochs->address[pkt->epoch_backend % CUBELET_EPOCH_BUCKETS];
	pkt->epoch_backend = cubelet_epoch_bucket(&pkt->cur.dst);
	pkt->epoch_sum += epochs->address[pkt->epoch_backend % CUBELET_EPOCH_BUCKETS];
}

/* A program itself changed what verdicts rest on. */
CUBELET_INLINE void cubelet_epoch_raise(void)
{
	__sync_fetch_and_add(&cubelet_epoch_values->datapath, 1);
}
