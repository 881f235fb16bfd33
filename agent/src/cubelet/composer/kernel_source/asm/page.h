/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Empty: BCC includes it; all it uses is PAGE_SIZE, which <linux/kconfig.h> defines. */
