/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h - keeps two machines from using one image. Locks lie on bytes of the file, belong to its open descriptor (fcntl(2), "Open
 * file description locks"), and end with it, however the process ends. The bytes are those that QEMU and its tools use, so each
 * sees the other's machines.
 */
#ifndef PLURES_BLOCK_LOCK_H
#define PLURES_BLOCK_LOCK_H

#include <stdbool.h>

#include "base/error.h"

/* For one user, or for several when all are `readonly`. -EAGAIN when someone else's lock is in the way, another -errno where
 * files can't be locked. */
int lock_file(int fd, bool readonly, struct error *err);

#endif
