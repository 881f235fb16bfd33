/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Errors of our own over IPv6: ICMPv6 (RFC 4443). Cubes name them as in IPv4, so that one source
 * serves both families; here they are said as RFC 7915 4.2 translates them. See error.h.
 */
#pragma once

#include "quote.h"

/* Are these a sender that can be answered, and no group's address (RFC 4443 2.4)? */
CUBELET_INLINE int cubelet_error_ends(const struct cubelet_addr *src,
				      const struct cubelet_addr *dst)
{
	return bpf_ntohl(dst->w[0]) >> 24 != 0xff &&
	       (!cubelet_never_source(src) ||
		(cubelet_addr_loopback(src) && cubelet_addr_loopback(dst)));
}

/* IPv6 header from `from` to the packet's sender, before `length` bytes. */
CUBELET_INLINE void cubelet_error_ip(struct ipv6hdr *ip, const struct cubelet_pkt *pkt,
				     const struct cubelet_addr *from, __u8 protocol, __u16 length)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	*(__u8 *)ip = 6 << 4;
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, from, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &pkt->hdr.tuple.src, sizeof(ip->daddr));
}

/* The sum of the pseudo-header (RFC 8200 8.1). */
CUBELET_INLINE __u32 cubelet_error_pseudo(struct ipv6hdr *ip)
{
	return bpf_csum_diff(0, 0, (__be32 *)&ip->saddr, 32,
			     ip->payload_len + bpf_htons(ip->nexthdr));
}

CUBELET_INLINE int cubelet_error_reset(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	struct {
		struct ipv6hdr ip;
		struct tcphdr tcp;
	} out;
	__u32 sum;

	if (cubelet_error_segment(skb, pkt, &out.tcp))
		return -1;
	cubelet_error_ip(&out.ip, pkt, &pkt->hdr.tuple.dst, IPPROTO_TCP, sizeof(out.tcp));
	sum = cubelet_error_pseudo(&out.ip);
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.tcp, sizeof(out.tcp), sum);
	out.tcp.check = ~cubelet_csum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(out), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0);
}

/* Type, code and MTU in ICMPv6's words. */
CUBELET_INLINE void cubelet_error_said(struct icmp6hdr *icmp, const struct cubelet_pkt *pkt)
{
	__u32 mtu = pkt->error_mtu > CUBELET_MTU_MIN ? pkt->error_mtu : CUBELET_MTU_MIN;

	icmp->icmp6_type = ICMPV6_DEST_UNREACH;
	switch (pkt->error_type) {
	case ICMP_TIME_EXCEEDED:
		icmp->icmp6_type = ICMPV6_TIME_EXCEED;
		icmp->icmp6_code = pkt->error_code;
		return;
	case ICMP_PARAMETERPROB:
		icmp->icmp6_type = ICMPV6_PARAMPROB;
		return;
	}
	switch (pkt->error_code) {
	case ICMP_HOST_UNREACH:
		icmp->icmp6_code = ICMPV6_ADDR_UNREACH;
		break;
	case ICMP_PORT_UNREACH:
		icmp->icmp6_code = ICMPV6_PORT_UNREACH;
		break;
	case ICMP_NET_ANO:
	case ICMP_HOST_ANO:
	case ICMP_PKT_FILTERED:
	case ICMP_PREC_CUTOFF:
		icmp->icmp6_code = ICMPV6_ADM_PROHIBITED;
		break;
	case ICMP_FRAG_NEEDED:
		icmp->icmp6_type = ICMPV6_PKT_TOOBIG;
		icmp->icmp6_mtu = bpf_htonl(mtu);
		break;
	default:
		icmp->icmp6_code = ICMPV6_NOROUTE;
	}
}

CUBELET_INLINE int cubelet_error_icmp(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_addr from = cubelet_error_source(pkt);
	__u64 length;
	__u32 sum;
	struct {
		struct ipv6hdr ip;
		struct icmp6hdr icmp;
	} out;

	if (cubelet_error_quote(skb, s, &length))
		return -1;
	cubelet_error_ip(&out.ip, pkt, &from, IPPROTO_ICMPV6, sizeof(out.icmp) + length);
	__builtin_memset(&out.icmp, 0, sizeof(out.icmp));
	cubelet_error_said(&out.icmp, pkt);
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.icmp, sizeof(out.icmp),
			    cubelet_error_pseudo(&out.ip));
	sum = bpf_csum_diff(0, 0, (__be32 *)s->quote, CUBELET_QUOTE, sum);
	out.icmp.icmp6_cksum = ~cubelet_csum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(out) + length, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(out), s->quote, length, 0);
}
