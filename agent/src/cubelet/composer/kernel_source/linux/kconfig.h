/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * BCC includes this file before everything else. It stands for a kernel's configuration and for
 * what BCC's headers take from the kernel's internal <linux/types.h>, which UAPI headers leave out.
 */
#ifndef CUBELET_KCONFIG_H
#define CUBELET_KCONFIG_H

#define CONFIG_BPF 1
#define CONFIG_BPF_SYSCALL 1

#include <linux/types.h>

typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef _Bool bool;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;

enum { false, true };

#define NULL ((void *)0)
#define PAGE_SIZE 4096

/* <linux/stddef.h> defines it without the attribute in some versions; BPF needs all inlined. */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))

#endif
