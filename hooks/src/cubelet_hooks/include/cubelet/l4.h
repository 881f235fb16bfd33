/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Transport headers, and what a packet's flow is found by of them.
 */
#pragma once

#include "cubelet/packet.h"

enum cubelet_parsed {
	CUBELET_PLAIN,
	CUBELET_SPECIAL,
	CUBELET_MALFORMED,
};

#define CUBELET_NO_IDENTIFIER bpf_htons(1) /* at both ends; of an echo's, one is 0 */

CUBELET_INLINE int cubelet_icmp_is_error(__u8 type)
{
#if CUBELET_FAMILY == 6
	return !(type & ICMPV6_INFOMSG_MASK);
#endif
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT;
}

#if CUBELET_FAMILY == 6
/*
 * What nodes of a link tell each other, and no router forwards: listeners and routers of groups
 * (RFC 2710, 3810, 4286), neighbours and routers (RFC 4861, 3122, 3971). To the cubes such a packet
 * is a frame, as ARP's are.
 */
CUBELET_INLINE int cubelet_icmp_is_link(__u8 type)
{
	return (type >= 130 && type <= 137) || (type >= 141 && type <= 143) || type == 148 ||
	       type == 149 || (type >= 151 && type <= 153);
}
#endif

/*
 * An ICMP echo has an identifier where others have ports: it is the requester's port. All other
 * messages have CUBELET_NO_IDENTIFIER at both ends, which no echo has, so that they share none's
 * flow, whose translation would write to what they have at the identifier's place.
 */
CUBELET_INLINE void cubelet_icmp_identify(struct cubelet_tuple *t, __u8 type, __be16 id)
{
	t->sport = CUBELET_NO_IDENTIFIER;
	t->dport = CUBELET_NO_IDENTIFIER;
	if (type == CUBELET_ICMP_ECHO) {
		t->sport = id;
		t->dport = 0;
	} else if (type == CUBELET_ICMP_ECHO_REPLY) {
		t->sport = 0;
		t->dport = id;
	}
}

CUBELET_INLINE int cubelet_parse_icmp(const struct icmphdr *icmp, void *end,
				      struct cubelet_headers *h)
{
	if ((void *)(icmp + 1) > end || h->l4 - ETH_HLEN + sizeof(*icmp) > h->size)
		return CUBELET_MALFORMED;
#if CUBELET_FAMILY == 6
	if (cubelet_icmp_is_link(icmp->type)) { /* RFC 6980: neighbour discovery has no fragments */
		h->ip = 0;
		return h->fragment ? CUBELET_MALFORMED : CUBELET_SPECIAL;
	}
#endif
	cubelet_icmp_identify(&h->tuple, icmp->type, icmp->un.echo.id);
	h->ports = icmp->type == CUBELET_ICMP_ECHO; /* an answer keeps the asker's identifier */
	h->icmp_error = cubelet_icmp_is_error(icmp->type);
	/* an echo reply may be the node's as well: see echo.h of the core */
	return h->icmp_error || icmp->type == CUBELET_ICMP_ECHO_REPLY ? CUBELET_SPECIAL
								      : CUBELET_PLAIN;
}

/* Transport ports and flags; of a GSO packet also the size of one segment. */
CUBELET_INLINE int cubelet_parse_l4(struct __sk_buff *skb, void *l4, void *end,
				    struct cubelet_headers *h)
{
	__u16 length = 8;

	if (h->tuple.protocol == CUBELET_ICMP)
		return cubelet_parse_icmp(l4, end, h);
	if (h->tuple.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end || tcp->doff < 5)
			return CUBELET_MALFORMED;
		h->tuple.sport = tcp->source;
		h->tuple.dport = tcp->dest;
		h->tcp_flags = ((__u8 *)tcp)[13];
		h->ports = 1;
		length = tcp->doff * 4;
	} else if (h->tuple.protocol == IPPROTO_UDP || h->tuple.protocol == IPPROTO_SCTP) {
		struct udphdr *ports = l4; /* SCTP's ports stand at the same place */

		if ((void *)(ports + 1) > end)
			return CUBELET_MALFORMED;
		h->tuple.sport = ports->source;
		h->tuple.dport = ports->dest;
		h->ports = h->tuple.protocol == IPPROTO_UDP;
#if CUBELET_FAMILY == 6
		if (h->ports && !ports->check) { /* RFC 8200 8.1 */
			h->refused = CUBELET_REFUSED_UNCHECKED;
			return CUBELET_SPECIAL;
		}
#endif
	} else {
		h->tuple.sport = 0;
		h->tuple.dport = 0;
		length = 0;
	}
	if (skb->gso_size)
		h->size = h->l4 - ETH_HLEN + length + skb->gso_size;
	else if (h->l4 - ETH_HLEN + length > h->size) /* it reaches into the frame's padding */
		return CUBELET_MALFORMED;
	if (h->tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_FIN | CUBELET_TCP_RST))
		return CUBELET_SPECIAL;
	return CUBELET_PLAIN;
}
