/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Rewriting: what a flow does to each of its packets, worked out once when the
 * flow is made (cubelet_rewrite_prepare) and applied in one go
 * (cubelet_rewrite). Checksums are updated incrementally (RFC 1624).
 *
 * The transport checksum goes through bpf_l4_csum_replace because the checksum
 * field of a packet that has never left the machine (CHECKSUM_PARTIAL) holds
 * only the pseudo-header's sum: the kernel knows, we cannot. IPv4's header has a
 * checksum of its own, which is always complete and is patched directly.
 */
#pragma once

#include "cubelet/flow.h"

/* One's complement sum of what `after` has and `before` has not (RFC 1624, equation 4). */
CUBELET_INLINE __u32 cubelet_csum_delta(const struct cubelet_addr *before,
					const struct cubelet_addr *after)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < CUBELET_ADDR_WORDS; i++)
		sum += (__u64)(__u32)~before->w[i] + after->w[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* The IP header's part: addresses, and one hop less to live where the flow is routed. */
CUBELET_INLINE __u16 cubelet_rewrite_l3_delta(const struct cubelet_flow *f)
{
#if CUBELET_FAMILY == 4
	__u16 delta = cubelet_csum_fold(f->l4_delta);

	if (f->flags & CUBELET_FLOW_ROUTED) /* TTL - 1 in the low byte of a little-endian word */
		delta = cubelet_csum_fold((__u32)delta + 0xfffe);
	return delta;
#else
	return 0;
#endif
}

/* Fills the deltas of a record whose packets arrive as `from` and leave as f->to. */
CUBELET_INLINE void cubelet_rewrite_prepare(struct cubelet_flow *f,
					    const struct cubelet_tuple *from)
{
	__u64 sum = (__u64)cubelet_csum_delta(&from->src, &f->to.src) +
		    cubelet_csum_delta(&from->dst, &f->to.dst);

	sum = (sum & 0xffffffff) + (sum >> 32);
	f->l4_delta = (sum & 0xffffffff) + (sum >> 32);
	f->port_delta = 0;
	if (from->sport != f->to.sport || from->dport != f->to.dport)
		f->port_delta =
			(__u16)~from->sport + f->to.sport + (__u16)~from->dport + f->to.dport;
	f->l3_delta = cubelet_rewrite_l3_delta(f);
	if (!cubelet_tuple_equal(from, &f->to))
		f->flags |= CUBELET_FLOW_TRANSLATED;
}

/* The deltas of a record's partner: the same translation the other way round. */
CUBELET_INLINE void cubelet_rewrite_invert(struct cubelet_flow *other, const struct cubelet_flow *f)
{
	other->l4_delta = ~f->l4_delta;
	other->port_delta = f->port_delta ? (__u16)~cubelet_csum_fold(f->port_delta) : 0;
	other->l3_delta = cubelet_rewrite_l3_delta(other);
}

/* Patches the transport checksum for changed addresses and ports. 0, or the helper's error. */
CUBELET_INLINE int cubelet_rewrite_l4(struct __sk_buff *skb, const struct cubelet_headers *h,
				      const struct cubelet_flow *f)
{
	__u32 at = h->l4 & CUBELET_L4_MASK;
	long failed = 0;

	if (h->tuple.protocol == IPPROTO_TCP) {
		at += __builtin_offsetof(struct tcphdr, check);
		failed = bpf_l4_csum_replace(skb, at, 0, f->l4_delta, CUBELET_PSEUDO);
		if (f->port_delta)
			failed |= bpf_l4_csum_replace(skb, at, 0, f->port_delta, 0);
	} else if (h->tuple.protocol == IPPROTO_UDP) {
		at += __builtin_offsetof(struct udphdr, check);
		failed = bpf_l4_csum_replace(skb, at, 0, f->l4_delta,
					     CUBELET_PSEUDO | BPF_F_MARK_MANGLED_0);
		if (f->port_delta)
			failed |= bpf_l4_csum_replace(skb, at, 0, f->port_delta,
						      BPF_F_MARK_MANGLED_0);
	} else if (h->tuple.protocol == CUBELET_ICMP) {
		at += __builtin_offsetof(struct icmphdr, checksum);
#if CUBELET_FAMILY == 6 /* which has a pseudo-header, too (RFC 4443 2.3) */
		failed = bpf_l4_csum_replace(skb, at, 0, f->l4_delta, CUBELET_PSEUDO);
#endif
		failed |= bpf_l4_csum_replace(skb, at, 0, f->port_delta, 0);
	}
	return failed;
}

/* The ports, or ICMP's identifier. `l4` has 8 bytes at least. */
CUBELET_INLINE void cubelet_rewrite_ports(void *l4, const struct cubelet_flow *f)
{
	if (f->to.protocol == IPPROTO_TCP || f->to.protocol == IPPROTO_UDP ||
	    f->to.protocol == IPPROTO_SCTP) {
		((struct udphdr *)l4)->source = f->to.sport;
		((struct udphdr *)l4)->dest = f->to.dport;
	} else if (f->to.protocol == CUBELET_ICMP) {
		struct icmphdr *icmp = l4;

		if (icmp->type == CUBELET_ICMP_ECHO)
			icmp->un.echo.id = f->to.sport;
		else if (icmp->type == CUBELET_ICMP_ECHO_REPLY)
			icmp->un.echo.id = f->to.dport;
	}
}

/* The IP header: addresses where they change, one hop less where the flow is routed. */
#if CUBELET_FAMILY == 4
CUBELET_INLINE void cubelet_rewrite_ip(struct iphdr *ip, const struct cubelet_flow *f,
				       int translated)
{
	ip->check = ~cubelet_csum_fold((__u16)~ip->check + (__u32)f->l3_delta);
	if (f->flags & CUBELET_FLOW_ROUTED)
		ip->ttl--;
	if (!translated)
		return;
	ip->saddr = f->to.src.w[0];
	ip->daddr = f->to.dst.w[0];
}
#else
CUBELET_INLINE void cubelet_rewrite_ip(struct ipv6hdr *ip, const struct cubelet_flow *f,
				       int translated)
{
	if (f->flags & CUBELET_FLOW_ROUTED)
		ip->hop_limit--;
	if (!translated)
		return;
	__builtin_memcpy(&ip->saddr, &f->to.src, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &f->to.dst, sizeof(ip->daddr));
}
#endif

/* Makes the packet what its flow says. Returns 0, or -1 if a helper refused. */
CUBELET_INLINE int cubelet_rewrite(struct __sk_buff *skb, const struct cubelet_headers *h,
				   const struct cubelet_flow *f)
{
	void *data, *end, *l4;
	const __u32 *macs;
	int translated = f->flags & CUBELET_FLOW_TRANSLATED;
	int has_l4 = translated && h->fragment != CUBELET_LATER;

	if (has_l4 && cubelet_rewrite_l4(skb, h, f))
		return -1;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + ETH_HLEN + CUBELET_IP_BYTES > end)
		return -1;
	/* both MACs in three words: byte arrays would be copied byte by byte */
	macs = (const __u32 *)f->leaves.dst_mac;
	((__u32 *)data)[0] = macs[0];
	((__u32 *)data)[1] = macs[1];
	((__u32 *)data)[2] = macs[2];
	cubelet_rewrite_ip(data + ETH_HLEN, f, translated);
	if (!translated)
		return 0;
	l4 = data + (h->l4 & CUBELET_L4_MASK);
	if (has_l4 && l4 + 8 <= end)
		cubelet_rewrite_ports(l4, f);
	return 0;
}
