/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Errors of our own: ICMP (RFC 792, RFC 1812 4.3.2) and TCP resets (RFC 9293
 * 3.5.2). They quote the packet as its sender sent it, go straight back to where
 * it came from, and have a budget per port of origin: whoever uses up their own
 * silences nobody else.
 */
#pragma once

#include "commit.h"

/* What an error is about: never an error, a later fragment, or a group (RFC 1122 3.2.2). */
CUBELET_INLINE int cubelet_error_allowed(const struct cubelet_pkt *pkt)
{
	const struct cubelet_headers *h = &pkt->hdr;
	__u8 first = h->tuple.dst.w[0] & 0xff, source = h->tuple.src.w[0] & 0xff;

	if (h->icmp_error || h->fragment == CUBELET_LATER || first >= 224)
		return 0;
	if (source >= 224 || (source == 127 && first != 127) || !source)
		return 0;
	return pkt->error_type || !(h->tcp_flags & CUBELET_TCP_RST);
}

/* One of `limit` in a second. CPUs share the bucket, and may overdraw it by one each. */
CUBELET_INLINE int cubelet_bucket_take(struct cubelet_bucket *bucket, __u32 limit)
{
	__u32 now = bpf_jiffies64();

	if (now - bucket->since >= CUBELET_HZ) {
		bucket->since = now;
		bucket->used = 0;
	}
	if (bucket->used >= limit)
		return 0;
	__sync_fetch_and_add(&bucket->used, 1);
	return 1;
}

/*
 * Is there an error left for the port that the packet entered by? A pod has a budget of its
 * own, the host, the overlay and the uplink one each. Without those that tell the path's MTU
 * connections hang, so no refusal uses these up; nor do all ports together the node's CPUs.
 */
CUBELET_INLINE int cubelet_error_within_rate(const struct cubelet_pkt *pkt)
{
	struct cubelet_bucket fresh = {}, *bucket;
	struct cubelet_error_origin origin = {};
	struct cubelet_index kind = {};
	__u32 limit = CUBELET_ERRORS_PER_SECOND;

	if (pkt->error_type == ICMP_DEST_UNREACH && pkt->error_code == ICMP_FRAG_NEEDED) {
		limit = CUBELET_PATH_MTU_ERRORS_PER_SECOND;
		kind.index = 1;
	}
	origin.ifindex = pkt->ifindex;
	origin.path_mtu = kind.index;
	bucket = cubelet_lookup(cubelet_error_rates, &origin);
	if (!bucket) {
		cubelet_update(cubelet_error_rates, &origin, &fresh, BPF_NOEXIST);
		bucket = cubelet_lookup(cubelet_error_rates, &origin);
	}
	if (!bucket || !cubelet_bucket_take(bucket, limit))
		return 0;
	bucket = cubelet_lookup(cubelet_error_ceilings, &kind);
	return bucket && cubelet_bucket_take(bucket, CUBELET_NODE_ERRORS_PER_SECOND);
}

/* IP header without options from `from` to the packet's sender. */
CUBELET_INLINE void cubelet_error_ip(struct iphdr *ip, const struct cubelet_pkt *pkt,
				     const struct cubelet_addr *from, __u8 protocol, __u16 total)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(total);
	ip->frag_off = bpf_htons(CUBELET_IP_DF);
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->saddr = from->w[0];
	ip->daddr = pkt->hdr.tuple.src.w[0];
	ip->check = ~cubelet_csum_fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

CUBELET_INLINE int cubelet_error_swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12], swapped[12];

	if (bpf_skb_load_bytes(skb, 0, macs, 12))
		return -1;
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);
	if (swapped[6] & 1) /* the sender addressed a group: answer as the router */
		__builtin_memcpy(swapped + 6, (__u8[6])CUBELET_ROUTER_MAC, 6);
	return bpf_skb_store_bytes(skb, 0, swapped, 12, 0);
}

