/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shares of the table of replied flows, and of the ports that sources are translated
 * to. Who opens a flow is charged for it, never whom it is opened to. An owner may
 * hold as much as is free (dynamic thresholds: Choudhury and Hahne, 1998): one alone
 * gets half, n equally greedy ones 1/(n + 1) each, and whoever holds little finds room.
 *
 * Counts stand in arrays by hash. The agent's sweep writes them anew: a record that was
 * evicted or removed from outside takes its count with it there. See flows.py.
 */
#pragma once

#include "fast.h"

#define CUBELET_SHARE_MASK 0x3fff
#define CUBELET_SHARE_HASH 4096
#define CUBELET_SHARE_REMOTE CUBELET_SHARE_HASH /* other nodes, behind the pods */
#define CUBELET_SHARE_CLASS (2 * CUBELET_SHARE_HASH) /* the host, and all outsiders */
#define CUBELET_SHARE_TOTAL (CUBELET_SHARE_CLASS + 4)

#define CUBELET_PORT_SHARE_MASK 0x1ffff
#define CUBELET_PORT_SHARE_TOTAL 65536 /* of a destination, behind each owner's */

#define cubelet_share_counts ((__s32 *)cubelet_shares_value)
#define cubelet_port_counts ((__s32 *)cubelet_port_shares_value)

/* Whose share a flow counts in, by where its first packet entered. */
CUBELET_INLINE __u32 cubelet_share_slot(const struct cubelet_hop *opened)
{
	if (opened->port_class == CUBELET_POD)
		return opened->ifindex * 0x9E3779B1U >> 20;
	if (opened->port_class == CUBELET_OVERLAY)
		return CUBELET_SHARE_REMOTE + (opened->remote * 0x9E3779B1U >> 20);
	return CUBELET_SHARE_CLASS + (opened->port_class & 3);
}

/* A count may be below zero for a moment, when a sweep has just written it. */
CUBELET_INLINE __s32 cubelet_held(const volatile __s32 *count)
{
	__s32 held = *count;

	return held > 0 ? held : 0;
}

/* May this owner have one more replied flow? */
CUBELET_INLINE int cubelet_share_left(const struct cubelet_hop *opened)
{
	__u32 slot = cubelet_share_slot(opened) & CUBELET_SHARE_MASK;

	return cubelet_held(&cubelet_share_counts[slot]) <
	       CUBELET_FLOWS_LIVE - cubelet_held(&cubelet_share_counts[CUBELET_SHARE_TOTAL]);
}

/* Translated ports are shared per destination: its two counts, all owners' and this one's. */
struct cubelet_port_slots {
	__u32 all;
	__u32 own;
};

CUBELET_INLINE struct cubelet_port_slots cubelet_port_slots(const struct cubelet_addr *dst,
							    __be16 port, __u8 protocol, __u32 owner)
{
	__u64 hash = cubelet_addr_fold(dst) * 0x9E3779B97F4A7C15ULL;
	struct cubelet_port_slots slots;

	hash = (hash ^ (hash >> 29) ^ ((__u32)port << 16 | protocol)) * 0xBF58476D1CE4E5B9ULL;
	slots.all = (CUBELET_PORT_SHARE_TOTAL + (hash >> 50)) & CUBELET_PORT_SHARE_MASK;
	slots.own = ((hash ^ (hash >> 32) ^ owner) * 0x94D049BB133111EBULL) >> 48 &
		    CUBELET_PORT_SHARE_MASK;
	return slots;
}

/*
 * May the flow that is being opened have one more of `range` ports towards its destination? Who
 * is alone may have most of them. An eighth is left, where those find a port who have few: the
 * fuller a range is, the more often all ports that are tried are taken.
 */
CUBELET_INLINE int cubelet_port_left(const struct cubelet_pkt *pkt, __s32 range)
{
	struct cubelet_port_slots slots = cubelet_port_slots(
		&pkt->cur.dst, pkt->cur.dport, pkt->cur.protocol, cubelet_share_slot(&pkt->in));

	__s32 own = cubelet_held(&cubelet_port_counts[slots.own]);

	return own < 8 * (range - range / 8 - cubelet_held(&cubelet_port_counts[slots.all])) ||
	       own <= range / 128;
}

/* A replied flow begins to count (n is 1), or counts no more (-1); `key` finds `f`. */
CUBELET_INLINE void cubelet_charge(const struct cubelet_tuple *key, const struct cubelet_flow *f,
				   __s32 n)
{
	int reply = f->flags & CUBELET_FLOW_REPLY;
	__u32 owner = cubelet_share_slot(reply ? &f->leaves : &f->enters);
	struct cubelet_port_slots slots;

	__sync_fetch_and_add(&cubelet_share_counts[owner & CUBELET_SHARE_MASK], n);
	__sync_fetch_and_add(&cubelet_share_counts[CUBELET_SHARE_TOTAL], n);
	if (!(f->flags & CUBELET_FLOW_RANGE))
		return;
	slots = reply ? cubelet_port_slots(&key->src, key->sport, key->protocol, owner)
		      : cubelet_port_slots(&f->to.dst, f->to.dport, f->to.protocol, owner);
	__sync_fetch_and_add(&cubelet_port_counts[slots.own], n);
	__sync_fetch_and_add(&cubelet_port_counts[slots.all], n);
}
