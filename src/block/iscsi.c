/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iscsi.c - logical units of iSCSI targets, through libiscsi: iscsi://[USER%PASSWORD@]HOST[:PORT]/TARGET/LUN. Below remote.h.
 *
 * libiscsi could connect again by itself, but without a time limit and without telling anyone, so that is off. It calls back within
 * iscsi_service, where starting tasks is allowed, and from iscsi_destroy_context for all that is left.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "base/memory.h"
#include "block/remote.h"
#include "host/library.h"
#include "host/timer.h"

#define CONNECT_NS UINT64_C(10000000000)

enum {
	MOST_DATA = 4 << 20,
	MOST_ZEROES = 32 << 20,
	RETRIES = 8,
	INVALID_OPCODE = 0x2000,
	INVALID_FIELD = 0x2400,
	NO_SPACE = 0x2707
};

/* What is used of libiscsi, which is loaded by the first such disk. */
/* clang-format off */
#define ISCSI(F) \
	F(iscsi_create_context) F(iscsi_destroy_context) F(iscsi_destroy_url) F(iscsi_full_connect_async) \
	F(iscsi_get_error) F(iscsi_get_fd) F(iscsi_inquiry_task) F(iscsi_modesense6_task) \
	F(iscsi_parse_full_url) F(iscsi_read16_iov_task) F(iscsi_readcapacity16_task) F(iscsi_service) \
	F(iscsi_set_header_digest) F(iscsi_set_initiator_username_pwd) F(iscsi_set_noautoreconnect) \
	F(iscsi_set_session_type) F(iscsi_set_targetname) F(iscsi_synchronizecache16_task) \
	F(iscsi_unmap_task) F(iscsi_which_events) F(iscsi_write16_iov_task) F(iscsi_writesame16_task) \
	F(scsi_datain_unmarshall) F(scsi_free_scsi_task)
/* clang-format on */
struct iscsi_library {
	ISCSI(LIBRARY_POINTER)
};
static const char *const iscsi_names[] = { ISCSI(LIBRARY_NAME) };

struct session {
	struct iscsi_library lib;
	struct iscsi_context *iscsi;
	int lun;
	uint32_t block_length;
	uint8_t *zeros; /* a block */
	bool connected, dead;
	bool unmap_zeroes; /* WRITE SAME may give space back */

	/* The answer that connecting waits for. */
	bool asking, answered;
	int status;
	struct scsi_task *answer;
};

/* A SCSI command on its way. */
struct command {
	struct session *session;
	struct remote_io *io;
	struct scsi_iovec iov; /* libiscsi keeps a pointer to it */
	struct unmap_list unmap;
	unsigned retries;
};

/* ---- commands one at a time, while connecting ---- */

/* Also called a second time for a connection: when it breaks. */
static void on_connected(struct iscsi_context *iscsi, int status, void *data, void *arg)
{
	struct session *session = arg;
	(void)iscsi;
	(void)data;
	if (status == SCSI_STATUS_GOOD && !session->connected)
		session->connected = true;
	else
		session->dead = true;
}

static void on_answer(struct iscsi_context *iscsi, int status, void *data, void *arg)
{
	struct session *session = arg;
	(void)iscsi;
	session->status = status;
	session->answered = true;
	if (session->asking)
		session->answer = data;
	else
		session->lib.scsi_free_scsi_task(data); /* it comes too late: the session is being destroyed */
}

static int iscsi_failed(struct session *session, struct error *err, const char *doing)
{
	const char *why = session->lib.iscsi_get_error(session->iscsi);
	int length = why ? (int)strcspn(why, "\n") : 0;
	/* What it says when there was no connection to begin with is about itself. */
	if (!length || strstr(why, "reconnect_if_loggedin"))
		return error_set(err, -ECONNREFUSED, "%s: nobody answers there", doing);
	return error_set(err, -ECONNREFUSED, "%s: %.*s", doing, length, why);
}

