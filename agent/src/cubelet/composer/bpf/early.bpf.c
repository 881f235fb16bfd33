/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the uplink's driver runs on every frame it receives: see early.h. */
int cubelet_early(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct cubelet_early e;
	__u8 stage = 0;
	__u16 reason;

	if (!cubelet_early_parse(data, end, end - data, &e))
		return XDP_PASS;
	reason = cubelet_early_judge(&e, &stage);
	if (!reason)
		return XDP_PASS;
	cubelet_early_dropped(&e, ctx->ingress_ifindex, reason, stage);
	return XDP_DROP;
}
