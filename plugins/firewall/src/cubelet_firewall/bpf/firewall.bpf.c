/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * firewall: Kubernetes NetworkPolicy, egress on the sender's port and ingress
 * on the receiver's.
 *
 * firewall_isolated has the node's pods that policies select: {10.1.0.7,
 * ingress} -> policy 0xa1. What 0xa1 allows is asked for the other end, whose
 * number in firewall_identities tells its namespace and its labels:
 *
 *   firewall_peers   {0xa1, namespace 0x5e, pod 0xc3} -> port set 0xf8
 *                    {0xa1, namespace 0x5e} -> 0xf2, for its other pods
 *                    {0xa1} -> 0xf0, for all other pods
 *   firewall_blocks  {0xa1, 192.0.2.0/24} -> 0xf4, for addresses
 *                    {0xa1} -> 0xf0, for all other addresses
 *   firewall_ports   {0xf8, TCP, 80}, {0xf8, TCP, 1024/6}, {0xf8, UDP}
 *
 *   firewall_hosts   {10.1.2.1, 0} -> 172.18.0.3, for that node's host
 *
 * An answer includes those of the shorter prefixes, so one lookup in each gives
 * all. Numbers are hashes of what they stand for: another policy is another
 * number, written before the pod is switched to it.
 */
#include "cubelet.h"

/* Are the packet's protocol and port in the set? */
CUBELET_INLINE int firewall_in_set(const struct cubelet_pkt *pkt,
				   const struct firewall_port_set *ports)
{
	struct firewall_port_key key = {};

	if (!ports || ports->set == FIREWALL_NOTHING)
		return 0;
	if (ports->set == FIREWALL_EVERYTHING)
		return 1;
	key.prefixlen = FIREWALL_PORT_BITS;
	key.set = ports->set;
	key.protocol = pkt->cur.protocol;
	key.port = pkt->cur.dport;
	return !!cubelet_lookup(firewall_ports, &key);
}

CUBELET_INLINE int firewall_allows_pod(const struct cubelet_pkt *pkt, __u64 policy,
				       const struct firewall_identity *peer)
{
	struct firewall_peer_key key = {};

	key.prefixlen = FIREWALL_PEER_BITS;
	key.policy = policy;
	key.namespace = peer->namespace;
	key.pod = peer->pod;
	return firewall_in_set(pkt, cubelet_lookup(firewall_peers, &key));
}

CUBELET_INLINE int firewall_allows_address(const struct cubelet_pkt *pkt, __u64 policy,
					   const struct cubelet_addr *peer)
{
	struct firewall_block_key key = {};

	key.prefixlen = FIREWALL_BLOCK_BITS;
	key.policy = policy;
	key.network = *peer;
	return firewall_in_set(pkt, cubelet_lookup(firewall_blocks, &key));
}

/*
 * The host of another node comes by the overlay, with the first address of its
 * node's pods: nobody else may send from there. Rules mean it by its own ones.
 */
CUBELET_INLINE int firewall_allows_host(const struct cubelet_pkt *pkt, __u64 policy,
					const struct cubelet_addr *peer)
{
	struct firewall_host_key key = {};
	struct firewall_host *host;
	int number;

	key.address = *peer;
#pragma unroll
	for (number = 0; number < FIREWALL_HOST_ADDRESSES; number++) {
		key.index = number;
		host = cubelet_lookup(firewall_hosts, &key);
		if (!host)
			return 0;
		if (firewall_allows_address(pkt, policy, &host->address))
			return 1;
	}
	return 0;
}

CUBELET_INLINE struct firewall_policy *firewall_policy_of(const struct cubelet_addr *pod,
							  __u8 direction)
{
	struct firewall_isolated_key key = {};

	key.address = *pod;
	key.direction = direction;
	return cubelet_lookup(firewall_isolated, &key);
}

/* May the pod speak with the peer? A pod can be meant by its address as well. */
CUBELET_INLINE int firewall_allows(const struct cubelet_pkt *pkt, const struct cubelet_addr *pod,
				   __u8 direction, const struct cubelet_addr *peer)
{
	struct firewall_policy *policy = firewall_policy_of(pod, direction);
	struct firewall_identity_key who = {};
	struct firewall_identity *identity;

	if (!policy)
		return 1;
	/* from the uplink comes no pod, whatever the source address claims */
	if (policy->peers &&
	    (direction == FIREWALL_EGRESS || pkt->in.port_class != CUBELET_UPLINK)) {
		who.address = *peer;
		identity = cubelet_lookup(firewall_identities, &who);
		if (identity && firewall_allows_pod(pkt, policy->policy, identity))
			return 1;
		if (identity && !policy->blocks)
			return 0;
	}
	if (firewall_allows_address(pkt, policy->policy, peer))
		return 1;
	return direction == FIREWALL_INGRESS && policy->blocks &&
	       pkt->in.port_class == CUBELET_OVERLAY &&
	       firewall_allows_host(pkt, policy->policy, peer);
}

/* Egress: where the packet really goes, a Service's backend. */
static __always_inline int firewall_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	if (cubelet_addr_equal(&pkt->orig.src, &pkt->cur.dst))
		return cubelet_next(pkt);
	if (!firewall_allows(pkt, &pkt->orig.src, FIREWALL_EGRESS, &pkt->cur.dst))
		return cubelet_drop(pkt, FIREWALL_REASON_EGRESS_DENIED);
	return cubelet_next(pkt);
}

/*
 * Ingress: who really sent it. The node may always reach its pods, and a pod
 * itself; both are known by the port, since an address can be claimed.
 */
static __always_inline int firewall_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	if (pkt->in.port_class == CUBELET_HOST)
		return cubelet_next(pkt);
	if (pkt->in.port_class == CUBELET_POD && pkt->in.ifindex == pkt->out.ifindex)
		return cubelet_next(pkt);
	if (!firewall_allows(pkt, &pkt->cur.dst, FIREWALL_INGRESS, &pkt->orig.src))
		return cubelet_drop(pkt, FIREWALL_REASON_INGRESS_DENIED);
	return cubelet_next(pkt);
}

/* Broadcasts have no flow to be judged: from other pods, isolated ones get none. */
static __always_inline int firewall_admits(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					   const struct cubelet_addr *pod)
{
	return pkt->in.port_class == CUBELET_HOST || !firewall_policy_of(pod, FIREWALL_INGRESS);
}
