/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Includes what a network program may include, and uses what BCC expects of a kernel source. */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_vlan.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <uapi/linux/bpf.h>
#include <uapi/linux/ip.h>

static __always_inline bool is_ipv4(struct __sk_buff *skb)
{
	return skb->protocol == __builtin_bswap16(ETH_P_IP);
}

int entry(struct __sk_buff *skb)
{
	u64 *none = NULL;
	return is_ipv4(skb) && none == NULL ? TC_ACT_OK : TC_ACT_SHOT;
}
