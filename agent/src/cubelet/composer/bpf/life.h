/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A flow's two records and their one life: pending, replied, closing, forgotten.
 */
#pragma once

#include "fast.h"

CUBELET_INLINE struct cubelet_flow *cubelet_find(const struct cubelet_tuple *key)
{
	struct cubelet_flow *f = cubelet_lookup(cubelet_flows, key);

	return f ? f : cubelet_lookup(cubelet_pending, key);
}

/* The key of a flow's other record goes to s->key. */
CUBELET_INLINE void cubelet_partner_key(struct cubelet_scratch *s, const struct cubelet_flow *f)
{
	cubelet_tuple_invert(&s->key, &f->to);
}

/* Forgets both records of a flow; `key` found `f`. */
CUBELET_INLINE void cubelet_forget(struct cubelet_scratch *s, const struct cubelet_tuple *key,
				   const struct cubelet_flow *f)
{
	cubelet_partner_key(s, f);
	cubelet_delete(cubelet_flows, &s->key);
	cubelet_delete(cubelet_pending, &s->key);
	cubelet_delete(cubelet_flows, key);
	cubelet_delete(cubelet_pending, key);
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

/* Both records of the flow take on its state; s->key finds the partner. */
CUBELET_INLINE void cubelet_set_state(struct cubelet_flow *f, struct cubelet_flow *partner,
				      __u8 state, __u8 flags, __u8 protocol)
{
	f->flags |= flags;
	f->state = state;
	f->timeout = cubelet_flow_timeout(protocol, state);
	if (!partner)
		return;
	partner->flags |= flags;
	partner->state = state;
	partner->timeout = f->timeout;
}

/*
 * Is a FIN or RST believable? Its sequence number must not lie before what its receiver
 * last acknowledged, and a reset's not far after (compare RFC 5961). That number is about
 * a second old while data flows, hence the wide windows. An unbelievable one is still
 * forwarded, it only moves no state.
 */
CUBELET_INLINE int cubelet_tcp_believable(struct __sk_buff *skb, const struct cubelet_headers *h,
					  const struct cubelet_flow *partner)
{
	__be32 sequence;

	if (!partner || !partner->ack)
		return 1;
	if (bpf_skb_load_bytes(skb, h->l4 + 4, &sequence, 4))
		return 0;
	return bpf_ntohl(sequence) - partner->ack + 0x10000 <
	       (h->tcp_flags & CUBELET_TCP_RST ? 0x4000000U : 0x80000000U);
}

/* FIN and RST move the state of both records. */
CUBELET_INLINE void cubelet_track_tcp(struct __sk_buff *skb, const struct cubelet_headers *h,
				      struct cubelet_flow *f, struct cubelet_flow *partner)
{
	__u8 fin =
		f->flags & CUBELET_FLOW_REPLY ? CUBELET_FLOW_FIN_REPLY : CUBELET_FLOW_FIN_FORWARD;
	__u8 both = CUBELET_FLOW_FIN_REPLY | CUBELET_FLOW_FIN_FORWARD;

	if (!(h->tcp_flags & (CUBELET_TCP_FIN | CUBELET_TCP_RST)) || h->fragment == CUBELET_LATER ||
	    !cubelet_tcp_believable(skb, h, partner) || f->state == CUBELET_FLOW_PENDING)
		return;
	if (h->tcp_flags & CUBELET_TCP_RST || ((f->flags | fin) & both) == both)
		cubelet_set_state(f, partner, CUBELET_FLOW_CLOSING, fin, IPPROTO_TCP);
	else
		cubelet_set_state(f, partner, f->state, fin, IPPROTO_TCP);
}

/* May one more flow of this pod enter the table of replied flows? */
CUBELET_INLINE int cubelet_within_quota(const struct cubelet_hop *hop)
{
	struct cubelet_count *held;

	if (hop->port_class != CUBELET_POD)
		return 1;
	held = cubelet_lookup(cubelet_flow_counts, &hop->ifindex);
	return !held || held->count < CUBELET_FLOWS_PER_POD;
}

/* One more has; the agent's sweep counts anew and so gives back what has ended. */
CUBELET_INLINE void cubelet_quota_take(const struct cubelet_hop *hop)
{
	struct cubelet_count one = { .count = 1 }, *held;

	if (hop->port_class != CUBELET_POD)
		return;
	held = cubelet_lookup(cubelet_flow_counts, &hop->ifindex);
	if (held)
		__sync_fetch_and_add(&held->count, 1);
	else
		cubelet_update(cubelet_flow_counts, &hop->ifindex, &one, BPF_NOEXIST);
}

/*
 * A pending flow has been answered: its two records move to the table that nothing
 * evicts from. If that is full, or the pod's share of it is, they stay where they are.
 * s->key finds the partner.
 */
CUBELET_INLINE struct cubelet_flow *cubelet_promote(struct cubelet_scratch *s,
						    struct cubelet_flow *f,
						    const struct cubelet_flow *partner)
{
	struct cubelet_tuple *key = &s->pkt.hdr.tuple;
	struct cubelet_flow *established;

	if (!partner || !cubelet_within_quota(&f->enters) || !cubelet_within_quota(&f->leaves))
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
	cubelet_quota_take(&established->enters);
	if (established->enters.ifindex != established->leaves.ifindex)
		cubelet_quota_take(&established->leaves);
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
	__be32 ack = 0;

	f->last_seen = bpf_jiffies64();
	/* not younger than a second, so that the other direction refreshes itself as well */
	if (partner && f->last_seen - partner->last_seen > CUBELET_HZ)
		partner->last_seen = f->last_seen - CUBELET_HZ;
	if (h->tuple.protocol != IPPROTO_TCP || h->fragment == CUBELET_LATER)
		return;
	if (h->tcp_flags & CUBELET_TCP_ACK && !bpf_skb_load_bytes(skb, h->l4 + 8, &ack, 4))
		f->ack = bpf_ntohl(ack);
}

/*
 * Has a pending flow been answered? UDP by its first reply; TCP by the forward packet
 * after the answer, which must acknowledge it, so that forged first packets never fill the table
 * of replied flows. A reset is no such packet: it is what the owner of a forged address says.
 */
CUBELET_INLINE int cubelet_answered(struct __sk_buff *skb, const struct cubelet_headers *h,
				    struct cubelet_flow *f, struct cubelet_flow *partner)
{
	__be32 sequence;

	if (f->state != CUBELET_FLOW_PENDING)
		return 0;
	if (f->flags & CUBELET_FLOW_REPLY) {
		f->flags |= CUBELET_FLOW_REPLIED;
		if (partner)
			partner->flags |= CUBELET_FLOW_REPLIED;
		if (h->tuple.protocol != IPPROTO_TCP)
			return 1;
		if (partner && h->tcp_flags & CUBELET_TCP_SYN &&
		    !bpf_skb_load_bytes(skb, h->l4 + 4, &sequence, 4))
			f->proof = bpf_ntohl(sequence) + 1;
		return 0;
	}
	return f->flags & CUBELET_FLOW_REPLIED &&
	       !(h->tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_RST)) &&
	       (!partner || !partner->proof || f->ack == partner->proof);
}
