/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For <linux/if.h>, which <linux/icmp.h> includes and which takes this from the C library. */
#ifndef CUBELET_SYS_SOCKET_H
#define CUBELET_SYS_SOCKET_H

struct sockaddr {
	unsigned short sa_family;
	char sa_data[14];
};

#endif