/* Serves the connection until *done. */
static int turn_until(struct session *session, const bool *done, int cancel, uint64_t deadline, const char *doing,
		      struct error *err)
{
	while (!*done) {
		int events = session->lib.iscsi_which_events(session->iscsi);
		int ready = remote_wait(session->lib.iscsi_get_fd(session->iscsi), (short)events, cancel, deadline);
		if (ready < 0)
			return error_set(err, ready, "%s: the target does not answer", doing);
		if (session->lib.iscsi_service(session->iscsi, ready) < 0 || session->dead)
			return iscsi_failed(session, err, doing);
	}
	return 0;
}

/* Waits for what a command of on_answer's answers: session->answer, to be freed; NULL if the target did not like it. */
static int ask(struct session *session, const struct scsi_task *task, int cancel, uint64_t deadline, struct error *err)
{
	if (!task)
		return iscsi_failed(session, err, "can't ask the target");
	session->asking = true;
	session->answered = false;
	int rc = turn_until(session, &session->answered, cancel, deadline, "can't ask the target", err);
	session->asking = false;
	if (!rc && session->status == SCSI_STATUS_GOOD)
		return 0;
	if (session->answered)
		session->lib.scsi_free_scsi_task(session->answer);
	session->answer = NULL;
	return rc;
}

static int read_capacity(struct session *session, struct remote_disk *disk, int cancel, uint64_t deadline,
			 struct error *err)
{
	for (unsigned i = 0; i < RETRIES; i++) {
		struct scsi_task *task =
		    session->lib.iscsi_readcapacity16_task(session->iscsi, session->lun, on_answer, session);
		int rc = ask(session, task, cancel, deadline, err);
		if (rc)
			return rc;
		/* The first command may be answered by what has happened to the unit before. */
		if (!session->answer)
			continue;
		const struct scsi_readcapacity16 *capacity = session->lib.scsi_datain_unmarshall(session->answer);
		if (capacity) {
			session->block_length = capacity->block_length;
			disk->discards = capacity->lbpme;
			if (capacity->block_length && capacity->returned_lba < INT64_MAX / capacity->block_length)
				disk->size = (capacity->returned_lba + 1) * capacity->block_length;
		}
		session->lib.scsi_free_scsi_task(session->answer);
		break;
	}
	if (!disk->size)
		return error_set(err, -EIO, "the logical unit does not tell its size");
	if (session->block_length != 512 && session->block_length != 4096)
		return error_set(err, -ENOTSUP, "its blocks have %u bytes; 512 and 4096 are supported",
				 session->block_length);
	disk->alignment = session->block_length;
	return 0;
}

/* Logical Block Provisioning: whether WRITE SAME may unmap. A target that doesn't say so can't. */
static int look_at_provisioning(struct session *session, int cancel, uint64_t deadline, struct error *err)
{
	struct scsi_task *task = session->lib.iscsi_inquiry_task(
	    session->iscsi, session->lun, 1, SCSI_INQUIRY_PAGECODE_LOGICAL_BLOCK_PROVISIONING, 255, on_answer, session);
	int rc = ask(session, task, cancel, deadline, err);
	if (rc || !session->answer)
		return rc;
	const struct scsi_inquiry_logical_block_provisioning *page =
	    session->lib.scsi_datain_unmarshall(session->answer);
	session->unmap_zeroes = page && page->lbpws && page->lbprz;
	session->lib.scsi_free_scsi_task(session->answer);
	return 0;
}

static int look_at_protection(struct session *session, struct remote_disk *disk, int cancel, uint64_t deadline,
			      struct error *err)
{
	enum { ALL_PAGES = 0x3f, WRITE_PROTECTED = 0x80 };
	struct scsi_task *task = session->lib.iscsi_modesense6_task(
	    session->iscsi, session->lun, 1, SCSI_MODESENSE_PC_CURRENT, ALL_PAGES, 0, 255, on_answer, session);
	int rc = ask(session, task, cancel, deadline, err);
	if (rc || !session->answer)
		return rc;
	disk->readonly = session->answer->datain.size > 2 && session->answer->datain.data[2] & WRITE_PROTECTED;
	session->lib.scsi_free_scsi_task(session->answer);
	return 0;
}

/* ---- connecting ---- */

static void session_destroy(void *handle)
{
	struct session *session = handle;
	if (session->iscsi)
		session->lib.iscsi_destroy_context(session->iscsi);
	free(session->zeros);
	free(session);
}

