/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All that a cube includes. */
#pragma once

#include "cubelet/base.h"
#include "cubelet/packet.h"
#include "cubelet/early.h"
#include "cubelet/epoch.h"
#include "cubelet/socket.h"
#include "cubelet/verdict.h"
