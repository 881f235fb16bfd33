/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the node's own sockets say of a packet.
 */
#pragma once

#include "packet.h"

/* The host's socket that such a packet would reach; NULL without one. To be released. */
CUBELET_INLINE struct bpf_sock *cubelet_node_lookup(struct __sk_buff *skb,
						    const struct cubelet_tuple *t)
{
	struct bpf_sock_tuple tuple = {};
	int size;

#if CUBELET_FAMILY == 4
	size = sizeof(tuple.ipv4);
	tuple.ipv4.saddr = t->src.w[0];
	tuple.ipv4.daddr = t->dst.w[0];
	tuple.ipv4.sport = t->sport;
	tuple.ipv4.dport = t->dport;
#else
	size = sizeof(tuple.ipv6);
	__builtin_memcpy(tuple.ipv6.saddr, &t->src, sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, &t->dst, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = t->sport;
	tuple.ipv6.dport = t->dport;
#endif
	if (t->protocol == IPPROTO_TCP)
		return bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (t->protocol == IPPROTO_UDP)
		return bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	return NULL;
}

/*
 * Does such a packet belong to a connection that one of the node's own sockets has?
 * One that only listens has none, nor has a UDP socket that is not connected.
 */
CUBELET_INLINE int cubelet_node_connected(struct __sk_buff *skb, const struct cubelet_tuple *t)
{
	struct bpf_sock *sock = cubelet_node_lookup(skb, t);
	int own;

	if (!sock)
		return 0;
	/* a listener has no connection; a connected UDP socket's state is "established", too */
	own = sock->state == BPF_TCP_ESTABLISHED ||
	      (t->protocol == IPPROTO_TCP && sock->state != BPF_TCP_LISTEN);
	bpf_sk_release(sock);
	return own;
}

/* Would one of the node's own sockets take such a packet, be it connected, bound or listening? */
CUBELET_INLINE int cubelet_node_socket(struct __sk_buff *skb, const struct cubelet_tuple *t)
{
	struct bpf_sock *sock = cubelet_node_lookup(skb, t);

	if (!sock)
		return 0;
	bpf_sk_release(sock);
	return 1;
}