CUBELET_INLINE int cubelet_error_reset(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	const struct cubelet_tuple *t = &pkt->hdr.tuple;
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} out;
	struct tcphdr tcp, *reset = &out.tcp;
	__u32 payload, sum;

	if (bpf_skb_load_bytes(skb, pkt->hdr.l4, &tcp, sizeof(tcp)))
		return -1;
	payload = pkt->hdr.size - (pkt->hdr.l4 - ETH_HLEN) - tcp.doff * 4;
	cubelet_error_ip(&out.ip, pkt, &t->dst, IPPROTO_TCP, sizeof(out));
	__builtin_memset(reset, 0, sizeof(*reset));
	reset->source = t->dport;
	reset->dest = t->sport;
	reset->doff = 5;
	reset->rst = 1;
	if (tcp.ack) {
		reset->seq = tcp.ack_seq;
	} else {
		reset->ack = 1;
		reset->ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + payload + tcp.syn + tcp.fin);
	}
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.ip.saddr, 8,
			    bpf_htons(sizeof(*reset)) + bpf_htons(IPPROTO_TCP));
	sum = bpf_csum_diff(0, 0, (__be32 *)reset, sizeof(*reset), sum);
	reset->check = ~cubelet_csum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(out), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0);
}

/* Who speaks: the refused destination itself, or the router where the packet entered. */
CUBELET_INLINE struct cubelet_addr cubelet_error_source(const struct cubelet_pkt *pkt)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS;

	if (pkt->error_type == ICMP_DEST_UNREACH && pkt->error_code == ICMP_PORT_UNREACH)
		return pkt->hdr.tuple.dst;
	return pkt->entered == CUBELET_UPLINK ? cubelet_uplink_address(pkt->ifindex) : gateway;
}

CUBELET_INLINE int cubelet_error_icmp(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_addr from = cubelet_error_source(pkt);
	__u32 length = skb->len - ETH_HLEN, sum;
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} out;

	if (length > pkt->hdr.size) /* without the frame's padding */
		length = pkt->hdr.size;
	if (length >= CUBELET_QUOTE)
		length = CUBELET_QUOTE - 1;
	/* the same bound once more, where the compiler cannot drop it and the verifier sees it */
	asm volatile("%0 &= 511" : "+r"(length));
	if (length < sizeof(struct iphdr))
		return -1;
	__builtin_memset(s->quote, 0, sizeof(s->quote));
	if (bpf_skb_load_bytes(skb, ETH_HLEN, s->quote, length))
		return -1;
	cubelet_error_ip(&out.ip, pkt, &from, IPPROTO_ICMP, sizeof(out) + length);
	__builtin_memset(&out.icmp, 0, sizeof(out.icmp));
	out.icmp.type = pkt->error_type;
	out.icmp.code = pkt->error_code;
	out.icmp.un.frag.mtu = bpf_htons(pkt->error_mtu);
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.icmp, sizeof(out.icmp), 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)s->quote, CUBELET_QUOTE, sum);
	out.icmp.checksum = ~cubelet_csum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(out) + length, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(out), s->quote, length, 0);
}

/* The program behind CUBELET_JUMP_ERROR: drops the packet and tells its sender. */
CUBELET_INLINE int cubelet_send_error(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	int failed;

	if (!s)
		return TC_ACT_SHOT;
	cubelet_dropped(skb, &s->pkt, s->pkt.reason);
	if (!cubelet_error_allowed(&s->pkt))
		return TC_ACT_SHOT;
	if (!cubelet_error_within_rate(&s->pkt))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_RATE_LIMITED);
	failed = s->pkt.error_type ? cubelet_error_icmp(skb, s) : cubelet_error_reset(skb, &s->pkt);
	if (failed || cubelet_error_swap_macs(skb))
		return TC_ACT_SHOT;
	return cubelet_send_back(skb, &s->pkt);
}
