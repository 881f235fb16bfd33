/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * flowlog: tells of flows as they open, of packets that are let out by nobody,
 * and of what flows have carried.
 *
 * It stands next to the port: the first to see what enters, the last to see
 * what leaves. So what it sees on the way out has been allowed, and what it
 * saw on the way in and never on the way out has not. A packet is judged on
 * one CPU from begin to end, hence one mark for each: it is set on the way in
 * and cleared on the way out, and who finds it set tells of the packet before.
 *
 * flowlog_marks: a mark for each CPU, 3 -> 10.1.0.2:4000 to 10.1.0.3:80, from a pod.
 * What an event tells (FLOWLOG_OPENED, ...) and how is in records.py.
 */
#include "cubelet.h"

/* The same answer for a tuple on every node. Without sampling no hash is made. */
CUBELET_INLINE int flowlog_chosen(const struct cubelet_tuple *tuple)
{
	return cubelet_tuple_hash(tuple) % FLOWLOG_SAMPLE == 0;
}

/* NULL on a CPU beyond those that there are marks for: what is denied there is not told. */
CUBELET_INLINE struct flowlog_mark *flowlog_mark_here(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return FLOWLOG_MARKS ? cubelet_lookup(flowlog_marks, &cpu) : NULL;
}

CUBELET_INLINE void flowlog_tell_denied(const struct flowlog_mark *mark)
{
	struct flowlog_event event = {};

	event.time = mark->time;
	event.arrived = mark->arrived;
	event.left = mark->arrived;
	event.enters = mark->enters;
	event.leaves = mark->enters;
	event.what = FLOWLOG_DENIED;
	flowlog_emit(&event);
}

/* Class D and above, ff00::/8: it may be flooded, and that is none of our business. */
CUBELET_INLINE int flowlog_multicast(const struct cubelet_addr *address)
{
	return *(const __u8 *)address->w >= (CUBELET_FAMILY == 4 ? 224 : 255);
}

/*
 * Would it be denied if it did not come out? Not what is flooded, and what the
 * uplink brings to the ports of translation, which the node's stack may take.
 */
CUBELET_INLINE int flowlog_watched(const struct cubelet_pkt *pkt)
{
	__u16 port = bpf_ntohs(pkt->orig.dport);

	if (flowlog_multicast(&pkt->orig.dst))
		return 0;
	return pkt->in.port_class != CUBELET_UPLINK || port < CUBELET_SNAT_FIRST ||
	       port > CUBELET_SNAT_LAST;
}

/* A flow whose backend is gone is judged afresh at once, with the same packet. */
CUBELET_INLINE int flowlog_restarted(const struct flowlog_mark *mark, const struct cubelet_pkt *pkt)
{
	return mark->mode == CUBELET_REJUDGE && pkt->mode == CUBELET_NEW &&
	       cubelet_tuple_equal(&mark->arrived, &pkt->orig);
}

static __always_inline int flowlog_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct flowlog_mark *mark = flowlog_mark_here();

	/* the second reading of a packet that opened nothing: its mark is set */
	if (!mark || pkt->mode == CUBELET_AS_REPLY)
		return cubelet_next(pkt);
	if (mark->time && !flowlog_restarted(mark, pkt))
		flowlog_tell_denied(mark);
	mark->time = 0;
	if (!flowlog_watched(pkt) || !flowlog_chosen(&pkt->orig))
		return cubelet_next(pkt);
	mark->arrived = pkt->orig;
	mark->enters = pkt->in.port_class;
	mark->mode = pkt->mode;
	mark->time = bpf_ktime_get_ns();
	return cubelet_next(pkt);
}

/* A question begins behind the 12 bytes of the header (RFC 1035 4.1.1). */
CUBELET_INLINE void flowlog_read_question(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
					  struct flowlog_event *event)
{
	if (FLOWLOG_NAMES && pkt->hdr.tuple.protocol == IPPROTO_UDP &&
	    pkt->hdr.tuple.dport == bpf_htons(53))
		cubelet_payload(skb, &pkt->hdr, 12, event->asked, sizeof(event->asked));
}

CUBELET_INLINE void flowlog_tell_opened(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
					__u64 time)
{
	struct flowlog_event event = {};

	event.time = time ? time : bpf_ktime_get_ns();
	event.arrived = pkt->orig;
	event.left = pkt->cur;
	event.enters = pkt->in.port_class;
	event.leaves = pkt->out.port_class;
	event.what = FLOWLOG_OPENED;
	if (pkt->flags & CUBELET_SRC_RANGE)
		event.how = FLOWLOG_PORT_UNKNOWN;
	flowlog_read_question(skb, pkt, &event);
	flowlog_emit(&event);
}

static __always_inline int flowlog_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct flowlog_mark *mark = flowlog_mark_here();
	__u64 time = 0;

	if (mark) {
		time = mark->time;
		mark->time = 0;
	}
	/* what is sent on is what the next node receives: both hash the same */
	if (!flowlog_chosen(&pkt->cur))
		return cubelet_next(pkt);
	if (FLOWLOG_INTERVAL ||
	    FLOWLOG_ENDS) { /* kept of a flow that is new, or older than this cube */
		struct flowlog_flow_fields *fields = flowlog_new_fields(pkt);

		fields->told = bpf_jiffies64();
		fields->counting = 1;
	}
	if (cubelet_rejudging(pkt))
		return cubelet_next(pkt);
	flowlog_tell_opened(skb, pkt, time);
	return cubelet_next(pkt);
}

CUBELET_INLINE void flowlog_tell_counts(const struct cubelet_headers *h,
					const struct cubelet_flow *flow)
{
	struct flowlog_event event = {};

	event.time = bpf_ktime_get_ns();
	event.packets = flow->packets;
	event.bytes = flow->bytes;
	event.arrived = h->tuple;
	event.left = flow->to;
	event.enters = flow->enters.port_class;
	event.leaves = flow->leaves.port_class;
	event.what = FLOWLOG_COUNTED;
	event.how = flow->flags & CUBELET_FLOW_REPLY ? FLOWLOG_REPLY : 0;
	flowlog_emit(&event);
}

static __always_inline __u16 flowlog_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					    struct cubelet_flow *flow)
{
	struct flowlog_flow_fields *fields;
	__u32 now;

	if (!FLOWLOG_INTERVAL) /* then nothing is left of it */
		return 0;
	now = bpf_jiffies64();
	fields = flowlog_fields(flow);
	if (!fields->counting || now - fields->told < FLOWLOG_INTERVAL * CUBELET_HZ)
		return 0;
	fields->told = now;
	flowlog_tell_counts(h, flow);
	return 0;
}
