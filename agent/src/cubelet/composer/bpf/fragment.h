/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments: later ones have no ports and follow their first. What comes before its
 * first is kept until that comes: see keep.h.
 */
#pragma once

#include "entry.h"

#define CUBELET_FRAGMENT_TIME (30 * CUBELET_HZ) /* RFC 791 gives reassembly 15 to 60 s */

enum cubelet_followed {
	CUBELET_FOLLOWS, /* it has its first fragment's ports */
	CUBELET_AHEAD, /* its first fragment has not come */
	CUBELET_NOT_OURS, /* of a datagram for the node's own stack */
};

CUBELET_INLINE void cubelet_fragment_identify(struct cubelet_fragment_key *key,
					      const struct cubelet_headers *h)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->src = h->tuple.src;
	key->dst = h->tuple.dst;
	key->id = h->fragment_id;
	key->protocol = h->tuple.protocol;
}

/* For a place in a datagram, a number that cannot be guessed from its neighbours'; 0 for 0. */
CUBELET_INLINE __u32 cubelet_fragment_hash(__u32 place)
{
	place *= 0x9E3779B1U;
	place ^= place >> 15;
	place *= 0x85EBCA77U;
	return place ^ place >> 13;
}

#define CUBELET_KEEPER(port_class) (0x80000000U | (port_class) << 8)

/*
 * Who answers for a fragment: a pod's port by its ifindex; the host; of what comes by the
 * overlay and the uplink one of 16 buckets of sources.
 */
CUBELET_INLINE __u32 cubelet_keeper(const struct cubelet_pkt *pkt)
{
	__u32 keeper = CUBELET_KEEPER(pkt->entered);

	if (pkt->entered == CUBELET_POD)
		return pkt->ifindex;
	if (pkt->entered == CUBELET_HOST)
		return keeper;
	return keeper | (cubelet_addr_fold(&pkt->hdr.tuple.src) * 0x9E3779B1U) >> 28;
}

/* The owner's record, made if there is none. */
CUBELET_INLINE struct cubelet_keeper *cubelet_keeper_of(__u32 owner)
{
	struct cubelet_keeper fresh = {}, *keeper = cubelet_lookup(cubelet_keepers, &owner);

	if (keeper)
		return keeper;
	cubelet_update(cubelet_keepers, &owner, &fresh, BPF_NOEXIST);
	return cubelet_lookup(cubelet_keepers, &owner);
}

/*
 * One more datagram of the owner's is under way. It takes the place of the one that is
 * CUBELET_FRAGMENTS_EACH older: who needs more loses the oldest of their own.
 */
CUBELET_INLINE void cubelet_fragment_charge(const struct cubelet_fragment_key *key, __u32 owner)
{
	struct cubelet_keeper *keeper = cubelet_keeper_of(owner);
	struct cubelet_kept_key place = { .owner = owner };
	struct cubelet_fragment_key *oldest;

	if (!keeper)
		return;
	place.slot = keeper->datagrams++ % CUBELET_FRAGMENTS_EACH;
	oldest = cubelet_lookup(cubelet_fragment_places, &place);
	if (oldest)
		cubelet_delete(cubelet_fragments, oldest);
	cubelet_update(cubelet_fragment_places, &place, key, BPF_ANY);
}

/*
 * A first fragment that may come from where it came: later ones follow it. Those of an
 * earlier datagram with the same identity, sent by another flow, do not.
 */
CUBELET_INLINE void cubelet_fragment_remember(const struct cubelet_headers *h, const __u8 host,
					      __u32 owner)
{
	struct cubelet_fragment_key key;
	struct cubelet_fragment_ports ports = {}, *known;

	cubelet_fragment_identify(&key, h);
	ports.sport = h->tuple.sport;
	ports.dport = h->tuple.dport;
	ports.seen = bpf_jiffies64();
	ports.since = ports.seen - CUBELET_FRAGMENT_TIME;
	ports.came = cubelet_fragment_hash(h->size - (h->l4 - ETH_HLEN));
	ports.host = host;
	known = cubelet_lookup(cubelet_fragments, &key);
	if (known && known->sport == ports.sport && known->dport == ports.dport)
		ports.since = known->since; /* it came twice, or by loopback before */
	else if (known)
		ports.since = known->seen;
	else
		cubelet_fragment_charge(&key, owner);
	cubelet_update(cubelet_fragments, &key, &ports, BPF_ANY);
}

