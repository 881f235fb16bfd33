/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection tracking, the part before the cubes: finds the packet's flow if it
 * has one, keeps its state, and says whether the cubes must judge.
 */
#pragma once

#include "fast.h"

enum cubelet_tracked {
	CUBELET_TRACKED_SEND, /* *flow says how */
	CUBELET_TRACKED_JUDGE, /* pkt->mode says what for */
	CUBELET_TRACKED_DROP, /* pkt->reason says why */
	CUBELET_TRACKED_PASS, /* not ours: untouched */
};

CUBELET_INLINE int cubelet_track_drop(struct cubelet_pkt *pkt, __u16 reason)
{
	pkt->reason = reason;
	return CUBELET_TRACKED_DROP;
}

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

/* The far end of the tunnel that an overlay packet came through, or 0. */
CUBELET_INLINE __be32 cubelet_tunnel_remote(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, 8, 0))
		return 0;
	return bpf_htonl(key.remote_ipv4);
}

/* The next hop towards an address that packets from the uplink came from, or 0. */
CUBELET_INLINE __be32 cubelet_uplink_next_hop(struct __sk_buff *skb, struct cubelet_addr *to)
{
	struct bpf_fib_lookup fib = {};
	long found;

	fib.family = 2; /* AF_INET */
	fib.ifindex = CUBELET_UPLINK_IFINDEX;
	fib.ipv4_dst = to->w[0];
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	return fib.ipv4_dst;
}

/* Where the packet in hand entered, and what a reply needs to go back there. */
CUBELET_INLINE void cubelet_track_entry(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct cubelet_hop *in = &pkt->in;
	void *data = (void *)(long)skb->data;
	struct ethhdr *eth = data;

	__builtin_memset(in, 0, sizeof(*in));
	in->port_class = pkt->entered;
	in->ifindex = pkt->ifindex;
	in->mtu = CUBELET_UPLINK_MTU;
	if (data + ETH_HLEN <= (void *)(long)skb->data_end) {
		__builtin_memcpy(in->dst_mac, eth->h_source, ETH_ALEN);
		__builtin_memcpy(in->src_mac, eth->h_dest, ETH_ALEN);
	}
	switch (pkt->entered) {
	case CUBELET_HOST:
		in->ifindex = CUBELET_GATEWAY_IFINDEX;
		__builtin_memcpy(in->dst_mac, (__u8[6])CUBELET_GATEWAY_MAC, ETH_ALEN);
		break;
	case CUBELET_OVERLAY:
		in->mtu = CUBELET_OVERLAY_MTU;
		in->remote = cubelet_tunnel_remote(skb);
		break;
	case CUBELET_UPLINK:
		in->remote = cubelet_uplink_next_hop(skb, &pkt->hdr.tuple.src);
		break;
	}
}

/* What comes through a tunnel must come from a known node, and from that node's podCIDR. */
CUBELET_INLINE int cubelet_tunnel_allowed(const struct cubelet_hop *in,
					  const struct cubelet_addr *source)
{
#if CUBELET_CHECK_TUNNEL
	if (in->port_class == CUBELET_OVERLAY) {
		struct cubelet_node_info *node = cubelet_lookup(cubelet_nodes, &in->remote);

		return node && cubelet_addr_within(source, &node->network, node->prefix);
	}
#endif
	return 1;
}

/* Is the address the gateway's, or one of the node's? */
CUBELET_INLINE int cubelet_is_own(const struct cubelet_addr *address)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS, node = CUBELET_NODE_ADDRESS;
	struct cubelet_exposed_address *exposed;

	if (cubelet_addr_equal(address, &gateway) || cubelet_addr_equal(address, &node))
		return 1;
	exposed = cubelet_lookup(cubelet_exposed, address);
	return exposed && exposed->own;
}

/* May this port send from this source? 0, or the reason it may not. */
CUBELET_INLINE __u16 cubelet_track_source(struct cubelet_pkt *pkt)
{
	if (pkt->entered == CUBELET_POD) {
		struct cubelet_port_info *port = cubelet_lookup(cubelet_ports, &pkt->ifindex);

		if (!port || !cubelet_addr_equal(&port->address, &pkt->hdr.tuple.src))
			return CUBELET_REASON_SPOOFED;
		pkt->own_mac = cubelet_same_mac(port->mac, pkt->in.dst_mac);
	}
	if (pkt->entered == CUBELET_HOST && !cubelet_is_own(&pkt->hdr.tuple.src))
		return CUBELET_REASON_SPOOFED; /* only forwarded by the host, so not the node's */
	if (pkt->entered == CUBELET_UPLINK) { /* our pods are not out there */
		const struct cubelet_addr pods = CUBELET_POD_NETWORK;

		if (cubelet_addr_within(&pkt->hdr.tuple.src, &pods, CUBELET_POD_PREFIX))
			return CUBELET_REASON_SPOOFED;
	}
	if (pkt->entered == CUBELET_OVERLAY &&
	    !cubelet_tunnel_allowed(&pkt->in, &pkt->hdr.tuple.src))
		return CUBELET_REASON_UNKNOWN_NODE;
	return 0;
}

