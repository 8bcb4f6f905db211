/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtiofsd.h - the program that serves a folder of the host's to a guest over vhost-user: Debian's, which is a package of
 * QEMU's. It is started for one machine and ends with it, whichever way that ends.
 *
 * It shuts itself in: the folder is the root of what it sees, and it has processes and networks to itself. That takes rights
 * which the superuser has; for others it gets them within a user namespace, where all files are the user's own.
 *
 * Threads: one at a time; the one that starts it must live as long as it should.
 */
#ifndef PLURES_VIRTIO_VIRTIOFSD_H
#define PLURES_VIRTIO_VIRTIOFSD_H

#include <stdbool.h>

#include "base/error.h"

struct virtiofsd;

/* Starts one for `folder`, an absolute path; *fd is a connection to it, the caller's. */
int virtiofsd_start(struct virtiofsd **daemon, const char *folder, bool readonly, int *fd, struct error *err);
/* Ends it, and puts what it complained of behind what stands in err, unless that is NULL. NULL is nothing. */
void virtiofsd_stop(struct virtiofsd *daemon, struct error *err);

#endif
