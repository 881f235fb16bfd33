/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ddos: drops packets of the uplink by their source, before anything else sees
 * them. In XDP where the driver has it, else at the head of the uplink's program.
 *
 * Planned: prefixes in two tries, and one entry that says how much is too much.
 *   ddos_listed:  203.0.113.0/24 -> 1     dropped
 *   ddos_allowed: 172.18.0.11/32 -> 1     never dropped, whatever else is known of it
 *   ddos_limits:  0 -> { 5000 packets a second, 5000 at once, blocked for 60 s }
 * The datapath's own: sources that are dropped until a time, and how much others send.
 *   ddos_blocked: 198.51.100.7 -> { until 912.4 s, 48211 packets dropped, by rate }
 *   ddos_buckets: 198.51.100.9 -> empty at ...
 *   ddos_spared:  by cause -> packets that only the allowlist has let pass
 *
 * The allowlist goes before everything, but is asked last: only for what would be
 * dropped, so that ordinary packets do not pay for it.
 */
#include "cubelet.h"

CUBELET_INLINE int ddos_is_listed(const struct cubelet_addr *source)
{
	struct ddos_prefix key = { .prefixlen = DDOS_ADDRESS_BITS, .address = *source };

	return cubelet_lookup(ddos_listed, &key) != NULL;
}

/* Counts what it spares: spoofed sources of nodes, or lists that name too much, show there. */
CUBELET_INLINE int ddos_is_allowed(const struct cubelet_addr *source, __u16 reason)
{
	struct ddos_prefix key = { .prefixlen = DDOS_ADDRESS_BITS, .address = *source };
	__u32 cause = reason - DDOS_REASON_LISTED;
	struct ddos_packets *spared;

	if (!cubelet_lookup(ddos_allowed, &key))
		return 0;
	spared = cubelet_lookup(ddos_spared, &cause);
	if (spared)
		spared->packets++;
	return 1;
}

/* 0, or why the source is dropped for a time. An entry whose time is over goes. */
CUBELET_INLINE __u16 ddos_blocked_for(const struct cubelet_addr *source)
{
	struct ddos_block *block = cubelet_lookup(ddos_blocked, source);

	if (!block)
		return 0;
	if (bpf_ktime_get_ns() >= block->until) {
		cubelet_delete(ddos_blocked, source);
		return 0;
	}
	__sync_fetch_and_add(&block->packets, 1);
	return block->cause == DDOS_BY_OPERATOR ? DDOS_REASON_BLOCKED : DDOS_REASON_RATE;
}

/*
 * A bucket that each packet fills by one and that empties at the rate; it is kept as the
 * time at which it will be empty (the generic cell rate algorithm, ITU-T I.371). Time is
 * counted in jiffies times the rate, so that a packet takes a whole number of it: HZ.
 * CPUs may lose each other's packets; who sends too much is over the rate all the same.
 */
CUBELET_INLINE int ddos_over_rate(const struct cubelet_addr *source,
				  const struct ddos_rate_limit *limits)
{
	__u64 now = bpf_jiffies64() * limits->rate;
	__u64 full = (__u64)limits->burst * CUBELET_HZ;
	struct ddos_bucket *bucket = cubelet_lookup(ddos_buckets, source);
	struct ddos_bucket first = { .empty = now + CUBELET_HZ };

	if (!bucket) {
		cubelet_update(ddos_buckets, source, &first, BPF_ANY);
		return 0;
	}
	/* Beyond full: a time under another rate, since nobody fills a bucket that far. */
	if (bucket->empty < now || bucket->empty > now + full)
		bucket->empty = now;
	if (bucket->empty + CUBELET_HZ > now + full)
		return 1;
	bucket->empty += CUBELET_HZ;
	return 0;
}

CUBELET_INLINE void ddos_block_for(const struct cubelet_addr *source, __u64 nanoseconds)
{
	struct ddos_block block = {
		.until = bpf_ktime_get_ns() + nanoseconds,
		.packets = 1,
		.cause = DDOS_BY_RATE,
	};
	struct ddos_event event = {};

	cubelet_update(ddos_blocked, source, &block, BPF_ANY);
	event.source = *source;
	ddos_emit(&event);
}

CUBELET_INLINE __u16 ddos_limit(const struct cubelet_addr *source)
{
	struct ddos_rate_limit *limits;
	__u32 zero = 0;

	limits = cubelet_lookup(ddos_limits, &zero);
	if (!limits || !ddos_over_rate(source, limits))
		return 0;
	if (ddos_is_allowed(source, DDOS_REASON_RATE))
		return 0;
	ddos_block_for(source, limits->block);
	return DDOS_REASON_RATE;
}

static __always_inline __u16 ddos_early(const struct cubelet_early *e)
{
	__u16 reason = ddos_is_listed(&e->src) ? DDOS_REASON_LISTED : ddos_blocked_for(&e->src);

	if (reason)
		return ddos_is_allowed(&e->src, reason) ? 0 : reason;
	return DDOS_RATE_LIMITED ? ddos_limit(&e->src) : 0;
}
