/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection tracking, the part after the cubes: turns their verdict into a
 * flow's two records, an updated flow, an error, or a drop.
 */
#pragma once

#include "echo.h"
#include "leave.h"
#include "track.h"

#define CUBELET_PORT_TRIES 16
#define CUBELET_PORT_STEP 7919 /* a prime: all ports of a range come before one comes twice */

/* Picks the i-th candidate for the source port: the sender's own first, then spread by hash. */
CUBELET_INLINE __be16 cubelet_port_candidate(const struct cubelet_pkt *pkt, __u32 hash, __u32 i)
{
	__u16 own = bpf_ntohs(pkt->orig.sport), count = pkt->range_count ? pkt->range_count : 1;

	if (!i && !pkt->port_taken && own >= pkt->range_first && own - pkt->range_first < count)
		return pkt->orig.sport;
	return bpf_htons(pkt->range_first + (hash + i * CUBELET_PORT_STEP) % count);
}

/* Is it our own, the flow's other record having been evicted? */
CUBELET_INLINE int cubelet_key_own(struct cubelet_scratch *s, const struct cubelet_flow *taken)
{
	cubelet_tuple_invert(&s->quoted.tuple, &s->pkt.orig);
	return cubelet_tuple_equal(&taken->to, &s->quoted.tuple);
}

/* Is the reply's key, s->key, free, or our own? */
CUBELET_INLINE int cubelet_key_free(struct cubelet_scratch *s)
{
	struct cubelet_flow *taken = cubelet_find(&s->key);

	return !taken || cubelet_key_own(s, taken);
}

enum cubelet_key_use {
	CUBELET_KEY_FREE, /* or our own */
	CUBELET_KEY_TAKEN,
	CUBELET_KEY_SPARE, /* of a flow that can be done without */
	CUBELET_KEY_WAITING, /* of one that can, but may be answered yet */
};

/* A flow can be done without that closes. */
CUBELET_INLINE int cubelet_replied_key_use(struct cubelet_scratch *s, const struct cubelet_flow *f)
{
	if (cubelet_key_own(s, f))
		return CUBELET_KEY_FREE;
	return f->state == CUBELET_FLOW_CLOSING ? CUBELET_KEY_SPARE : CUBELET_KEY_TAKEN;
}

/*
 * Or one that has not been answered, or whose one answer of datagrams was a second ago. Of what
 * was sent within the last second the answer may be on its way.
 */
CUBELET_INLINE int cubelet_pending_key_use(struct cubelet_scratch *s, const struct cubelet_flow *f)
{
	__u32 idle = (__u32)bpf_jiffies64() - f->last_seen;

	if (cubelet_key_own(s, f))
		return CUBELET_KEY_FREE;
	if (f->flags & CUBELET_FLOW_REPLIED &&
	    (s->key.protocol == IPPROTO_TCP || idle <= CUBELET_HZ))
		return CUBELET_KEY_TAKEN;
	return idle > CUBELET_HZ ? CUBELET_KEY_SPARE : CUBELET_KEY_WAITING;
}

/* What is the reply's key, s->key, used for? */
CUBELET_INLINE int cubelet_key_use(struct cubelet_scratch *s)
{
	struct cubelet_flow *f = cubelet_lookup(cubelet_flows, &s->key);

	if (f)
		return cubelet_replied_key_use(s, f);
	f = cubelet_lookup(cubelet_pending, &s->key);
	return f ? cubelet_pending_key_use(s, f) : CUBELET_KEY_FREE;
}

/* Takes the key over from a flow that can be done without. */
CUBELET_INLINE void cubelet_take_over(struct cubelet_scratch *s)
{
	struct cubelet_tuple key = s->key;
	struct cubelet_flow *taken = cubelet_find(&key);

	if (taken)
		cubelet_forget(s, &key, taken);
	s->key = key;
}

/*
 * The reply's key finds the first packets of a connection that was opened the other way round,
 * and whose record for replies was lost. A SYN takes the place of none that lives, as in
 * cubelet_track_known(). Does this one live?
 */
CUBELET_INLINE int cubelet_against_live(struct cubelet_scratch *s, const struct cubelet_flow *taken)
{
	const struct cubelet_headers *h = &s->pkt.hdr;

	if (taken->flags & CUBELET_FLOW_REPLY || h->tuple.protocol != IPPROTO_TCP ||
	    !(h->tcp_flags & CUBELET_TCP_SYN) || !cubelet_key_own(s, taken))
		return 0;
	if (cubelet_lives(taken))
		return 1;
	cubelet_take_over(s);
	return 0;
}

