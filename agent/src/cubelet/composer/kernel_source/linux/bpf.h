/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* BCC's own copy, so that the helpers it declares and the types they take agree. */
#include "/virtual/include/bcc/bpf.h"
