/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What differs between the families, by one name for both: a source that is compiled for
 * each of them uses these.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/icmp.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#if CUBELET_FAMILY == 4

#define CUBELET_ADDR_WORDS 1
#define CUBELET_AF 2 /* AF_INET */
#define CUBELET_ETHERTYPE ETH_P_IP
#define CUBELET_IP_BYTES sizeof(struct iphdr) /* without options */
#define CUBELET_MTU_MIN 68 /* RFC 791 */
#define CUBELET_ICMP IPPROTO_ICMP
#define CUBELET_ICMP_ECHO ICMP_ECHO
#define CUBELET_ICMP_ECHO_REPLY ICMP_ECHOREPLY
#define CUBELET_PULL 128 /* bytes that hold every header we read */
#define CUBELET_L4_MASK 127 /* bounds an offset for the verifier; 14 + 60 at most */
#define CUBELET_PSEUDO BPF_F_PSEUDO_HDR

#else

#include <linux/icmpv6.h>
#include <linux/in6.h>
#include <linux/ipv6.h>

#define CUBELET_ADDR_WORDS 4
#define CUBELET_AF 10 /* AF_INET6 */
#define CUBELET_ETHERTYPE ETH_P_IPV6
#define CUBELET_IP_BYTES sizeof(struct ipv6hdr)
#define CUBELET_MTU_MIN 1280 /* RFC 8200 5 */
#define CUBELET_ICMP IPPROTO_ICMPV6
#define CUBELET_ICMP_ECHO ICMPV6_ECHO_REQUEST
#define CUBELET_ICMP_ECHO_REPLY ICMPV6_ECHO_REPLY
#define CUBELET_PULL 256
#define CUBELET_L4_MASK 255 /* 14 + 40 + CUBELET_EXTENSION_BYTES at most */

/*
 * No IP checksum makes up for changed addresses in the sum that a NIC has taken of the whole
 * packet (CHECKSUM_COMPLETE): Linux 6.16 can be told so, by BPF_F_IPV6.
 */
#if CUBELET_KERNEL < (6 << 8 | 16)
#define CUBELET_PSEUDO BPF_F_PSEUDO_HDR
#else
#define CUBELET_PSEUDO (BPF_F_PSEUDO_HDR | 1ULL << 7)
#endif

#endif
