/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments: later ones have no ports and follow their first.
 */
#pragma once

#include "fast.h"

CUBELET_INLINE void cubelet_fragment_identify(struct cubelet_fragment_key *key,
					      const struct cubelet_headers *h)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->src = h->tuple.src;
	key->dst = h->tuple.dst;
	key->id = h->fragment_id;
	key->protocol = h->tuple.protocol;
}

/* A first fragment that may come from where it came: later ones follow it. */
CUBELET_INLINE void cubelet_fragment_remember(const struct cubelet_headers *h)
{
	struct cubelet_fragment_key key;
	struct cubelet_fragment_ports ports = {};

	cubelet_fragment_identify(&key, h);
	ports.sport = h->tuple.sport;
	ports.dport = h->tuple.dport;
	ports.seen = bpf_jiffies64();
	cubelet_update(cubelet_fragments, &key, &ports, BPF_ANY);
}

/*
 * A later fragment has no ports: it takes those its first fragment was seen with
 * in the last 30 seconds (RFC 791 gives reassembly 15 to 60).
 */
CUBELET_INLINE int cubelet_fragment_follow(struct cubelet_headers *h)
{
	struct cubelet_fragment_key key;
	struct cubelet_fragment_ports *known;

	cubelet_fragment_identify(&key, h);
	known = cubelet_lookup(cubelet_fragments, &key);
	if (!known || (__u32)bpf_jiffies64() - known->seen > 30 * CUBELET_HZ)
		return -1;
	h->tuple.sport = known->sport;
	h->tuple.dport = known->dport;
	return 0;
}
