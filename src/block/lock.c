/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's scheme (docs/devel or block/file-posix.c there): byte USES + n is locked, shared, by who does n; byte DENIES + n by who wants
 * nobody else to do n. So who wants to do n looks whether anyone holds DENIES + n, and who denies n looks at USES + n. All lock
 * first and look afterwards: of two that come at once, one or both see the other.
 */
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { USES = 100, DENIES = 200 };
enum { READ = 0, WRITE = 1, RESIZE = 3 };

static int take(int fd, unsigned byte)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* -EAGAIN when another has it. */
static int look(int fd, unsigned byte)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		return -errno;
	return lock.l_type == F_UNLCK ? 0 : -EAGAIN;
}

int lock_file(int fd, bool readonly, struct error *err)
{
	static const unsigned reader[] = { USES + READ, DENIES + WRITE, DENIES + RESIZE };
	static const unsigned writer[] = { USES + WRITE, USES + RESIZE };
	static const unsigned reader_looks[] = { DENIES + READ, USES + WRITE, USES + RESIZE };
	static const unsigned writer_looks[] = { DENIES + WRITE, DENIES + RESIZE };
	int rc = 0;

	for (unsigned i = 0; !rc && i < 3; i++)
		rc = take(fd, reader[i]);
	for (unsigned i = 0; !rc && i < 2 && !readonly; i++)
		rc = take(fd, writer[i]);
	for (unsigned i = 0; !rc && i < 3; i++)
		rc = look(fd, reader_looks[i]);
	for (unsigned i = 0; !rc && i < 2 && !readonly; i++)
		rc = look(fd, writer_looks[i]);
	if (rc == -EAGAIN || rc == -EACCES)
		return error_set(err, -EAGAIN, "another program uses it: stop that one, %s",
				 readonly ? "or have all of them use it read-only"
					  : "or use it read-only (readonly) in all of them");
	return rc ? error_errno(err, rc, "can't lock it") : 0;
}