/* Would replies to the chosen port go to one of the host's sockets, bound or connected? */
CUBELET_INLINE int cubelet_hosts_port(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	return cubelet_is_own(&s->pkt.cur.src) && cubelet_node_socket(skb, &s->key);
}

/*
 * Chooses a source port whose reply's key, left in s->key, is free, or if there is none that of a
 * flow that can be done without. 0 if neither is to be had. What is found on the way is kept in
 * the packet's metadata, where the verifier does not follow each of its values.
 */
CUBELET_INLINE int cubelet_find_port(struct cubelet_scratch *s, __u32 hash)
{
	struct cubelet_pkt *pkt = &s->pkt;
	__u32 best;

	__builtin_memset(pkt->candidates, CUBELET_PORT_TRIES, sizeof(pkt->candidates));
	for (__u32 i = 0; i < CUBELET_PORT_TRIES; i++) {
		int use;

		pkt->cur.sport = cubelet_port_candidate(pkt, hash, i);
		cubelet_tuple_invert(&s->key, &pkt->cur);
		use = cubelet_key_use(s);
		if (use == CUBELET_KEY_FREE)
			return 1;
		pkt->candidates[use & 3] = i;
	}
	best = pkt->candidates[CUBELET_KEY_SPARE];
	if (best == CUBELET_PORT_TRIES)
		best = pkt->candidates[CUBELET_KEY_WAITING];
	if (best == CUBELET_PORT_TRIES)
		return 0;
	pkt->cur.sport = cubelet_port_candidate(pkt, hash, best);
	cubelet_tuple_invert(&s->key, &pkt->cur);
	cubelet_take_over(s);
	return 1;
}

/*
 * Settles the source port so that the reply's key is free, and leaves that key in
 * s->key. A key that is taken (a flow to the same backend through another VIP, a
 * translated source) means another source port. 0, or the reason it cannot be.
 */
CUBELET_INLINE __u16 cubelet_settle_port(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_flow *taken;
	__u32 hash;

	if (!(pkt->flags & CUBELET_SRC_RANGE) || !pkt->hdr.ports) {
		cubelet_tuple_invert(&s->key, &pkt->cur);
		taken = cubelet_find(&s->key);
		if (!taken)
			return 0;
		if (cubelet_against_live(s, taken))
			return CUBELET_REASON_LIVE_FLOW;
		if (cubelet_key_free(s))
			return 0;
		if (!pkt->hdr.ports)
			return CUBELET_REASON_NO_SOURCE_PORT;
		pkt->range_first = CUBELET_SNAT_FIRST;
		pkt->range_count = CUBELET_SNAT_LAST - CUBELET_SNAT_FIRST + 1;
	}
	pkt->flags |= CUBELET_SRC_RANGE;
	pkt->port_taken = 0;
	if (!cubelet_port_left(pkt, pkt->range_count))
		return CUBELET_REASON_NO_SOURCE_PORT;
	hash = cubelet_tuple_hash(&pkt->orig);
	/* twice: all may be taken, or the host may have a socket on what is found first */
#pragma nounroll
	for (__u32 again = 0; again < 2; again++) {
		if (cubelet_find_port(s, hash) && !cubelet_hosts_port(skb, s))
			return 0;
		pkt->port_taken = 1;
		hash += CUBELET_PORT_TRIES * CUBELET_PORT_STEP;
	}
	return CUBELET_REASON_NO_SOURCE_PORT;
}

/* Fills s->forward and s->reply from what the cubes described. */
CUBELET_INLINE void cubelet_build(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_flow *f = &s->forward;

	__builtin_memset(f, 0, sizeof(*f));
	f->enters = pkt->in;
	f->leaves = pkt->out;
	f->to = pkt->cur;
	f->last_seen = bpf_jiffies64();
	f->epoch_sum = pkt->epoch_sum;
	f->epoch_src = pkt->epoch_src;
	f->epoch_dst = pkt->epoch_dst;
	f->epoch_backend = pkt->epoch_backend;
	f->state = CUBELET_FLOW_PENDING;
	f->timeout = cubelet_flow_timeout(pkt->cur.protocol, CUBELET_FLOW_PENDING);
	if (pkt->flags & CUBELET_ROUTED)
		f->flags = CUBELET_FLOW_ROUTED;
	if (pkt->flags & CUBELET_SRC_RANGE)
		f->flags |= CUBELET_FLOW_RANGE;
	cubelet_area_store(f, pkt);
	cubelet_mirror_store(f, pkt);
	cubelet_rewrite_prepare(f, &pkt->orig);
	cubelet_invert_flow(&s->reply, &pkt->orig, f);
	if (pkt->reply) {
		s->reply.packets = 1;
		s->reply.bytes = skb->len;
	} else {
		f->packets = 1;
		f->bytes = skb->len;
	}
}

