/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments that come before their first. A program cannot hold a packet, so it is copied
 * into a map, and dropped. When its first fragment has been judged and may go on, copies of
 * that one's buffer are filled with the kept frames and enter the device once more: they
 * then find what they follow, and go every packet's way.
 *
 * Every owner has CUBELET_KEPT_PER_PORT places, for itself alone, and uses them in turn: who
 * needs more loses the oldest. What is for the node's own address may be the host's: it passes,
 * and the copy comes to nothing unless its first fragment turns out to be ours.
 */
#pragma once

#include "commit.h"

#define CUBELET_KEPT_BYTES sizeof(((struct cubelet_kept_fragment *)0)->frame)
#define CUBELET_LOOPBACK 1 /* its ifindex in every network namespace */

/* Of a frame that the host sends by the gateway. */
struct cubelet_host_macs {
	__u8 dst[ETH_ALEN], src[ETH_ALEN];
};

/* From loopback into the datapath, as if it came by the gateway. */
CUBELET_INLINE int cubelet_enter_host(struct __sk_buff *skb)
{
	const struct cubelet_host_macs macs = { CUBELET_ROUTER_MAC, CUBELET_GATEWAY_MAC };

	if (bpf_skb_store_bytes(skb, 0, &macs, sizeof(macs), 0))
		return TC_ACT_UNSPEC;
	/* not by the gateway's other end, which drops what is too big without a word */
	return bpf_redirect(CUBELET_DATAPATH_IFINDEX, BPF_F_INGRESS);
}

CUBELET_INLINE int cubelet_kept_fresh(__u32 seen)
{
	return (__u32)bpf_jiffies64() - seen <= CUBELET_FRAGMENT_TIME;
}

/*
 * What was written before is seen by whoever looks after a fence of their own. A first
 * fragment and a later one on two CPUs each write, then look for the other: without fences both
 * could look in vain. Programs have no barrier, but the lock of a bucket is one.
 */
CUBELET_INLINE void cubelet_fence(void)
{
	__u32 nobody = 0;

	cubelet_delete(cubelet_keepers, &nobody);
}

/* What stands in a place goes: lost, unless the node's own stack has it. */
CUBELET_INLINE void cubelet_kept_lost(const struct cubelet_pkt *pkt,
				      const struct cubelet_kept_fragment *old)
{
	__u32 reason = cubelet_kept_fresh(old->seen) ? CUBELET_REASON_FRAGMENT_STORE
						     : CUBELET_REASON_FRAGMENT;

	if (!old->passed)
		cubelet_count(reason * 4 + (pkt->entered & 3), old->length);
}

/* Says that something has been kept. */
CUBELET_INLINE struct cubelet_keeper *cubelet_keeper_touch(__u32 owner)
{
	struct cubelet_keeper *keeper = cubelet_keeper_of(owner);

	if (keeper)
		keeper->seen = bpf_jiffies64();
	return keeper;
}

/* Puts a frame into a place that is used, or was: what stands there is lost. */
CUBELET_INLINE __u16 cubelet_keep_instead(const struct cubelet_pkt *pkt,
					  const struct cubelet_kept_key *key,
					  const struct cubelet_kept_fragment *frame)
{
	struct cubelet_kept_fragment *old = cubelet_lookup(cubelet_kept, key);

	if (old)
		cubelet_kept_lost(pkt, old);
	return cubelet_update(cubelet_kept, key, frame, BPF_ANY) ? CUBELET_REASON_FRAGMENT_STORE
								 : 0;
}

/*
 * Puts a frame into the owner's next free place, else into the oldest's. 0, or the reason.
 * The loop's body has few ways to its end, because the verifier goes all of them in each round.
 */
