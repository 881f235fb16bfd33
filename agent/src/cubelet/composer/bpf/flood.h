/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flooding, in a program of its own: one copy to each port of the segment but the sender's. */
#pragma once

#include "state.h"

#define CUBELET_FLOOD_LIMIT 256

CUBELET_INLINE int cubelet_send_flood(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	__u16 segment = skb->vlan_present ? skb->vlan_tci & 0xfff : 0;

	if (!s)
		return TC_ACT_SHOT;
#ifdef cubelet_flood_ports
	for (__u32 i = 0; i < CUBELET_FLOOD_LIMIT; i++) {
		struct cubelet_flood_port *port;
		__u32 slot = i;

		/* keeps the counter in a register, where the verifier can follow it */
		asm volatile("" : "+r"(i));
		port = cubelet_lookup(cubelet_flood_ports, &slot);
		if (!port || !port->ifindex)
			break;
		if (port->ifindex == skb->ifindex || port->segment != segment)
			continue;
		if (s->pkt.hdr.ip && !cubelet_admits(skb, &s->pkt, &port->address))
			continue;
		bpf_clone_redirect(skb, port->ifindex, 0);
	}
#endif
	return TC_ACT_SHOT; /* the original; its copies are on their way */
}
