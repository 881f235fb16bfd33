/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection tracking, the part before the cubes: finds the packet's flow if it
 * has one, keeps its state, and says whether the cubes must judge.
 */
#pragma once

#include "cubelet/socket.h"
#include "anyaddr.h"
#include "entry.h"
#include "fragment.h"
#include "life.h"

enum cubelet_tracked {
	CUBELET_TRACKED_SEND, /* *flow says how */
	CUBELET_TRACKED_JUDGE, /* pkt->mode says what for */
	CUBELET_TRACKED_DROP, /* pkt->reason says why */
	CUBELET_TRACKED_REJECT, /* pkt->reason says why: with a reset */
	CUBELET_TRACKED_PASS, /* not ours: untouched */
};

CUBELET_INLINE int cubelet_track_drop(struct cubelet_pkt *pkt, __u16 reason)
{
	pkt->reason = reason;
	return CUBELET_TRACKED_DROP;
}

/* Were records lost just now? The agent says so, for some seconds, when it made the tables anew. */
CUBELET_INLINE int cubelet_recovering(void)
{
	__u32 until = *(volatile __u32 *)cubelet_recovery_value;

	return until && (__s32)(until - (__u32)bpf_jiffies64()) > 0;
}

/* Is it TCP, and no SYN that opens a connection? */
CUBELET_INLINE int cubelet_midstream(const struct cubelet_headers *h)
{
	const __u8 first = CUBELET_TCP_SYN | CUBELET_TCP_ACK | CUBELET_TCP_RST | CUBELET_TCP_FIN;

	return h->tuple.protocol == IPPROTO_TCP && h->fragment != CUBELET_LATER &&
	       (h->tcp_flags & first) != CUBELET_TCP_SYN;
}

/*
 * May a packet that no record knows open a flow? Of TCP a SYN may, and what is mid-stream only
 * where records were lost, or for a connection of the host's own. Read as its peer's reply, it
 * would else pass by every policy.
 */
CUBELET_INLINE int cubelet_may_open(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	const struct cubelet_headers *h = &pkt->hdr;
	struct cubelet_tuple inward;

	if (h->fragment == CUBELET_LATER) /* of TCP: it does not say whether it followed a SYN */
		return h->tuple.protocol != IPPROTO_TCP;
	if (!cubelet_midstream(h))
		return 1;
	if (h->tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_RST))
		return 0;
	if (cubelet_recovering())
		return 1;
	cubelet_tuple_invert(&inward, &h->tuple);
	return pkt->entered == CUBELET_HOST && cubelet_node_connected(skb, &inward);
}

/*
 * It may not. What is addressed to the node itself is left to its stack, which has a socket for
 * it or refuses it. Else a segment of a connection that is gone is refused, so that its sender
 * does not wait; an answer or a reset reaches nobody: the next forward packet restores what it
 * answers.
 */
CUBELET_INLINE int cubelet_track_unknown(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	if (pkt->entered == CUBELET_UPLINK && cubelet_is_own(&pkt->hdr.tuple.dst))
		return CUBELET_TRACKED_PASS;
	if (pkt->hdr.tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_RST) ||
	    pkt->hdr.fragment == CUBELET_LATER)
		return cubelet_track_drop(pkt, CUBELET_REASON_NO_FLOW);
	cubelet_reject(pkt, CUBELET_REASON_NO_FLOW, 0, 0, 0);
	return CUBELET_TRACKED_REJECT;
}

/* No flow knows the packet: if it may open one, the cubes judge it as its first. */
CUBELET_INLINE int cubelet_track_new(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	__u16 reason;

	cubelet_track_entry(skb, pkt);
	reason = cubelet_track_source(pkt);
	if (reason)
		return cubelet_track_drop(pkt, reason);
	if (!cubelet_may_open(skb, pkt))
		return cubelet_track_unknown(skb, pkt);
	pkt->mode = CUBELET_NEW;
	pkt->reply = 0;
	pkt->orig = pkt->hdr.tuple;
	pkt->cur = pkt->hdr.tuple;
	cubelet_epoch_take(pkt);
	return CUBELET_TRACKED_JUDGE;
}

/*
 * A flow's verdict is out of date: judge its permission and path in its own direction, and
 * where its replies leave.
 */
