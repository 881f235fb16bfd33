/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How much is told to the agent: so many things a second, by all CPUs together.
 */
#pragma once

#include "state.h"

/*
 * One of `limit` things that the node may do in a second, up to as many at once. The bucket is
 * kept as the time at which it is empty again, in jiffies times the limit, so that each thing
 * takes a whole number of it: HZ. Without compare-and-swap, which Linux 5.10 lacks: CPUs that
 * take at the same moment may exceed the limit by one each, and what they add is paid for.
 * Differences of times, since these may wrap. Beyond full is a time under another limit.
 */
CUBELET_INLINE int cubelet_rate_take(struct cubelet_rate *rate, __u32 limit)
{
	__u64 now = bpf_jiffies64() * limit;
	__s64 full = (__u64)limit * CUBELET_HZ;
	__s64 ahead = *(volatile __u64 *)&rate->until - now;

	if (ahead < 0 || ahead > full) {
		rate->until = now + CUBELET_HZ;
		return limit > 0;
	}
	if (ahead + CUBELET_HZ > full)
		return 0;
	__sync_fetch_and_add(&rate->until, CUBELET_HZ);
	return 1;
}
