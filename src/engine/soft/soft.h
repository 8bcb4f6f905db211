/* SPDX-License-Identifier: Apache-2.0 */
/* soft.h - the soft engine: full virtualization by same-ISA binary translation, in an ordinary process. */
#ifndef PLURES_ENGINE_SOFT_SOFT_H
#define PLURES_ENGINE_SOFT_SOFT_H

#include "engine/engine.h"

extern const struct engine_ops engine_soft;

#endif
