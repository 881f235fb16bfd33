/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parsing: once per packet, into struct cubelet_headers.
 *
 * cubelet_parse() returns CUBELET_PLAIN for a packet whose tuple alone finds
 * its flow, CUBELET_SPECIAL for one that needs the slow side (not IP, fragments,
 * IP options, TCP SYN/FIN/RST, ICMP errors and echo replies) and CUBELET_MALFORMED
 * for one that contradicts itself: then the headers hold what came before that, and zeros.
 */
#pragma once

#include "cubelet/packet.h"

enum cubelet_parsed {
	CUBELET_PLAIN,
	CUBELET_SPECIAL,
	CUBELET_MALFORMED,
};

#define CUBELET_PULL 128 /* bytes that hold every header we read */
#define CUBELET_IP_PLAIN 0x45 /* version 4, and a header of 20 bytes: without options */
#define CUBELET_IP_MF 0x2000
#define CUBELET_IP_DF 0x4000
#define CUBELET_IP_OFFSET 0x1fff
#define CUBELET_NO_IDENTIFIER bpf_htons(1) /* at both ends; of an echo's, one is 0 */

CUBELET_INLINE int cubelet_icmp_is_error(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT;
}

/*
 * An ICMP echo has an identifier where others have ports: it is the requester's port. All other
 * messages have CUBELET_NO_IDENTIFIER at both ends, which no echo has, so that they share none's
 * flow, whose translation would write to what they have at the identifier's place.
 */
CUBELET_INLINE void cubelet_icmp_identify(struct cubelet_tuple *t, __u8 type, __be16 id)
{
	t->sport = CUBELET_NO_IDENTIFIER;
	t->dport = CUBELET_NO_IDENTIFIER;
	if (type == ICMP_ECHO) {
		t->sport = id;
		t->dport = 0;
	} else if (type == ICMP_ECHOREPLY) {
		t->sport = 0;
		t->dport = id;
	}
}

CUBELET_INLINE int cubelet_parse_icmp(const struct icmphdr *icmp, void *end,
				      struct cubelet_headers *h)
{
	if ((void *)(icmp + 1) > end || h->l4 - ETH_HLEN + sizeof(*icmp) > h->size)
		return CUBELET_MALFORMED;
	cubelet_icmp_identify(&h->tuple, icmp->type, icmp->un.echo.id);
	h->ports = icmp->type == ICMP_ECHO; /* an answer keeps the asker's identifier */
	h->icmp_error = cubelet_icmp_is_error(icmp->type);
	/* an echo reply may be the node's as well: see echo.h of the core */
	return h->icmp_error || icmp->type == ICMP_ECHOREPLY ? CUBELET_SPECIAL : CUBELET_PLAIN;
}

/* Transport ports and flags; of a GSO packet also the size of one segment. */
CUBELET_INLINE int cubelet_parse_l4(struct __sk_buff *skb, void *l4, void *end,
				    struct cubelet_headers *h)
{
	__u16 length = 8;

	if (h->tuple.protocol == IPPROTO_ICMP)
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

CUBELET_INLINE int cubelet_parse_ip(struct __sk_buff *skb, struct iphdr *ip, void *end,
				    struct cubelet_headers *h)
{
	__u16 fragment = bpf_ntohs(ip->frag_off);
	__u16 total = bpf_ntohs(ip->tot_len);
	int parsed, special = 0;

	if (*(__u8 *)ip != CUBELET_IP_PLAIN) {
		if (ip->version != 4 || ip->ihl < 5)
			return CUBELET_MALFORMED;
		special = 1;
	}
	h->l4 = ETH_HLEN + ip->ihl * 4;
	if (!skb->gso_size && (total < ip->ihl * 4 || ETH_HLEN + total > skb->len))
		return CUBELET_MALFORMED;
	h->ip = 1;
	h->size = total;
	h->ttl = ip->ttl;
	h->may_fragment = !(fragment & CUBELET_IP_DF);
	h->tuple.src.w[0] = ip->saddr;
	h->tuple.dst.w[0] = ip->daddr;
	h->tuple.protocol = ip->protocol;
	if (fragment & (CUBELET_IP_MF | CUBELET_IP_OFFSET)) {
		h->fragment_id = ip->id;
		h->fragment = fragment & CUBELET_IP_OFFSET ? CUBELET_LATER : CUBELET_FIRST;
		if (h->fragment == CUBELET_LATER)
			return CUBELET_SPECIAL;
		special = 1;
	}
	parsed = cubelet_parse_l4(skb, (void *)ip + ip->ihl * 4, end, h);
	if (parsed == CUBELET_PLAIN && special)
		return CUBELET_SPECIAL;
	return parsed;
}

CUBELET_INLINE int cubelet_parse(struct __sk_buff *skb, struct cubelet_headers *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth;

	__builtin_memset(h, 0, sizeof(*h));
	if (data + ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr) > end) {
		/* the headers may lie outside the linear part */
		bpf_skb_pull_data(skb, skb->len < CUBELET_PULL ? skb->len : CUBELET_PULL);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	eth = data;
	if (data + ETH_HLEN > end)
		return CUBELET_MALFORMED;
	h->ethertype = eth->h_proto;
	if (skb->vlan_present || eth->h_proto != bpf_htons(ETH_P_IP))
		return CUBELET_SPECIAL;
	if (data + ETH_HLEN + sizeof(struct iphdr) > end)
		return CUBELET_MALFORMED;
	return cubelet_parse_ip(skb, data + ETH_HLEN, end, h);
}
