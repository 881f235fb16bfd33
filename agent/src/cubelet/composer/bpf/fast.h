/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fast path, one program per port class: parse, one lookup, checks,
 * rewrite, redirect. Whatever it cannot finish goes to the slow program.
 */
#pragma once

#include <linux/if_packet.h>

#include "cubelet/parse.h"
#include "early.h"
#include "send.h"
#include "state.h"

#define CUBELET_PORT_WORDS (65536 / 64)

/*
 * Is it a pod's host port or a Service's, be it at another of the node's addresses? An
 * array's value is reached without a call, so that the host's own traffic pays next to nothing.
 */
CUBELET_INLINE int cubelet_host_port(__u8 protocol, __u16 port)
{
	struct cubelet_port_bits *word;
	struct cubelet_index key = {};

	switch (protocol) {
	case IPPROTO_TCP:
		break;
	case IPPROTO_UDP:
		if (port == CUBELET_VXLAN_PORT) /* the node's, whichever pod asks for it */
			return 0;
		key.index = CUBELET_PORT_WORDS;
		break;
	case IPPROTO_SCTP:
		key.index = 2 * CUBELET_PORT_WORDS;
		break;
	default:
		return 0;
	}
	key.index += port / 64;
	word = cubelet_lookup(cubelet_host_ports, &key);
	return word && word->bits >> port % 64 & 1;
}

/* Is a port of the node's own address one that Services, pods or translated sources use? */
CUBELET_INLINE int cubelet_used_port(__u8 protocol, __u16 port)
{
	return (port >= CUBELET_SNAT_FIRST && port <= CUBELET_SNAT_LAST) ||
	       (port >= CUBELET_NODE_PORT_FIRST && port <= CUBELET_NODE_PORT_LAST) ||
	       cubelet_host_port(protocol, port);
}

CUBELET_INLINE int cubelet_our_number(const struct cubelet_headers *h)
{
	return cubelet_used_port(h->tuple.protocol, bpf_ntohs(h->tuple.dport));
}

/* May a packet to the node's own address be ours? What its port does not tell is looked at. */
CUBELET_INLINE int cubelet_our_port(const struct cubelet_headers *h)
{
	return h->fragment || h->icmp_error || cubelet_our_number(h);
}

/*
 * Is a packet from the uplink ours to look at? All else (the host's own traffic,
 * tunnels' outer packets, frames to others' MAC addresses) passes untouched.
 */
CUBELET_INLINE int cubelet_ours(struct __sk_buff *skb, const struct cubelet_headers *h)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS, pods = CUBELET_POD_NETWORK;
	struct cubelet_exposed_address *exposed;

	if (!h->ip)
		return 0;
#if CUBELET_CHECK_MAC
	if (skb->pkt_type != PACKET_HOST)
		return 0;
#endif
	if (cubelet_addr_equal(&h->tuple.dst, &node))
		return cubelet_our_port(h);
	if (cubelet_addr_within(&h->tuple.dst, &pods, CUBELET_POD_PREFIX))
		return 1;
	exposed = cubelet_lookup(cubelet_exposed, &h->tuple.dst);
	if (exposed)
		return exposed->every || cubelet_our_port(h);
	/* connections outlive the Service whose address they asked */
	return h->tuple.protocol == IPPROTO_TCP && cubelet_lookup(cubelet_flows, &h->tuple);
}

/* Did the packet enter where its flow enters? A pod's by its own port, others by class. */
CUBELET_INLINE int cubelet_enters(struct __sk_buff *skb, const struct cubelet_flow *f,
				  const __u8 class)
{
	if (f->enters.port_class != class)
		return 0;
	if (class == CUBELET_POD)
		return f->enters.ifindex == skb->ifindex;
#if CUBELET_CHECK_TUNNEL
	if (class == CUBELET_OVERLAY) {
		struct bpf_tunnel_key key = {};

		return !bpf_skb_get_tunnel_key(skb, &key, 8, 0) &&
		       key.tunnel_id == CUBELET_TUNNEL_ID &&
		       f->enters.remote == bpf_htonl(key.remote_ipv4);
	}
#endif
	return 1;
}

CUBELET_INLINE int cubelet_entry(struct __sk_buff *skb, const __u8 class)
{
	struct cubelet_headers h;
	struct cubelet_scratch *s;
	struct cubelet_flow *f;
	int parsed = cubelet_parse(skb, &h);
	__u8 missed = 0; /* said at once: the compiler may not join a pointer with a number later */
	__u8 mirrored = 0;

	if (class == CUBELET_UPLINK && cubelet_early_refuses(skb, &h))
		return TC_ACT_SHOT;
	if (class == CUBELET_UPLINK && (parsed == CUBELET_MALFORMED || !cubelet_ours(skb, &h)))
		return TC_ACT_UNSPEC;
	if (parsed == CUBELET_PLAIN) {
		f = cubelet_lookup(cubelet_flows, &h.tuple);
		missed = !f;
		if (f && cubelet_enters(skb, f, class) && cubelet_flow_current(f) &&
		    (__u32)bpf_jiffies64() - f->last_seen < CUBELET_HZ &&
		    cubelet_passes(&h, &f->leaves, f->flags & CUBELET_FLOW_ROUTED)) {
			/* plain additions: a direction is served by one CPU almost always */
			f->packets++;
			f->bytes += skb->len;
			mirrored = cubelet_is_mirrored(f);
			if (!mirrored)
				return cubelet_send(skb, &h, f, 0);
		}
	}
	s = cubelet_scratch_get();
	if (!s)
		return TC_ACT_SHOT;
	s->pkt.hdr = h;
	s->pkt.ifindex = skb->ifindex;
	s->pkt.entered = class;
	s->pkt.mode = CUBELET_ARRIVED;
	s->pkt.stage = 0;
	s->pkt.missed = missed;
	if (parsed == CUBELET_MALFORMED)
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_MALFORMED);
	if (mirrored)
		cubelet_jump(skb, CUBELET_JUMP_MIRRORED);
	else
		cubelet_jump(skb, CUBELET_JUMP_SLOW);
	return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_JUMP);
}
