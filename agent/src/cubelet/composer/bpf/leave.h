/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What may not leave, wherever the cubes send it.
 */
#pragma once

#include "cubelet/packet.h"

/* Would a UDP packet to this port, by this class, arrive at some node's end of the tunnel? */
CUBELET_INLINE int cubelet_to_tunnel(__u8 class, __be16 port)
{
	return (class == CUBELET_UPLINK || class == CUBELET_HOST) &&
	       port == bpf_htons(CUBELET_VXLAN_PORT);
}

/*
 * Only the overlay's device speaks to nodes' tunnels: translated to a node's address,
 * anybody's VXLAN would be taken for the node's. Nor may replies of a flow go there, whose
 * sender's port is as easily claimed.
 */
CUBELET_INLINE int cubelet_as_tunnel(const struct cubelet_pkt *pkt)
{
	return pkt->cur.protocol == IPPROTO_UDP &&
	       (cubelet_to_tunnel(pkt->out.port_class, pkt->cur.dport) ||
		cubelet_to_tunnel(pkt->in.port_class, pkt->orig.sport));
}
