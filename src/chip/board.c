/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/board.h"

#include <stddef.h>

const struct board_device board_devices[] = {
#define DEVICE(name, optional) { #name, name##_create, optional },
#include "chip/devices.def"
#undef DEVICE
	{ NULL, NULL, false },
};