/*
 * What sends the packet that opened a flow: what the records were made from, which costs no
 * lookup. Cubes that see each packet, though, may write to the fields, and must write to the
 * record itself.
 */
CUBELET_INLINE struct cubelet_flow *cubelet_created(struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
#if CUBELET_AREA_USED
	struct cubelet_flow *made =
		cubelet_lookup(cubelet_pending, pkt->reply ? &s->key : &pkt->orig);

	if (made)
		return made;
#endif
	return pkt->reply ? &s->reply : &s->forward;
}

/*
 * Writes the two records. The reply's first: it reserves the source port, and a
 * forward record that can be found is then always complete. Of two packets racing
 * to open one flow the later one gives its reservation back and uses the winner's.
 */
CUBELET_INLINE struct cubelet_flow *cubelet_create(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	__u16 reason = cubelet_settle_port(skb, s);
	struct cubelet_flow *winner;

	if (reason) {
		pkt->reason = reason;
		return NULL;
	}
	cubelet_build(skb, s);
	if (cubelet_update(cubelet_pending, &s->key, &s->reply, BPF_NOEXIST) &&
	    (!cubelet_key_free(s) ||
	     cubelet_update(cubelet_pending, &s->key, &s->reply, BPF_EXIST)))
		goto failed; /* another flow has taken the key since it was looked for */
	if (!cubelet_update(cubelet_pending, &pkt->orig, &s->forward, BPF_NOEXIST))
		return cubelet_created(s);
	winner = cubelet_find(&pkt->orig);
	if (winner) {
		if (!cubelet_tuple_equal(&winner->to, &s->forward.to))
			cubelet_delete(cubelet_pending, &s->key);
		return pkt->reply ? cubelet_find(&pkt->hdr.tuple) : winner;
	}
	cubelet_delete(cubelet_pending, &s->key);
failed:
	pkt->reason = CUBELET_REASON_FLOW_TABLE;
	return NULL;
}

/* A record whose verdict has been renewed; its translation stands. */
CUBELET_INLINE void cubelet_adopt(struct cubelet_flow *f, const struct cubelet_pkt *pkt)
{
	int routed = pkt->flags & CUBELET_ROUTED;

	/* others may be sending by this record: nothing is written that does not change */
	if (!routed != !(f->flags & CUBELET_FLOW_ROUTED)) {
		f->flags ^= CUBELET_FLOW_ROUTED;
		f->l3_delta = cubelet_rewrite_l3_delta(f);
	}
	f->epoch_src = pkt->epoch_src;
	f->epoch_dst = pkt->epoch_dst;
	f->epoch_backend = pkt->epoch_backend;
	asm volatile("" ::: "memory"); /* last: it is what makes the record current */
	f->epoch_sum = pkt->epoch_sum;
}

/* Cubes that have joined since the flow was opened have judged it: their fields begin. */
CUBELET_INLINE void cubelet_join(struct cubelet_flow *f, const struct cubelet_pkt *pkt)
{
#if CUBELET_AREA_USED
#define CUBELET_JOIN(instance) instance##_join_fields(f->area, pkt->area);
	CUBELET_EACH_FIELDS(CUBELET_JOIN)
#undef CUBELET_JOIN
#endif
}

