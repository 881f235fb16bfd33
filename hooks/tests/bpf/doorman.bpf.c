/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* doorman: turns away what comes from one network, and what asks for one UDP port. For tests. */
#include "cubelet.h"

static __always_inline __u16 doorman_early(const struct cubelet_early *e)
{
	struct cubelet_addr unwanted = { { bpf_htonl(DOORMAN_UNWANTED) } };

	if (cubelet_addr_within(&e->src, &unwanted, 24))
		return DOORMAN_REASON_UNWANTED;
	if (e->protocol == IPPROTO_UDP && e->dport == bpf_htons(DOORMAN_PORT))
		return DOORMAN_REASON_CLOSED;
	return 0;
}
