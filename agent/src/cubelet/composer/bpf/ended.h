/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows that end are told to the cubes that ask for it, with what they have carried.
 * What nobody has answered is not: anybody makes as much of it as he likes.
 *
 * Whoever deletes the forward record tells. The copy is made before, since the memory of a
 * deleted record may be another flow's at once. All of it is compiled out where no cube asks.
 */
#pragma once

#include "rate.h"

#if CUBELET_ENDED_PER_SECOND

/* NULL if it is not told. `key` finds `f`, and `other` is the flow's other record, if known. */
CUBELET_INLINE struct cubelet_ended *cubelet_ended_begin(const struct cubelet_tuple *key,
							 const struct cubelet_flow *f,
							 const struct cubelet_flow *other)
{
	__u32 zero = 0;
	struct cubelet_rate *rate = cubelet_lookup(cubelet_ended_rate, &zero);
	struct cubelet_lost *lost = cubelet_lookup(cubelet_ended_lost, &zero);
	struct cubelet_ended *ended = NULL;

	if (!(f->flags & CUBELET_FLOW_REPLIED) || !rate || !lost)
		return NULL;
	if (cubelet_rate_take(rate, CUBELET_ENDED_PER_SECOND))
		ended = bpf_ringbuf_reserve(cubelet_ended_ring, sizeof(*ended), 0);
	if (!ended) {
		__sync_fetch_and_add(&lost->lost, 1);
		return NULL;
	}
	ended->key = *key;
	ended->flow = *f;
	ended->paired = other != NULL;
	if (other) {
		ended->packets = other->packets;
		ended->bytes = other->bytes;
		__builtin_memcpy(ended->area, other->area, sizeof(ended->area));
	}
	return ended;
}

CUBELET_INLINE void cubelet_ended_tell(struct cubelet_ended *ended, int deleted)
{
	if (!ended)
		return;
	if (deleted)
		bpf_ringbuf_submit(ended, 0);
	else
		bpf_ringbuf_discard(ended, 0);
}

#endif

/*
 * Deletes both records of a flow: `key` finds `f`, whose partner's key is `other`. Those of a
 * pending flow may stand in either table.
 */
CUBELET_INLINE void cubelet_delete_flow(const struct cubelet_tuple *key,
					const struct cubelet_tuple *other,
					const struct cubelet_flow *f, const int pending)
{
	int deleted, others;

#if CUBELET_ENDED_PER_SECOND
	int reply = f->flags & CUBELET_FLOW_REPLY;
	const struct cubelet_flow *partner = cubelet_lookup(cubelet_flows, other);
	struct cubelet_ended *ended;

	if (!partner && pending)
		partner = cubelet_lookup(cubelet_pending, other);
	ended = cubelet_ended_begin(key, f, partner);
#endif
	others = !cubelet_delete(cubelet_flows, other);
	if (pending)
		others |= !cubelet_delete(cubelet_pending, other);
	deleted = !cubelet_delete(cubelet_flows, key);
	if (pending)
		deleted |= !cubelet_delete(cubelet_pending, key);
#if CUBELET_ENDED_PER_SECOND
	cubelet_ended_tell(ended, reply ? others : deleted);
#endif
}