/* No flow knows the packet: the cubes judge it as the opener of a new one. */
CUBELET_INLINE int cubelet_track_new(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	__u16 reason;

	/* an answer or a reset opens nothing: the opener's next packet restores what it answers */
	if (pkt->hdr.fragment != CUBELET_LATER &&
	    (pkt->hdr.tcp_flags & CUBELET_TCP_RST ||
	     (pkt->hdr.tcp_flags & CUBELET_TCP_SYN && pkt->hdr.tcp_flags & CUBELET_TCP_ACK))) {
		if (pkt->entered == CUBELET_UPLINK)
			return CUBELET_TRACKED_PASS;
		return cubelet_track_drop(pkt, CUBELET_REASON_NO_FLOW);
	}
	cubelet_track_entry(skb, pkt);
	reason = cubelet_track_source(pkt);
	if (reason)
		return cubelet_track_drop(pkt, reason);
	pkt->mode = CUBELET_NEW;
	pkt->reply = 0;
	pkt->orig = pkt->hdr.tuple;
	pkt->cur = pkt->hdr.tuple;
	cubelet_epoch_take(pkt);
	return CUBELET_TRACKED_JUDGE;
}

/* A flow's verdict is out of date: judge its permission and path in its own direction. */
CUBELET_INLINE int cubelet_track_rejudge(struct cubelet_pkt *pkt, const struct cubelet_flow *f)
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
	pkt->cur = pkt->orig;
	pkt->cur.dst = to.dst;
	pkt->cur.dport = to.dport;
	cubelet_epoch_take(pkt);
	if (!cubelet_tunnel_allowed(&pkt->in, &pkt->orig.src))
		return cubelet_track_drop(pkt, CUBELET_REASON_UNKNOWN_NODE);
	return CUBELET_TRACKED_JUDGE;
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
 * Has a pending flow been answered? UDP by its first reply; TCP by the opener's packet
 * after the answer, which must acknowledge it, so that forged openers never fill the table
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

/*
 * While one of a flow's records was evicted, its key may have gone to another flow. What
 * is left is of no use then: the opener's packets open a flow with another source port.
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

CUBELET_INLINE int cubelet_track_known(struct __sk_buff *skb, struct cubelet_scratch *s,
				       struct cubelet_flow **flow)
{
	struct cubelet_flow *f = *flow, *partner;
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_headers *h = &pkt->hdr;
	int current = cubelet_flow_current(f);
	int opens = (h->tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_ACK)) == CUBELET_TCP_SYN;

	if (!cubelet_enters(skb, f, pkt->entered)) {
		int tracked;

		if (current)
			return cubelet_track_drop(pkt, CUBELET_REASON_WRONG_PORT);
		tracked = cubelet_track_new(skb, pkt);
		if (tracked == CUBELET_TRACKED_JUDGE)
			cubelet_forget(s, &h->tuple, f); /* such as a pod that has been replaced */
		return tracked;
	}
	/* a SYN against the flow's direction is an opener of its own, to be judged as one */
	if (opens && (f->state == CUBELET_FLOW_CLOSING || f->flags & CUBELET_FLOW_REPLY)) {
		cubelet_forget(s, &h->tuple, f);
		return cubelet_track_new(skb, pkt);
	}
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
		return cubelet_track_rejudge(pkt, f);
	}
	if (cubelet_answered(skb, h, f, partner))
		f = cubelet_promote(s, f, partner);
	f->packets++;
	f->bytes += skb->len;
	pkt->flags = f->flags & CUBELET_FLOW_ROUTED ? CUBELET_ROUTED : 0;
	*flow = f;
	return CUBELET_TRACKED_SEND;
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
	if (pkt->hdr.fragment == CUBELET_LATER && cubelet_fragment_follow(&pkt->hdr)) {
		if (pkt->entered == CUBELET_UPLINK)
			return CUBELET_TRACKED_PASS; /* a datagram of the host's own */
		return cubelet_track_drop(pkt, CUBELET_REASON_FRAGMENT);
	}
	if (pkt->hdr.icmp_error) {
		cubelet_jump(skb, CUBELET_JUMP_RELATED);
		return cubelet_track_drop(pkt, CUBELET_REASON_JUMP);
	}
	*flow = pkt->missed ? cubelet_lookup(cubelet_pending, &pkt->hdr.tuple)
			    : cubelet_find(&pkt->hdr.tuple);
	tracked = *flow ? cubelet_track_known(skb, s, flow) : cubelet_track_new(skb, pkt);
	if (pkt->hdr.fragment == CUBELET_FIRST && tracked != CUBELET_TRACKED_DROP)
		cubelet_fragment_remember(&pkt->hdr);
	return tracked;
}
