/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is under test when the test itself is measured. */
#include "cubelet.h"

int bench_nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}