CUBELET_INLINE int cubelet_track_rejudge(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					 const struct cubelet_flow *f)
{
	struct cubelet_tuple to;

	pkt->mode = CUBELET_REJUDGE;
	pkt->reply = f->flags & CUBELET_FLOW_REPLY;
	if (pkt->reply) {
		cubelet_tuple_invert(&pkt->orig, &f->to);
		cubelet_tuple_invert(&to, &pkt->hdr.tuple);
		pkt->in = f->leaves;
	} else {
		pkt->orig = pkt->hdr.tuple;
		to = f->to;
		pkt->in = f->enters;
	}
	if (!pkt->reply && pkt->in.port_class == CUBELET_UPLINK)
		pkt->in.ifindex = pkt->ifindex; /* it may come by another NIC now */
	cubelet_way_back(skb, &pkt->in, &pkt->orig.src);
	pkt->cur = pkt->orig;
	pkt->cur.dst = to.dst;
	pkt->cur.dport = to.dport;
	cubelet_epoch_take(pkt);
	pkt->reason = cubelet_foreign_source(&pkt->in, &pkt->orig.src);
	return pkt->reason ? CUBELET_TRACKED_DROP : CUBELET_TRACKED_JUDGE;
}

/*
 * While one of a flow's records was evicted, its key may have gone to another flow. What
 * is left is of no use then: forward packets open a flow with another source port.
 */
CUBELET_INLINE int cubelet_track_orphan(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					const struct cubelet_flow *f)
{
	int reply = f->flags & CUBELET_FLOW_REPLY;

	cubelet_delete(cubelet_flows, &pkt->hdr.tuple);
	cubelet_delete(cubelet_pending, &pkt->hdr.tuple);
	if (reply)
		return cubelet_track_drop(pkt, CUBELET_REASON_FLOW_TABLE);
	return cubelet_track_new(skb, pkt);
}

/*
 * Is the pod gone that opened the flow of this reply, and its port with it? Its address may
 * be another pod's by now. Where the flow leads to is judged; where it came from is not.
 */
CUBELET_INLINE int cubelet_client_gone(const struct cubelet_flow *reply)
{
	struct cubelet_port_info *port;

	if (!(reply->flags & CUBELET_FLOW_REPLY) || reply->leaves.port_class != CUBELET_POD)
		return 0;
	port = cubelet_lookup(cubelet_ports, &reply->leaves.ifindex);
	return !port || !cubelet_addr_equal(&port->address, &reply->to.dst);
}

/*
 * What its peer goes on sending keeps a dead pod's flow alive no longer: TCP is told that the
 * connection is over, all else is judged as what it is to a pod that has the address now.
 */
CUBELET_INLINE int cubelet_track_widowed(struct __sk_buff *skb, struct cubelet_scratch *s,
					 const struct cubelet_flow *f)
{
	struct cubelet_pkt *pkt = &s->pkt;

	cubelet_forget(s, &pkt->hdr.tuple, f);
	if (pkt->hdr.tuple.protocol != IPPROTO_TCP)
		return cubelet_track_new(skb, pkt);
	cubelet_reject(pkt, CUBELET_REASON_CLIENT_GONE, 0, 0, 0);
	return CUBELET_TRACKED_REJECT;
}

CUBELET_INLINE int cubelet_track_known(struct __sk_buff *skb, struct cubelet_scratch *s,
				       struct cubelet_flow **flow)
{
	struct cubelet_flow *f = *flow, *partner;
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_headers *h = &pkt->hdr;
	int current = cubelet_flow_current(f);
	int opens = (h->tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_ACK)) == CUBELET_TCP_SYN;

	if (!cubelet_enters(skb, f, pkt->entered) && !cubelet_fragment_again(skb, f, pkt)) {
		int tracked;

		if (current)
			return cubelet_track_drop(pkt, CUBELET_REASON_WRONG_PORT);
		tracked = cubelet_track_new(skb, pkt);
		if (tracked == CUBELET_TRACKED_JUDGE)
			cubelet_forget(s, &h->tuple, f); /* such as a pod that has been replaced */
		return tracked;
	}
	/*
	 * A SYN begins anew what has ended. On what lives it is passed on: its receiver knows what
	 * to make of it (RFC 5961 4). But never as a reply, which no policy would have judged: by
	 * itself it may take the place of a connection that has not been answered.
	 */
	if (opens && f->state == CUBELET_FLOW_CLOSING) {
		cubelet_forget(s, &h->tuple, f);
		return cubelet_track_new(skb, pkt);
	}
	if (opens && f->flags & CUBELET_FLOW_REPLY) {
		if (cubelet_lives(f))
			return cubelet_track_drop(pkt, CUBELET_REASON_LIVE_FLOW);
		pkt->flags |= CUBELET_SUPERSEDES;
		return cubelet_track_new(skb, pkt);
	}
	if (!current && cubelet_client_gone(f))
		return cubelet_track_widowed(skb, s, f);
	partner = cubelet_partner(s, f);
	if (partner) {
		cubelet_tuple_invert(&s->quoted.tuple, &h->tuple);
		if (!cubelet_tuple_equal(&partner->to, &s->quoted.tuple))
			return cubelet_track_orphan(skb, pkt, f);
	}
	cubelet_refresh(skb, h, f, partner);
	cubelet_track_tcp(skb, h, f, partner);
	if (!current) {
		cubelet_area_load(pkt, f->flags & CUBELET_FLOW_REPLY && partner ? partner : f);
		cubelet_mirror_anew(pkt);
		return cubelet_track_rejudge(skb, pkt, f);
	}
	if (cubelet_answered(skb, h, f, partner))
		f = cubelet_promote(s, f, partner);
	f->packets++;
	f->bytes += skb->len;
	pkt->flags = f->flags & CUBELET_FLOW_ROUTED ? CUBELET_ROUTED : 0;
	*flow = f;
	return CUBELET_TRACKED_SEND;
}

