/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP connections that end: which FIN and RST are believed (RFC 5961), what they
 * give back at once, and what shows that they were not meant.
 */
#pragma once

#include "ended.h"
#include "share.h"

/*
 * Can the sender of the record's packets be at this sequence number? From what the other
 * side has acknowledged to what may have been sent since a number was last noted, which is
 * as many bytes as have passed: on a connection at rest a few thousand of four billion.
 */
CUBELET_INLINE int cubelet_tcp_plausible(__u32 sequence, const struct cubelet_flow *f,
					 const struct cubelet_flow *partner)
{
	__u32 passed = (__u32)f->bytes - f->seq_at;
	__u32 seq = f->seq ? f->seq : partner->ack;
	__u32 from = partner->ack ? partner->ack : seq;

	/* what is noted of either side may be older than the other's */
	if ((__s32)(seq - from) < 0)
		return sequence - seq <= from - seq + passed;
	return sequence - from <= seq - from + passed;
}

/*
 * Is a FIN or RST believable? An unbelievable one is still forwarded, for its receiver knows
 * the exact number; it only moves no state.
 */
CUBELET_INLINE int cubelet_tcp_believable(struct __sk_buff *skb, const struct cubelet_headers *h,
					  const struct cubelet_flow *f,
					  const struct cubelet_flow *partner)
{
	__be32 sequence;

	if (!partner || !(partner->ack || f->seq) ||
	    bpf_skb_load_bytes(skb, h->l4 + 4, &sequence, 4))
		return 0;
	return cubelet_tcp_plausible(bpf_ntohl(sequence), f, partner);
}

/*
 * Notes where the sender of a segment is, and what it has acknowledged. Nothing implausible,
 * or a forger could first move the numbers and then end the connection; unless so much has
 * passed since that it says nothing.
 */
CUBELET_INLINE void cubelet_tcp_note(struct __sk_buff *skb, const struct cubelet_headers *h,
				     struct cubelet_flow *f, const struct cubelet_flow *partner)
{
	struct {
		__be32 seq;
		__be32 ack;
	} raw;
	__u32 seq, ack, passed = (__u32)f->bytes - f->seq_at;

	if (bpf_skb_load_bytes(skb, h->l4 + 4, &raw, sizeof(raw)))
		return;
	seq = bpf_ntohl(raw.seq);
	ack = bpf_ntohl(raw.ack);
	if (!partner || !partner->ack || !f->seq || passed >> 31 ||
	    cubelet_tcp_plausible(seq, f, partner)) {
		f->seq = seq;
		f->seq_at = f->bytes;
	}
	if (!(h->tcp_flags & CUBELET_TCP_ACK))
		return;
	if (!f->ack || !partner || passed >> 31 || cubelet_tcp_plausible(ack, partner, f))
		f->ack = ack;
}

/* Both records of the flow take on its state. */
CUBELET_INLINE void cubelet_set_state(struct cubelet_flow *f, struct cubelet_flow *partner,
				      __u8 state, __u16 flags, __u8 protocol)
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
 * Closing records linger for what is still under way. They are few: each that begins to
 * close pushes the one out that has done so for the longest, so none waits for a sweep.
 */
CUBELET_INLINE void cubelet_closing_linger(const struct cubelet_tuple *key)
{
	struct cubelet_tuple *oldest, other;
	struct cubelet_flow *f;
	struct cubelet_count *head;
	__u32 slot = 0;

	head = cubelet_lookup(cubelet_closing_heads, &slot);
	if (!head)
		return;
	slot = head->count++ % CUBELET_CLOSING_EACH * CUBELET_CPUS + bpf_get_smp_processor_id();
	oldest = cubelet_lookup(cubelet_closing, &slot);
	if (!oldest)
		return;
	f = cubelet_lookup(cubelet_flows, oldest);
	if (f && f->state == CUBELET_FLOW_CLOSING) {
		cubelet_tuple_invert(&other, &f->to);
		cubelet_delete_flow(oldest, &other, f, 0);
	}
	*oldest = *key;
}

/* Is there anything behind the TCP header? */
CUBELET_INLINE int cubelet_tcp_carries(struct __sk_buff *skb, const struct cubelet_headers *h)
{
	__u8 offset;

	if (bpf_skb_load_bytes(skb, h->l4 + 12, &offset, 1))
		return 0;
	return h->size > h->l4 - ETH_HLEN + (offset >> 4) * 4;
}

/* Data of both sides since: whoever said that the connection ends was neither of them. */
CUBELET_INLINE void cubelet_closing_undo(struct __sk_buff *skb, const struct cubelet_headers *h,
					 struct cubelet_flow *f, struct cubelet_flow *partner)
{
	const __u16 both = CUBELET_FLOW_ALIVE_FORWARD | CUBELET_FLOW_ALIVE_REPLY;
	const __u16 ended = both | CUBELET_FLOW_FIN_FORWARD | CUBELET_FLOW_FIN_REPLY;

	if (!partner || !cubelet_tcp_carries(skb, h))
		return;
	f->flags |= f->flags & CUBELET_FLOW_REPLY ? CUBELET_FLOW_ALIVE_REPLY
						  : CUBELET_FLOW_ALIVE_FORWARD;
	partner->flags |= f->flags & both;
	if ((f->flags & both) != both)
		return;
	f->flags &= ~ended;
	partner->flags &= ~ended;
	cubelet_set_state(f, partner, CUBELET_FLOW_ESTABLISHED, 0, IPPROTO_TCP);
	cubelet_charge(&h->tuple, f, 1);
}

/* FIN and RST move the state of both records, and data may move it back. */
CUBELET_INLINE void cubelet_track_tcp(struct __sk_buff *skb, const struct cubelet_headers *h,
				      struct cubelet_flow *f, struct cubelet_flow *partner)
{
	__u16 fin =
		f->flags & CUBELET_FLOW_REPLY ? CUBELET_FLOW_FIN_REPLY : CUBELET_FLOW_FIN_FORWARD;
	const __u16 both = CUBELET_FLOW_FIN_REPLY | CUBELET_FLOW_FIN_FORWARD;
	int ends = h->tcp_flags & (CUBELET_TCP_FIN | CUBELET_TCP_RST);

	if (h->tuple.protocol != IPPROTO_TCP || h->fragment == CUBELET_LATER)
		return;
	if (!ends && f->state == CUBELET_FLOW_CLOSING)
		cubelet_closing_undo(skb, h, f, partner);
	if (!ends || f->state != CUBELET_FLOW_ESTABLISHED ||
	    !cubelet_tcp_believable(skb, h, f, partner))
		return;
	if (!(h->tcp_flags & CUBELET_TCP_RST) && ((f->flags | fin) & both) != both) {
		cubelet_set_state(f, partner, f->state, fin, IPPROTO_TCP);
		return;
	}
	cubelet_set_state(f, partner, CUBELET_FLOW_CLOSING, fin, IPPROTO_TCP);
	cubelet_charge(&h->tuple, f, -1);
	cubelet_closing_linger(&h->tuple);
}