CUBELET_INLINE struct cubelet_fragment_ports *
cubelet_fragment_known(const struct cubelet_fragment_key *key)
{
	struct cubelet_fragment_ports *known = cubelet_lookup(cubelet_fragments, key);

	if (!known || (__u32)bpf_jiffies64() - known->seen > CUBELET_FRAGMENT_TIME)
		return NULL;
	return known;
}

/* Where a later fragment's data begins in its datagram, and whether more follow. Or an error. */
#if CUBELET_FAMILY == 4
CUBELET_INLINE long cubelet_fragment_part(struct __sk_buff *skb, const struct cubelet_headers *h,
					  __u32 *begin, int *more)
{
	__be16 field;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, frag_off), &field,
			       sizeof(field)))
		return -1;
	*begin = (bpf_ntohs(field) & CUBELET_IP_OFFSET) * 8;
	*more = field & bpf_htons(CUBELET_IP_MF);
	return 0;
}
#else
CUBELET_INLINE long cubelet_fragment_part(struct __sk_buff *skb, const struct cubelet_headers *h,
					  __u32 *begin, int *more)
{
	*begin = h->fragment_part & CUBELET_IP6_OFFSET;
	*more = h->fragment_part & CUBELET_IP6_MORE;
	return 0;
}
#endif

/*
 * One more has come. With the last the datagram is forgotten: its identity may be another's
 * soon (RFC 6864), whose fragments need not be in order.
 */
CUBELET_INLINE void cubelet_fragment_came(struct __sk_buff *skb, const struct cubelet_headers *h,
					  const struct cubelet_fragment_key *key,
					  struct cubelet_fragment_ports *known)
{
	__u32 begin, end;
	int more;

	if (cubelet_fragment_part(skb, h, &begin, &more))
		return;
	end = begin + h->size - (h->l4 - ETH_HLEN);
	__sync_fetch_and_add(&known->came,
			     cubelet_fragment_hash(end) - cubelet_fragment_hash(begin));
	if (!more)
		known->end = end;
	if (known->end && known->came == cubelet_fragment_hash(known->end))
		cubelet_delete(cubelet_fragments, key);
}

/*
 * A later fragment takes the ports that its first was seen with, if it was. `counts` where
 * it comes to be tracked: on loopback it is still on its way there.
 */
CUBELET_INLINE int cubelet_fragment_follow(struct __sk_buff *skb, struct cubelet_headers *h,
					   const int counts)
{
	struct cubelet_fragment_key key;
	struct cubelet_fragment_ports *known;
	__u8 host;

	cubelet_fragment_identify(&key, h);
	known = cubelet_fragment_known(&key);
	if (!known)
		return CUBELET_AHEAD;
	h->tuple.sport = known->sport;
	h->tuple.dport = known->dport;
	host = known->host;
	if (counts)
		cubelet_fragment_came(skb, h, &key, known);
	return host ? CUBELET_NOT_OURS : CUBELET_FOLLOWS;
}

/* Is it for an address of the node's own? Then its stack may be who is meant. */
CUBELET_INLINE int cubelet_to_own(const struct cubelet_headers *h)
{
	return h->ip && cubelet_is_own(&h->tuple.dst);
}

/*
 * Was it kept, and comes again (see keep.h)? Then the tunnel is missing that it came
 * through, which was its first fragment's.
 */
CUBELET_INLINE int cubelet_fragment_again(struct __sk_buff *skb, const struct cubelet_flow *f,
					  const struct cubelet_pkt *pkt)
{
	return pkt->hdr.fragment == CUBELET_LATER && pkt->entered == CUBELET_OVERLAY &&
	       f->enters.port_class == CUBELET_OVERLAY && !cubelet_tunnel_remote(skb);
}