/*
 * A first fragment says by its port that the datagram is for the node's own stack: it passes,
 * and its followers with it. A later one that does not know its ports yet is for another
 * program to keep. All others go on to their flow.
 */
CUBELET_INLINE int cubelet_track_fragment(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	const struct cubelet_addr pods = CUBELET_POD_NETWORK;
	struct cubelet_headers *h = &pkt->hdr;
	int followed;

	if (h->fragment == CUBELET_FIRST) {
		if (pkt->entered != CUBELET_UPLINK || h->icmp_error || cubelet_our_number(h) ||
		    !cubelet_is_own(&h->tuple.dst))
			return CUBELET_TRACKED_JUDGE;
		if (!cubelet_addr_within(&h->tuple.src, &pods, CUBELET_POD_PREFIX))
			cubelet_fragment_remember(h, 1, cubelet_keeper(pkt));
		return CUBELET_TRACKED_PASS;
	}
	followed = cubelet_fragment_follow(skb, h, 1);
	if (followed == CUBELET_AHEAD) {
		cubelet_jump(skb, CUBELET_JUMP_FRAGMENT);
		if (pkt->entered == CUBELET_UPLINK)
			return CUBELET_TRACKED_PASS;
		return cubelet_track_drop(pkt, CUBELET_REASON_JUMP);
	}
	return followed == CUBELET_NOT_OURS && pkt->entered == CUBELET_UPLINK
		       ? CUBELET_TRACKED_PASS
		       : CUBELET_TRACKED_JUDGE;
}

CUBELET_INLINE int cubelet_track(struct __sk_buff *skb, struct cubelet_scratch *s,
				 struct cubelet_flow **flow)
{
	struct cubelet_pkt *pkt = &s->pkt;
	int tracked;

	pkt->flags = 0;
	pkt->reason = 0;
	pkt->out.port_class = 0;
	pkt->out.remote = 0;
	cubelet_area_clear(pkt);
	if (!pkt->hdr.ip) {
		if (pkt->entered != CUBELET_POD && pkt->entered != CUBELET_HOST)
			return cubelet_track_drop(pkt, CUBELET_REASON_UNSUPPORTED);
		pkt->mode = CUBELET_LINK;
		cubelet_track_entry(skb, pkt);
		return CUBELET_TRACKED_JUDGE;
	}
	pkt->reason = cubelet_options_refused(skb, pkt);
	if (pkt->reason)
		return CUBELET_TRACKED_DROP;
	if (pkt->hdr.fragment) {
		tracked = cubelet_track_fragment(skb, pkt);
		if (tracked != CUBELET_TRACKED_JUDGE)
			return tracked;
	}
	if (pkt->hdr.icmp_error) {
		cubelet_jump(skb, CUBELET_JUMP_RELATED);
		return cubelet_track_drop(pkt, CUBELET_REASON_JUMP);
	}
	*flow = pkt->missed ? cubelet_lookup(cubelet_pending, &pkt->hdr.tuple)
			    : cubelet_find(&pkt->hdr.tuple);
	if (!*flow)
		*flow = cubelet_anyaddr(skb, s);
	tracked = *flow ? cubelet_track_known(skb, s, flow) : cubelet_track_new(skb, pkt);
	if (pkt->hdr.fragment == CUBELET_FIRST && tracked != CUBELET_TRACKED_DROP &&
	    tracked != CUBELET_TRACKED_REJECT)
		cubelet_fragment_remember(&pkt->hdr, tracked == CUBELET_TRACKED_PASS,
					  cubelet_keeper(pkt));
	return tracked;
}