CUBELET_INLINE __u16 cubelet_keep_store(const struct cubelet_pkt *pkt, struct cubelet_kept_key *key,
					const struct cubelet_kept_fragment *frame)
{
	struct cubelet_keeper *keeper = cubelet_keeper_touch(key->owner);
	struct cubelet_kept_fragment *old;
	__u32 next;

	if (!keeper)
		return CUBELET_REASON_FRAGMENT_STORE;
	next = keeper->next;
	for (__u32 i = 0; i < CUBELET_KEPT_PER_PORT; i++) {
		asm volatile("" : "+r"(i)); /* keeps the counter where the verifier can follow it */
		key->slot = (next + i) % CUBELET_KEPT_PER_PORT;
		old = cubelet_lookup(cubelet_kept, key);
		if (old) {
			if (cubelet_kept_fresh(old->seen))
				continue;
			return cubelet_keep_instead(pkt, key, frame);
		}
		if (!cubelet_update(cubelet_kept, key, frame, BPF_NOEXIST)) {
			keeper->next = key->slot + 1;
			return 0;
		}
		if (!cubelet_lookup(cubelet_kept, key)) /* or another CPU was faster */
			return CUBELET_REASON_FRAGMENT_STORE; /* all owners' are taken */
	}
	key->slot = next % CUBELET_KEPT_PER_PORT;
	keeper->next = key->slot + 1;
	return cubelet_keep_instead(pkt, key, frame);
}

/* May it wait? As any packet, it must come from where its source is. 0, or the reason. */
CUBELET_INLINE __u16 cubelet_keep_source(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	pkt->in.port_class = pkt->entered;
	pkt->in.remote = pkt->entered == CUBELET_OVERLAY ? cubelet_tunnel_remote(skb) : 0;
	return cubelet_track_source(pkt);
}

/* Is it the length of a frame that can be kept? Said so that the verifier sees both bounds. */
CUBELET_INLINE int cubelet_kept_fits(__u64 *length)
{
	asm volatile("" : "+r"(*length));
	if (*length > CUBELET_KEPT_BYTES)
		return 0;
	asm volatile("" : "+r"(*length));
	return *length >= ETH_HLEN + CUBELET_IP_BYTES;
}

/* The frame in hand, with what must be known of it. 0, or the reason that it cannot be kept. */
CUBELET_INLINE __u16 cubelet_keep_copy(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
				       struct cubelet_kept_fragment *to)
{
	const struct cubelet_host_macs macs = { CUBELET_ROUTER_MAC, CUBELET_GATEWAY_MAC };
	__u64 length = skb->len;

	if (!cubelet_kept_fits(&length))
		return CUBELET_REASON_FRAGMENT;
	if (bpf_skb_load_bytes(skb, 0, to->frame, length))
		return CUBELET_REASON_HELPER;
	if (pkt->ifindex == CUBELET_LOOPBACK) /* it comes again as the host's others do */
		__builtin_memcpy(to->frame, &macs, sizeof(macs));
	cubelet_fragment_identify(&to->datagram, &pkt->hdr);
	to->remote = pkt->in.remote;
	to->seen = bpf_jiffies64();
	to->stamp = bpf_get_prandom_u32();
	to->length = length;
	return 0;
}

/*
 * A later fragment whose first is not known. The first may have come meanwhile, on another
 * CPU, and have looked for it in vain: then the copy is taken back, unless it was found after all.
 */
CUBELET_INLINE int cubelet_keep(struct __sk_buff *skb, struct cubelet_pkt *pkt,
				struct cubelet_kept_fragment *frame)
{
	int passes = pkt->ifindex == CUBELET_LOOPBACK ||
		     (pkt->entered == CUBELET_UPLINK && cubelet_to_own(&pkt->hdr));
	struct cubelet_kept_key key = { .owner = cubelet_keeper(pkt) };
	__u16 reason = cubelet_keep_source(skb, pkt);

	if (!reason)
		reason = cubelet_keep_copy(skb, pkt, frame);
	frame->passed = passes;
	if (!reason)
		reason = cubelet_keep_store(pkt, &key, frame);
	if (reason)
		return passes ? TC_ACT_UNSPEC : cubelet_dropped(skb, pkt, reason);
	cubelet_fence();
	if (cubelet_fragment_known(&frame->datagram) && !cubelet_delete(cubelet_kept, &key)) {
		if (pkt->ifindex == CUBELET_LOOPBACK)
			return cubelet_enter_host(skb);
		cubelet_jump(skb, CUBELET_JUMP_SLOW);
		return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
	}
	if (passes)
		return TC_ACT_UNSPEC;
	cubelet_trace_sent(&pkt->in, 4);
	return TC_ACT_SHOT;
}

/* Makes the frame in hand another one, of at most CUBELET_KEPT_BYTES. */
CUBELET_INLINE int cubelet_kept_write(struct __sk_buff *skb,
				      const struct cubelet_kept_fragment *frame)
{
	__u64 length = frame->length;

	if (!cubelet_kept_fits(&length))
		return -1;
	return bpf_skb_change_tail(skb, length, 0) |
	       bpf_skb_store_bytes(skb, 0, (void *)frame->frame, length, BPF_F_RECOMPUTE_CSUM);
}

