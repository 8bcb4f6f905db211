/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlay.h - a container's root that is read but never written: changes go into an upper layer (overlayfs, in the kernel's
 * Documentation/filesystems/overlayfs.rst).
 *
 * Everything is mounted in the container's own mount namespace and, where there is one, its user namespace, so that it is gone with
 * the last process, however that ended. In memory the upper layer is a tmpfs; in a folder of the host's it stays there.
 */
#ifndef PLURES_CONTAINER_OVERLAY_H
#define PLURES_CONTAINER_OVERLAY_H

#include "container/child.h"

/* Puts an overlay on the root, which is attached already; new_root is then the overlay. Where the kernel refuses one, the root
 * becomes read-only and a line says so. */
int overlay_mount(struct child *child, struct error *err);

#endif
