/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A core for tests: sends every packet to where its address lives. Ports 30001
 * to 30005 of the node, and of 127.0.0.1, stand for Services, each with a backend elsewhere.
 */
#include "cubelet.h"

CUBELET_INLINE void crossing_balance(struct cubelet_pkt *pkt)
{
	struct cubelet_addr backend = CUBELET_NODE_ADDRESS;

	switch (bpf_ntohs(pkt->orig.dport)) {
	case 30001:
		backend.w[0] = bpf_htonl(CROSSING_OUTSIDE);
		break;
	case 30002:
		backend.w[0] = bpf_htonl(CROSSING_ELSEWHERE);
		break;
	case 30003:
		backend.w[0] = bpf_htonl(CROSSING_POD);
		break;
	case 30004:
		break;
	case 30005:
		backend.w[0] = bpf_htonl(CROSSING_ROUTED);
		break;
	default:
		return;
	}
	cubelet_set_dst(pkt, &backend, bpf_htons(8080));
}

static __always_inline int crossing_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	__u32 dst;

	if (cubelet_addr_equal(&pkt->orig.dst, &node) || cubelet_addr_loopback(&pkt->orig.dst))
		crossing_balance(pkt);
	pkt->out.mtu = 1500;
	if (cubelet_addr_equal(&pkt->cur.dst, &node))
		return cubelet_forward(pkt, CUBELET_HOST, CUBELET_GATEWAY_IFINDEX);
	dst = bpf_ntohl(pkt->cur.dst.w[0]);
	if (dst == CROSSING_POD)
		return cubelet_forward(pkt, CUBELET_POD, CROSSING_POD_IFINDEX);
	if (dst == CROSSING_OTHER)
		return cubelet_forward(pkt, CUBELET_POD, CROSSING_OTHER_IFINDEX);
	if (dst == CROSSING_ELSEWHERE)
		return cubelet_forward(pkt, CUBELET_OVERLAY, CUBELET_OVERLAY_IFINDEX);
	return cubelet_forward(pkt, CUBELET_UPLINK, CUBELET_UPLINK_IFINDEX);
}
