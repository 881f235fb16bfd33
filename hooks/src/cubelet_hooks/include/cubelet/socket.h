/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the node's own sockets say of a packet.
 */
#pragma once

#include "packet.h"

/* What the node's own sockets have to do with a packet. */
enum cubelet_node_socket {
	CUBELET_NO_SOCKET = 0,
	CUBELET_LISTENS = 1, /* TCP: listens; UDP: is bound, and to nobody connected */
	CUBELET_CONNECTED = 2,
};

/* Which of the node's own sockets would get such a packet? See enum cubelet_node_socket. */
CUBELET_INLINE int cubelet_node_socket(struct __sk_buff *skb, const struct cubelet_tuple *t)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sock;
	int size, connected;

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
		sock = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (t->protocol == IPPROTO_UDP)
		sock = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return CUBELET_NO_SOCKET;
	if (!sock)
		return CUBELET_NO_SOCKET;
	/* a connected UDP socket's state is "established", too */
	connected = sock->state == BPF_TCP_ESTABLISHED ||
		    (t->protocol == IPPROTO_TCP && sock->state != BPF_TCP_LISTEN);
	bpf_sk_release(sock);
	return connected ? CUBELET_CONNECTED : CUBELET_LISTENS;
}

/*
 * Does such a packet belong to a connection that one of the node's own sockets has?
 * One that only listens has none, nor has a UDP socket that is not connected.
 */
CUBELET_INLINE int cubelet_node_connected(struct __sk_buff *skb, const struct cubelet_tuple *t)
{
	return cubelet_node_socket(skb, t) == CUBELET_CONNECTED;
}