/* Does it wait for this first fragment, and not for one that had its identity before? */
CUBELET_INLINE int cubelet_waits_for(const struct cubelet_kept_fragment *frame,
				     const struct cubelet_kept_fragment *first, __u32 since)
{
	const __u64 *a = (const __u64 *)&frame->datagram, *b = (const __u64 *)&first->datagram;
	__u64 differs = frame->remote ^ first->remote;

	_Static_assert(sizeof(frame->datagram) % 8 == 0, "compared in words");
#pragma unroll
	for (__u32 i = 0; i < sizeof(frame->datagram) / 8; i++)
		differs |= a[i] ^ b[i];
	return !differs & cubelet_kept_fresh(frame->seen) & ((__s32)(frame->seen - since) > 0);
}

/*
 * All that waited for the first fragment in hand enter once more; the frame in hand is lost.
 * As above, few branches: whoever takes a place's frame out of the map sends it, unless it
 * is not what was copied any more.
 */
CUBELET_INLINE void cubelet_release(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
				    const struct cubelet_kept_fragment *first)
{
	struct cubelet_kept_key key = { .owner = cubelet_keeper(pkt) };
	struct cubelet_fragment_ports *known = cubelet_fragment_known(&first->datagram);
	__u32 since, stamp, unfit;

	if (!known)
		return;
	since = known->since;
	for (__u32 i = 0; i < CUBELET_KEPT_PER_PORT; i++) {
		struct cubelet_kept_fragment *frame;

		asm volatile("" : "+r"(i));
		key.slot = i;
		frame = cubelet_lookup(cubelet_kept, &key);
		if (!frame || !cubelet_waits_for(frame, first, since))
			continue;
		stamp = *(volatile __u32 *)&frame->stamp;
		unfit = cubelet_kept_write(skb, frame);
		unfit |= stamp ^ *(volatile __u32 *)&frame->stamp;
		unfit |= cubelet_delete(cubelet_kept, &key);
		if (!unfit)
			bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	}
}

/* A first fragment that goes by a flow, and that others may have waited for. */
CUBELET_INLINE int cubelet_lead(struct __sk_buff *skb, struct cubelet_scratch *s,
				struct cubelet_kept_fragment *first)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_flow *f;

	pkt->in.remote = pkt->entered == CUBELET_OVERLAY ? cubelet_tunnel_remote(skb) : 0;
	if (!cubelet_keep_copy(skb, pkt, first)) {
		cubelet_release(skb, pkt, first);
		if (cubelet_kept_write(skb, first))
			return cubelet_dropped(skb, pkt, CUBELET_REASON_HELPER);
	}
	f = cubelet_find(&pkt->hdr.tuple);
	if (!f)
		return cubelet_dropped(skb, pkt, CUBELET_REASON_FLOW_TABLE);
	return cubelet_send_checked(skb, s, f);
}

/* The program behind CUBELET_JUMP_FRAGMENT. */
CUBELET_INLINE int cubelet_send_fragment(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	__u32 zero = 0;
	struct cubelet_kept_fragment *frame = cubelet_lookup(cubelet_kept_frame, &zero);

	if (!s || !frame)
		return TC_ACT_SHOT;
	if (s->pkt.hdr.fragment == CUBELET_LATER)
		return cubelet_keep(skb, &s->pkt, frame);
	return cubelet_lead(skb, s, frame);
}

/* As cubelet_send_checked(); a first fragment's followers, if any wait, come after it. */
CUBELET_INLINE int cubelet_send_on(struct __sk_buff *skb, struct cubelet_scratch *s,
				   struct cubelet_flow *f)
{
	if (s->pkt.hdr.fragment == CUBELET_FIRST) {
		__u32 owner = cubelet_keeper(&s->pkt);
		struct cubelet_keeper *keeper;

		cubelet_fence();
		keeper = cubelet_lookup(cubelet_keepers, &owner);
		if (keeper && cubelet_kept_fresh(keeper->seen))
			cubelet_jump(skb, CUBELET_JUMP_FRAGMENT);
	}
	return cubelet_send_checked(skb, s, f);
}
