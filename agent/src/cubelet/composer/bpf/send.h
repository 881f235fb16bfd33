/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of a packet's way: fit for where it leaves, rewritten, sent. */
#pragma once

#include <linux/if_packet.h>

#include "cubelet/rewrite.h"
#include "mirror.h"

/* BCC 0.26 declares bpf_redirect_neigh without its third argument. */
static long (*cubelet_redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *params, int length,
				      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

#define CUBELET_KERNEL_VERSION(major, minor) ((major) << 8 | (minor))

/* Kernels before 6.0 refuse a key longer than they know: there the kernel chooses the source. */
#if CUBELET_KERNEL < CUBELET_KERNEL_VERSION(6, 0)
#define CUBELET_TUNNEL_KEY_BYTES __builtin_offsetof(struct bpf_tunnel_key, local_ipv4)
#else
#define CUBELET_TUNNEL_KEY_BYTES sizeof(struct bpf_tunnel_key)
#endif

/* The address that other nodes know this one by, if it has it; 0: the kernel chooses. */
CUBELET_INLINE __be32 cubelet_tunnel_source(void)
{
#if CUBELET_FAMILY == 4
	struct cubelet_addr own = {};

	return cubelet_own_address(0, &own) ? own.w[0] : 0;
#else
	return 0; /* tunnels run over IPv4 */
#endif
}

/* Sends the frame as it stands to where a flow leaves. */
CUBELET_INLINE int cubelet_transmit(struct __sk_buff *skb, const struct cubelet_hop *to)
{
	cubelet_trace_sent(to, 1);
	switch (to->port_class) {
	case CUBELET_POD:
#if CUBELET_KERNEL < CUBELET_KERNEL_VERSION(6, 15)
		/*
		 * It came to the router's MAC by a device with another one, so it counts as
		 * somebody else's, and only kernels with "Scrub packet on bpf_redirect_peer" change
		 * that.
		 */
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
#endif
		return bpf_redirect_peer(to->ifindex, 0);
	case CUBELET_HOST:
		return bpf_redirect(to->ifindex, BPF_F_INGRESS);
	case CUBELET_OVERLAY: {
		struct bpf_tunnel_key key = {};

		key.tunnel_id = CUBELET_TUNNEL_ID;
		key.remote_ipv4 = bpf_ntohl(to->remote);
		key.local_ipv4 = bpf_ntohl(cubelet_tunnel_source());
		key.tunnel_ttl = 64;
		if (bpf_skb_set_tunnel_key(skb, &key, CUBELET_TUNNEL_KEY_BYTES, BPF_F_ZERO_CSUM_TX))
			return TC_ACT_SHOT;
		return bpf_redirect(to->ifindex, 0);
	}
	default: {
		struct bpf_redir_neigh next = {};

		if (!to->remote)
			return cubelet_redirect_neigh(to->ifindex, NULL, 0, 0);
		next.nh_family = 2; /* AF_INET: see cubelet_uplink_back() */
		next.ipv4_nh = to->remote;
		return cubelet_redirect_neigh(to->ifindex, &next, sizeof(next), 0);
	}
	}
}

/*
 * Would a packet expire here, or not fit? Then it is for the slow side to say so. Only the
 * overlay can carry what is too big: the kernel then fragments the tunnel's packet.
 */
CUBELET_INLINE int cubelet_passes(const struct cubelet_headers *h, const struct cubelet_hop *to,
				  int routed)
{
	return (!routed || h->ttl > 1) &&
	       (h->size <= to->mtu || (h->may_fragment && to->port_class == CUBELET_OVERLAY));
}

#define CUBELET_STAGE_PACKET(number, function, classes)                                         \
	if (!reason && ((classes) & (1 << f->enters.port_class | 1 << f->leaves.port_class))) { \
		stage = (number);                                                               \
		reason = function(skb, h, f);                                                   \
	}

/* The cubes that see every packet. 0, or the reason that the last of them drops it for. */
CUBELET_INLINE __u16 cubelet_each_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					 struct cubelet_flow *f)
{
	struct cubelet_scratch *s;
	__u16 reason = 0;
	__u8 stage = 0;

	CUBELET_EACH_PACKET(CUBELET_STAGE_PACKET)
	if (!reason)
		return 0;
	s = cubelet_scratch_get();
	if (!s)
		return reason;
	s->pkt.hdr = *h;
	s->pkt.ifindex = skb->ifindex;
	s->pkt.entered = f->enters.port_class;
	s->pkt.stage = stage;
	cubelet_dropped(skb, &s->pkt, reason);
	return reason;
}

/* `copied`: after its copies. */
CUBELET_INLINE int cubelet_send(struct __sk_buff *skb, const struct cubelet_headers *h,
				struct cubelet_flow *f, const int copied)
{
	if (cubelet_each_packet(skb, h, f))
		return TC_ACT_SHOT;
	if (copied)
		cubelet_mirror(skb, f);
	if (cubelet_rewrite(skb, h, f))
		return TC_ACT_SHOT;
	return cubelet_transmit(skb, &f->leaves);
}
