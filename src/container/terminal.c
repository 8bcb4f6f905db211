/* SPDX-License-Identifier: Apache-2.0 */
/* terminal.c - a pseudoterminal of the container's own. See pty(7) and ioctl_tty(2). */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/child.h"
#include "container/mount.h"
#include "container/path.h"

/* Shows the terminal as /dev/console, as config-linux.md, "Default Devices", asks. */
static int bind_console(int root, int slave, struct error *err)
{
	int place = path_make(root, "/dev/console", false, err);
	int fd = open_tree(slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	int rc = fd < 0 ? -errno : place < 0 ? -ENOENT : mount_attach(fd, place);

	if (rc)
		error_errno(err, rc, "can't mount the terminal on /dev/console");
	if (fd >= 0)
		close(fd);
	if (place >= 0)
		close(place);
	return rc;
}

static void set_size(int master, const struct oci_process *process)
{
	const struct winsize size = { .ws_row = (unsigned short)process->height.value,
				      .ws_col = (unsigned short)process->width.value };

	if (size.ws_row && size.ws_col)
		ioctl(master, TIOCSWINSZ, &size);
}

/* The other end by the descriptor, not by a name of /dev/pts that could be anything. */
static int open_slave(int master, struct error *err)
{
	int unlock = 0;
	int fd = ioctl(master, TIOCSPTLCK, &unlock) ? -1 : ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);

	return fd < 0 ? error_errno(err, -errno, "can't open the terminal") : fd;
}

int terminal_open(const struct child *c, int root, struct error *err)
{
	int master = path_open_as(root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, 0);

	if (master < 0)
		return error_errno(err, master,
				   "process.terminal: can't open /dev/pts/ptmx, which a devpts mount brings");
	int slave = open_slave(master, err), rc = slave < 0 ? slave : 0;

	if (!rc && fchown(slave, c->process->user.uid, (gid_t)-1) && errno != EINVAL && errno != EPERM)
		rc = error_errno(err, -errno, "process.terminal: can't give the terminal to its user");
	if (!rc && c->init < 0)
		rc = bind_console(root, slave, err);
	set_size(master, c->process);
	if (!rc) {
		rc = sync_pass(c->console, master, "/dev/ptmx", 9);
		if (rc)
			error_errno(err, rc, "--console-socket: can't send the terminal");
	}
	if (!rc && ioctl(slave, TIOCSCTTY, 0))
		rc = error_errno(err, -errno, "process.terminal: can't make it the controlling terminal");
	for (int fd = 0; fd <= 2 && !rc; fd++)
		if (dup2(slave, fd) < 0)
			rc = error_errno(err, -errno, "process.terminal");
	if (slave > 2)
		close(slave);
	close(master);
	return rc;
}