/* A known flow may go on: both records take today's path and epochs. */
CUBELET_INLINE struct cubelet_flow *cubelet_renew(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_flow *f = cubelet_find(&pkt->orig), *reply, *hand;

	if (!f) { /* evicted meanwhile: nothing to go by */
		pkt->reason = CUBELET_REASON_FLOW_TABLE;
		return NULL;
	}
	f->enters = pkt->in;
	f->leaves = pkt->out;
	cubelet_join(f, pkt);
	cubelet_mirror_store(f, pkt);
	cubelet_adopt(f, pkt);
	cubelet_partner_key(s, f);
	reply = cubelet_find(&s->key);
	if (reply) {
		reply->enters = pkt->out;
		reply->leaves = pkt->in;
		cubelet_join(reply, pkt);
		cubelet_mirror_store(reply, pkt);
		cubelet_adopt(reply, pkt);
	}
	hand = pkt->reply ? reply : f;
	if (!hand) {
		pkt->reason = CUBELET_REASON_FLOW_TABLE;
		return NULL;
	}
	hand->last_seen = bpf_jiffies64();
	hand->packets++;
	hand->bytes += skb->len;
	return hand;
}

/*
 * A mid-stream packet that is not permitted to open a flow may still belong to one that its peer
 * opened and that no record is left of: the core says where the peer lives, then the
 * peer's direction is judged. Only TCP shows that it is mid-stream.
 */
CUBELET_INLINE int cubelet_second_reading(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	const struct cubelet_headers *h = &pkt->hdr;

	if (pkt->mode != CUBELET_NEW || pkt->verdict != CUBELET_DROP ||
	    h->tuple.protocol != IPPROTO_TCP || h->fragment ||
	    h->tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_RST))
		return 0;
	pkt->mode = CUBELET_FIND_ORIGIN;
	pkt->first_reason = pkt->reason;
	pkt->flags = 0;
	cubelet_area_clear(pkt);
	pkt->cur = pkt->orig;
	cubelet_jump(skb, CUBELET_JUMP_SLOW);
	return 1;
}

CUBELET_INLINE void cubelet_judge_as_reply(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	pkt->mode = CUBELET_AS_REPLY;
	pkt->reply = 1;
	pkt->flags = 0;
	cubelet_area_clear(pkt);
	pkt->in = pkt->out;
	pkt->out.remote = 0;
	cubelet_tuple_invert(&pkt->orig, &pkt->hdr.tuple);
	pkt->cur = pkt->orig;
	cubelet_epoch_take(pkt);
	cubelet_jump(skb, CUBELET_JUMP_SLOW);
}

/* Did the reading as a reply end where the packet in hand really came from, untranslated? */
CUBELET_INLINE int cubelet_reading_holds(const struct cubelet_pkt *pkt)
{
	return pkt->out.port_class == pkt->entered && !(pkt->flags & CUBELET_SRC_RANGE) &&
	       (pkt->entered != CUBELET_POD || pkt->out.ifindex == pkt->ifindex) &&
	       cubelet_tuple_equal(&pkt->orig, &pkt->cur);
}

/* The path of the packet in hand. 1 if it passes; 0 if pkt now holds the ICMP error to send. */
CUBELET_INLINE int cubelet_check_path(struct cubelet_pkt *pkt, const struct cubelet_hop *hop)
{
	int routed = pkt->flags & CUBELET_ROUTED;

	if (cubelet_passes(&pkt->hdr, hop, routed))
		return 1;
	if (routed && pkt->hdr.ttl <= 1)
		cubelet_reject(pkt, CUBELET_REASON_TTL, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0);
	else
		cubelet_reject(pkt, CUBELET_REASON_TOO_BIG, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED,
			       hop->mtu);
	return 0;
}

CUBELET_INLINE int cubelet_rejected(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	cubelet_jump(skb, CUBELET_JUMP_ERROR);
	return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
}

/* The frame, as it is now, back out of the device it came from. */
CUBELET_INLINE int cubelet_send_back(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	int result;

	if (pkt->entered == CUBELET_OVERLAY) {
		struct cubelet_hop back = {};

		back.port_class = CUBELET_OVERLAY;
		back.ifindex = pkt->ifindex;
		back.remote = cubelet_tunnel_remote(skb);
		result = cubelet_transmit(skb, &back);
	} else if (pkt->entered == CUBELET_HOST && cubelet_addr_loopback(&pkt->hdr.tuple.dst)) {
		const __u8 macs[2 * ETH_ALEN] = {};

		if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
			return TC_ACT_SHOT;
		result = bpf_redirect(CUBELET_LOOPBACK_IFINDEX, BPF_F_INGRESS);
	} else {
		result = bpf_redirect(pkt->ifindex, 0);
	}
	cubelet_trace_sent(&pkt->in, 2);
	return result;
}

