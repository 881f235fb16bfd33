/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The node's uplinks: NICs by which packets leave for what is no pod's.
 */
#pragma once

#include "packet.h"

/* The uplink with this ifindex: its address and its MAC. NULL if the device is none. */
CUBELET_INLINE const struct cubelet_uplink *cubelet_uplink_at(__u32 ifindex)
{
	struct cubelet_port_key key = {};

	key.ifindex = ifindex;
	return cubelet_lookup(cubelet_uplinks, &key);
}

/* The address of the node's that packets by this device are seen under. */
CUBELET_INLINE struct cubelet_addr cubelet_uplink_address(__u32 ifindex)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	const struct cubelet_uplink *uplink = cubelet_uplink_at(ifindex);

	return uplink ? uplink->address : node;
}

/*
 * The node's address of this number, from 1 on, the gateway's first: 1, or 0 if there are no more.
 * Number 0 is the one that tunnels' outer packets have, if the kernel does not choose it.
 */
CUBELET_INLINE int cubelet_own_address(__u32 number, struct cubelet_addr *address)
{
	struct cubelet_index key = {};
	struct cubelet_own_address *own;

	key.index = number;
	own = cubelet_lookup(cubelet_own, &key);
	if (!own || !cubelet_addr_fold(&own->address))
		return 0;
	*address = own->address;
	return 1;
}
