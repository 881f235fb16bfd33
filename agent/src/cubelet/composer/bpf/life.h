/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A flow's two records and their one life: pending, replied, closing, forgotten.
 */
#pragma once

#include "closing.h"

CUBELET_INLINE struct cubelet_flow *cubelet_find(const struct cubelet_tuple *key)
{
	struct cubelet_flow *f = cubelet_lookup(cubelet_flows, key);

	return f ? f : cubelet_lookup(cubelet_pending, key);
}

/* Has its far end answered, and nobody closed it? Over its owner's share it is pending still. */
CUBELET_INLINE int cubelet_lives(const struct cubelet_flow *f)
{
	return f->state == CUBELET_FLOW_ESTABLISHED ||
	       (f->state == CUBELET_FLOW_PENDING && f->flags & CUBELET_FLOW_REPLIED);
}

/* The key of a flow's other record goes to s->key. */
CUBELET_INLINE void cubelet_partner_key(struct cubelet_scratch *s, const struct cubelet_flow *f)
{
	cubelet_tuple_invert(&s->key, &f->to);
}

/* Forgets both records of a flow, and that they were somebody's; `key` found `f`. */
CUBELET_INLINE void cubelet_forget(struct cubelet_scratch *s, const struct cubelet_tuple *key,
				   const struct cubelet_flow *f)
{
	if (f->state == CUBELET_FLOW_ESTABLISHED)
		cubelet_charge(key, f, -1);
	cubelet_partner_key(s, f);
	cubelet_delete_flow(key, &s->key, f, 1);
}

/* A flow's other record, made from this one: `key` finds `f`. Counters start at zero. */
CUBELET_INLINE void cubelet_invert_flow(struct cubelet_flow *other, const struct cubelet_tuple *key,
					const struct cubelet_flow *f)
{
	__builtin_memset(other, 0, sizeof(*other));
	other->enters = f->leaves;
	other->leaves = f->enters;
	cubelet_tuple_invert(&other->to, key);
	other->last_seen = f->last_seen;
	other->epoch_sum = f->epoch_sum;
	other->epoch_src = f->epoch_src;
	other->epoch_dst = f->epoch_dst;
	other->epoch_backend = f->epoch_backend;
	other->timeout = f->timeout;
	other->state = f->state;
	other->flags = f->flags ^ CUBELET_FLOW_REPLY;
#if CUBELET_AREA_USED /* what judging wrote is in both; what else, nobody can give back */
	__builtin_memcpy(other->area, f->area, CUBELET_AREA_USED);
#endif
	cubelet_rewrite_invert(other, f);
}

/*
 * A pending flow has been answered: its two records move to the table that nothing
 * evicts from. If its owner's share of that is full, they stay where they are. s->key
 * finds the partner.
 */
CUBELET_INLINE struct cubelet_flow *cubelet_promote(struct cubelet_scratch *s,
						    struct cubelet_flow *f,
						    const struct cubelet_flow *partner)
{
	struct cubelet_tuple *key = &s->pkt.hdr.tuple;
	struct cubelet_flow *established;

	if (!partner ||
	    !cubelet_share_left(f->flags & CUBELET_FLOW_REPLY ? &f->leaves : &f->enters))
		return f;
	s->forward = *f;
	s->forward.state = CUBELET_FLOW_ESTABLISHED;
	s->forward.timeout = cubelet_flow_timeout(key->protocol, CUBELET_FLOW_ESTABLISHED);
	s->reply = *partner;
	s->reply.state = CUBELET_FLOW_ESTABLISHED;
	s->reply.timeout = s->forward.timeout;
	if (cubelet_update(cubelet_flows, &s->key, &s->reply, BPF_NOEXIST))
		return f;
	if (cubelet_update(cubelet_flows, key, &s->forward, BPF_NOEXIST)) {
		cubelet_delete(cubelet_flows, &s->key);
		return f;
	}
	established = cubelet_lookup(cubelet_flows, key);
	if (!established)
		return f;
	cubelet_delete(cubelet_pending, &s->key);
	cubelet_delete(cubelet_pending, key);
	cubelet_charge(key, established, 1);
	return established;
}

/* The flow's other record, made anew if it was evicted; s->key then finds it. */
CUBELET_INLINE struct cubelet_flow *cubelet_partner(struct cubelet_scratch *s,
						    const struct cubelet_flow *f)
{
	struct cubelet_flow *partner;

	cubelet_partner_key(s, f);
	partner = cubelet_find(&s->key);
	if (partner)
		return partner;
	cubelet_invert_flow(&s->reply, &s->pkt.hdr.tuple, f);
	if (f->state == CUBELET_FLOW_PENDING)
		cubelet_update(cubelet_pending, &s->key, &s->reply, BPF_NOEXIST);
	else
		cubelet_update(cubelet_flows, &s->key, &s->reply, BPF_NOEXIST);
	return cubelet_find(&s->key);
}

/* About once a second, and for every packet of a pending flow: both records are marked as seen. */
CUBELET_INLINE void cubelet_refresh(struct __sk_buff *skb, const struct cubelet_headers *h,
				    struct cubelet_flow *f, struct cubelet_flow *partner)
{
	f->last_seen = bpf_jiffies64();
	/* not younger than a second, so that the other direction refreshes itself as well */
	if (partner && f->last_seen - partner->last_seen > CUBELET_HZ)
		partner->last_seen = f->last_seen - CUBELET_HZ;
	/* whether a FIN or RST is believed is asked of what was noted before it */
	if (h->tuple.protocol == IPPROTO_TCP && h->fragment != CUBELET_LATER &&
	    !(h->tcp_flags & (CUBELET_TCP_FIN | CUBELET_TCP_RST)))
		cubelet_tcp_note(skb, h, f, partner);
}

/*
 * Has a pending flow been answered? TCP by the forward packet after the answer, which must
 * acknowledge it, so that forged first packets never fill the table of replied flows. A reset
 * is neither an answer nor such a packet. All else by the first packet after the answer: a
 * question and its answer alone, as of DNS, end with the pending table's short timeout.
 */
CUBELET_INLINE int cubelet_answered(struct __sk_buff *skb, const struct cubelet_headers *h,
				    struct cubelet_flow *f, struct cubelet_flow *partner)
{
	int replied = f->flags & CUBELET_FLOW_REPLIED;
	__be32 sequence;

	if (f->state != CUBELET_FLOW_PENDING || h->tcp_flags & CUBELET_TCP_RST)
		return 0;
	if (f->flags & CUBELET_FLOW_REPLY) {
		f->flags |= CUBELET_FLOW_REPLIED;
		if (partner)
			partner->flags |= CUBELET_FLOW_REPLIED;
		if (h->tuple.protocol == IPPROTO_TCP && partner && h->tcp_flags & CUBELET_TCP_SYN &&
		    !bpf_skb_load_bytes(skb, h->l4 + 4, &sequence, 4))
			f->proof = bpf_ntohl(sequence) + 1;
	}
	if (h->tuple.protocol != IPPROTO_TCP)
		return replied;
	return replied && !(f->flags & CUBELET_FLOW_REPLY) && !(h->tcp_flags & CUBELET_TCP_SYN) &&
	       (!partner || !partner->proof || f->ack == partner->proof);
}