/*
 * Does it go to a pod? Only among pods is what is mid-stream believed, when records were lost:
 * nothing that leaves for outsiders or the host rests on that.
 */
CUBELET_INLINE int cubelet_to_pods(const struct cubelet_pkt *pkt)
{
	return pkt->out.port_class == CUBELET_POD || pkt->out.port_class == CUBELET_OVERLAY;
}

/* What is being opened the other way round makes way. */
CUBELET_INLINE void cubelet_supersede(struct cubelet_scratch *s)
{
	struct cubelet_flow *f = cubelet_find(&s->pkt.orig);

	if (f && f->state == CUBELET_FLOW_PENDING)
		cubelet_forget(s, &s->pkt.orig, f);
}

/* The cubes let the packet through, to pkt->out. *flow is then what sends it. */
CUBELET_INLINE int cubelet_permitted(struct __sk_buff *skb, struct cubelet_scratch *s,
				     struct cubelet_flow **flow)
{
	struct cubelet_pkt *pkt = &s->pkt;

	if (pkt->mode == CUBELET_FIND_ORIGIN) {
		if (!cubelet_to_pods(pkt))
			return cubelet_dropped(skb, pkt, pkt->first_reason);
		cubelet_judge_as_reply(skb, pkt);
		return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
	}
	if (pkt->mode == CUBELET_AS_REPLY && !cubelet_reading_holds(pkt))
		return cubelet_dropped(skb, pkt, pkt->first_reason);
	if (pkt->mode == CUBELET_NEW && cubelet_midstream(&pkt->hdr) && !cubelet_to_pods(pkt)) {
		cubelet_reject(pkt, CUBELET_REASON_NO_FLOW, 0, 0, 0);
		return cubelet_rejected(skb, pkt);
	}
	if (pkt->mode == CUBELET_REJUDGE) {
		*flow = cubelet_renew(skb, s);
	} else {
		if (!cubelet_check_path(pkt, pkt->reply ? &pkt->in : &pkt->out))
			return cubelet_rejected(skb, pkt);
		if (pkt->flags & CUBELET_SUPERSEDES)
			cubelet_supersede(s);
		*flow = cubelet_create(skb, s);
	}
	if (!*flow)
		return cubelet_dropped(skb, pkt, pkt->reason);
	return TC_ACT_OK;
}

/* The connection of the packet in hand, which is judged again, ends. */
CUBELET_INLINE void cubelet_end(struct cubelet_scratch *s)
{
	struct cubelet_flow *f = cubelet_find(&s->pkt.orig);

	if (!f)
		return;
	cubelet_partner_key(s, f);
	cubelet_set_state(f, cubelet_find(&s->key), CUBELET_FLOW_CLOSING, 0, IPPROTO_TCP);
}

/* Acts on every verdict but "forward"; the packet's end. */
CUBELET_INLINE int cubelet_refused(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_flow *f;

	/*
	 * What may not go on keeps its records, and with them its direction: forgotten, its
	 * packets could open a flow the other way round. Never renewed, they end by idleness.
	 */
	if (pkt->mode == CUBELET_REJUDGE && pkt->verdict == CUBELET_RESTART) {
		f = cubelet_find(&pkt->orig);
		if (f)
			cubelet_forget(s, &pkt->orig, f);
		cubelet_delete(cubelet_flows, &pkt->hdr.tuple);
		cubelet_delete(cubelet_pending, &pkt->hdr.tuple);
	}
	/* a connection that is reset ends; its records must not wait for hours */
	if (pkt->mode == CUBELET_REJUDGE && pkt->verdict == CUBELET_REJECT && !pkt->error_type)
		cubelet_end(s);
	switch (pkt->verdict) {
	case CUBELET_STACK:
		if (pkt->entered == CUBELET_UPLINK && !pkt->reply)
			return TC_ACT_UNSPEC;
		pkt->reason = CUBELET_REASON_NO_PATH; /* the first packet was meant */
		break;
	case CUBELET_ANSWER:
		return cubelet_send_back(skb, pkt);
	case CUBELET_PUNT:
		cubelet_trace_sent(&pkt->in, 3);
		return TC_ACT_SHOT;
	case CUBELET_FLOOD:
		cubelet_jump(skb, CUBELET_JUMP_FLOOD);
		return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
	case CUBELET_RESTART:
		if (!pkt->reply) {
			pkt->mode = CUBELET_ARRIVED;
			cubelet_jump(skb, CUBELET_JUMP_SLOW);
		}
		return cubelet_dropped(skb, pkt, pkt->reason);
	case CUBELET_NEXT:
		pkt->reason = CUBELET_REASON_NO_PATH;
		break;
	}
	if (pkt->mode == CUBELET_REJUDGE && cubelet_echo_of_node(pkt))
		return TC_ACT_UNSPEC; /* the pod may not have it, but the node may have asked */
	if (cubelet_second_reading(skb, pkt))
		return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
	if (pkt->mode == CUBELET_FIND_ORIGIN || pkt->mode == CUBELET_AS_REPLY)
		return cubelet_dropped(skb, pkt, pkt->first_reason);
	if (pkt->verdict == CUBELET_REJECT)
		return cubelet_rejected(skb, pkt);
	return cubelet_dropped(skb, pkt, pkt->reason);
}