static int log_in(struct session *session, const char *where, int cancel, uint64_t deadline, struct error *err)
{
	struct iscsi_url *url = session->lib.iscsi_parse_full_url(session->iscsi, where);
	if (!url)
		return error_set(err, -EINVAL, "write iscsi://[USER%%PASSWORD@]HOST[:PORT]/TARGET/LUN");
	session->lun = url->lun;
	session->lib.iscsi_set_targetname(session->iscsi, url->target);
	session->lib.iscsi_set_session_type(session->iscsi, ISCSI_SESSION_NORMAL);
	session->lib.iscsi_set_header_digest(session->iscsi, ISCSI_HEADER_DIGEST_NONE_CRC32C);
	session->lib.iscsi_set_noautoreconnect(session->iscsi, 1);
	if (url->user[0])
		session->lib.iscsi_set_initiator_username_pwd(session->iscsi, url->user, url->passwd);
	int rc = 0;
	if (session->lib.iscsi_full_connect_async(session->iscsi, url->portal, url->lun, on_connected, session))
		rc = iscsi_failed(session, err, "can't connect");
	session->lib.iscsi_destroy_url(url);
	return rc ? rc : turn_until(session, &session->connected, cancel, deadline, "can't connect", err);
}

static int session_open(struct session *session, const char *where, int cancel, struct remote_disk *disk,
			struct error *err)
{
	int rc = library_load(LIBRARY_ISCSI, iscsi_names, LIBRARY_COUNT(iscsi_names), &session->lib, err);
	if (rc)
		return rc;
	uint64_t deadline = host_now() + CONNECT_NS;
	char name[128] = "iqn.2026-01.plures:";
	/* A name of its own for each host, which targets may let in by name. */
	gethostname(name + strlen(name), sizeof(name) - strlen(name) - 1);
	session->iscsi = session->lib.iscsi_create_context(name);
	if (!session->iscsi)
		return error_set(err, -ENOMEM, "no memory for an iSCSI session");
	rc = log_in(session, where, cancel, deadline, err);
	if (!rc)
		rc = read_capacity(session, disk, cancel, deadline, err);
	if (!rc)
		rc = look_at_provisioning(session, cancel, deadline, err);
	if (!rc)
		rc = look_at_protection(session, disk, cancel, deadline, err);
	if (rc)
		return rc;
	session->zeros = memory_zalloc(session->block_length);
	disk->flushes = disk->zeroes = true;
	disk->most_data = MOST_DATA;
	disk->most_zeroes = MOST_ZEROES;
	return 0;
}

static int iscsi_connect_disk(const char *where, bool readonly, int cancel, void **handle, struct remote_disk *disk,
			      struct error *err)
{
	struct session *session = memory_zalloc(sizeof(*session));
	(void)readonly;
	*disk = (struct remote_disk){ .size = 0 };
	int rc = session_open(session, where, cancel, disk, err);
	if (rc)
		session_destroy(session);
	else
		*handle = session;
	return rc;
}

/* ---- connected ---- */

static int session_fd(void *handle)
{
	const struct session *session = handle;
	return session->lib.iscsi_get_fd(session->iscsi);
}

static uint32_t session_events(void *handle)
{
	const struct session *session = handle;
	int events = session->lib.iscsi_which_events(session->iscsi);
	return (events & POLLIN ? EPOLLIN : 0u) | (events & POLLOUT ? EPOLLOUT : 0u);
}

static bool session_alive(void *handle)
{
	return !((struct session *)handle)->dead;
}

