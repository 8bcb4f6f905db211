/* SPDX-License-Identifier: Apache-2.0 */
/* kvm.h - the kvm engine: the Linux kernel runs the guest on the host's CPU. docs/design/kvm.md. */
#ifndef PLURES_ENGINE_KVM_KVM_H
#define PLURES_ENGINE_KVM_KVM_H

#include "engine/engine.h"

extern const struct engine_ops engine_kvm;

#endif