/*
 * Is a known flow sent on to where no cube that is left at its port would send it? With
 * the last Service that outsiders may ask for goes the code that knew of it. Connections stay.
 */
CUBELET_INLINE int cubelet_untranslated(const struct cubelet_pkt *pkt)
{
	return pkt->mode == CUBELET_REJUDGE && pkt->verdict == CUBELET_FORWARD &&
	       !(CUBELET_TRANSLATING & 1 << pkt->in.port_class) && cubelet_dst_translated(pkt) &&
	       !cubelet_connected(pkt);
}

/*
 * Is a flow that nobody has answered led elsewhere than by what it began with? Another
 * translation may be due there, such as where no route was when it began.
 */
CUBELET_INLINE int cubelet_diverted(const struct cubelet_pkt *pkt)
{
	const struct cubelet_flow *f;

	if (pkt->mode != CUBELET_REJUDGE || pkt->verdict != CUBELET_FORWARD)
		return 0;
	f = cubelet_lookup(cubelet_pending, &pkt->orig);
	return f && !(f->flags & CUBELET_FLOW_REPLIED) &&
	       f->leaves.port_class != pkt->out.port_class;
}

/* After the cubes: the end of every packet that was judged. */
CUBELET_INLINE int cubelet_finish(struct __sk_buff *skb, struct cubelet_scratch *s,
				  struct cubelet_flow **flow)
{
	struct cubelet_pkt *pkt = &s->pkt;

	if (cubelet_untranslated(pkt) || cubelet_diverted(pkt))
		pkt->verdict = cubelet_restart(pkt, CUBELET_REASON_UNTRANSLATED);
	if (pkt->verdict == CUBELET_FORWARD && cubelet_as_tunnel(pkt))
		pkt->verdict = cubelet_drop(pkt, CUBELET_REASON_TUNNEL_PORT);
	if (pkt->verdict != CUBELET_FORWARD)
		return cubelet_refused(skb, s);
	if (pkt->mode == CUBELET_LINK)
		return cubelet_transmit(skb, &pkt->out);
	return cubelet_permitted(skb, s, flow);
}

/* Sends by a flow, `copied` after its copies, unless the packet in hand expires or does not fit. */
CUBELET_INLINE int cubelet_send_fit(struct __sk_buff *skb, struct cubelet_scratch *s,
				    struct cubelet_flow *f, const int copied)
{
	int shared = f->flags & CUBELET_FLOW_TRANSLATED && cubelet_echo_of_node(&s->pkt), sent;

	if (!cubelet_check_path(&s->pkt, &f->leaves))
		return shared ? TC_ACT_UNSPEC : cubelet_rejected(skb, &s->pkt);
	if (shared && cubelet_echo_keep(skb, s))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_HELPER);
	sent = cubelet_send(skb, &s->pkt.hdr, f, copied);
	if (!shared)
		return sent;
	return sent == TC_ACT_REDIRECT ? cubelet_echo_share(skb, s, &f->leaves) : TC_ACT_UNSPEC;
}

/* The same, by the program for it if the flow is mirrored. */
CUBELET_INLINE int cubelet_send_checked(struct __sk_buff *skb, struct cubelet_scratch *s,
					struct cubelet_flow *f)
{
	if (cubelet_is_mirrored(f)) {
		cubelet_jump(skb, CUBELET_JUMP_MIRRORED);
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_JUMP);
	}
	return cubelet_send_fit(skb, s, f, 0);
}