/* libiscsi, told not to connect again, does not tell that a connection has ended on which nothing is under way. */
static bool has_ended(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static void session_service(void *handle, uint32_t ready)
{
	struct session *session = handle;
	int events = (ready & EPOLLIN ? POLLIN : 0) | (ready & EPOLLOUT ? POLLOUT : 0);
	if (ready & (EPOLLIN | EPOLLHUP | EPOLLERR) && has_ended(session->lib.iscsi_get_fd(session->iscsi)))
		session->dead = true;
	else if (session->lib.iscsi_service(session->iscsi, events) < 0)
		session->dead = true;
}

static int command_go(struct command *command);

/* -errno for an answer that is not good; 1: the same again may do better. */
static int judge(struct command *command, int status, const struct scsi_task *task)
{
	if (status == SCSI_STATUS_BUSY || status == SCSI_STATUS_TASK_SET_FULL)
		return command->retries++ < RETRIES ? 1 : -EBUSY;
	if (status != SCSI_STATUS_CHECK_CONDITION) {
		command->session->dead = true;
		return -EIO;
	}
	if (task->sense.key == SCSI_SENSE_UNIT_ATTENTION && command->retries++ < RETRIES)
		return 1;
	if (task->sense.key == SCSI_SENSE_ILLEGAL_REQUEST &&
	    (task->sense.ascq == INVALID_OPCODE || task->sense.ascq == INVALID_FIELD))
		return -EOPNOTSUPP;
	if (task->sense.key == SCSI_SENSE_DATA_PROTECTION)
		return task->sense.ascq == NO_SPACE ? -ENOSPC : -EROFS;
	return -EIO;
}

static void on_command(struct iscsi_context *iscsi, int status, void *data, void *arg)
{
	struct command *command = arg;
	const struct session *session = command->session;
	struct scsi_task *task = data;
	(void)iscsi;
	int rc = status == SCSI_STATUS_GOOD ? 0 : judge(command, status, task);
	/* Too few bytes are none. */
	if (!rc && command->io->request->op == BLOCK_READ && task->residual_status == SCSI_RESIDUAL_UNDERFLOW)
		rc = -EIO;
	session->lib.scsi_free_scsi_task(task);
	if (rc > 0) {
		rc = command_go(command);
		if (!rc)
			return;
	}
	remote_done(command->io, rc);
	free(command);
}

static int command_go(struct command *command)
{
	struct session *session = command->session;
	struct iscsi_context *iscsi = session->iscsi;
	const struct remote_io *io = command->io;
	uint64_t lba = io->offset / session->block_length, blocks = io->size / session->block_length;
	uint32_t length = session->block_length, size = (uint32_t)io->size;
	struct scsi_task *task = NULL;
	command->iov = (struct scsi_iovec){ .iov_base = io->bytes, .iov_len = io->size };
	command->unmap = (struct unmap_list){ .lba = lba, .num = (uint32_t)blocks };
	switch (io->request->op) {
	case BLOCK_READ:
		task = session->lib.iscsi_read16_iov_task(iscsi, session->lun, lba, size, (int)length, 0, 0, 0, 0, 0,
							  on_command, command, &command->iov, 1);
		break;
	case BLOCK_WRITE:
		task = session->lib.iscsi_write16_iov_task(iscsi, session->lun, lba, NULL, size, (int)length, 0, 0, 0,
							   0, 0, on_command, command, &command->iov, 1);
		break;
	case BLOCK_FLUSH:
		task = session->lib.iscsi_synchronizecache16_task(iscsi, session->lun, 0, 0, 0, 0, on_command, command);
		break;
	case BLOCK_DISCARD:
		task =
		    session->lib.iscsi_unmap_task(iscsi, session->lun, 0, 0, &command->unmap, 1, on_command, command);
		break;
	case BLOCK_WRITE_ZEROES:
		task = session->lib.iscsi_writesame16_task(
		    iscsi, session->lun, lba, session->zeros, length, (uint32_t)blocks, 0,
		    io->request->unmap && session->unmap_zeroes, 0, 0, on_command, command);
		break;
	}
	return task ? 0 : -EIO;
}

static int session_start(void *handle, struct remote_io *io)
{
	struct command *command = memory_zalloc(sizeof(*command));
	command->session = handle;
	command->io = io;
	int rc = command_go(command);
	if (rc)
		free(command);
	return rc;
}

static const struct remote_ops iscsi_ops = {
	.block = REMOTE_BLOCK_OPS("iscsi"),
	.connect = iscsi_connect_disk,
	.disconnect = session_destroy,
	.fd = session_fd,
	.events = session_events,
	.service = session_service,
	.alive = session_alive,
	.start = session_start,
};

int block_iscsi_open(struct block **block, const struct block_options *options, struct event_loop *loop,
		     struct error *err)
{
	return remote_open(block, &iscsi_ops, options, loop, err);
}
