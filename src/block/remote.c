/* SPDX-License-Identifier: Apache-2.0 */
#include "block/remote.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/memory.h"
#include "host/timer.h"

#define MS UINT64_C(1000000)
#define SECOND (1000 * MS)

enum { FIRST_RETRY_MS = 100, LAST_RETRY_MS = 5000, BOUNCE = 1 << 20 };

struct remote {
	struct block block;
	const struct remote_ops *ops;
	struct remote_disk disk;
	uint64_t bytes; /* the disk's own size; block.size is rounded up */

	void *handle; /* NULL: not connected */
	struct event_source *source;
	uint32_t events;
	struct remote_ios flying, waiting, ended;
	unsigned parts; /* flying */
	uint64_t heard; /* when the server last answered, or owed nothing */

	uint64_t lost_at, next_try;
	unsigned retry_ms;
	bool gave_up; /* the user knows */
	struct host_timer timer;

	/* The thread that connects. */
	bool connecting;
	pthread_t thread;
	int cancel, connected; /* eventfds: to it, and from it when it has ended */
	struct event_source *connected_source;
	void *new_handle;
	struct remote_disk new_disk;
	int new_result;
	struct error new_err;
};

static struct remote *of(struct block *block)
{
	return (struct remote *)block;
}

static bool given_up(const struct remote *remote)
{
	return !remote->handle && host_now() - remote->lost_at >= REMOTE_PATIENCE * SECOND;
}

/* ---- I/O vectors ---- */

static void copy(const struct iovec *iov, uint64_t skip, uint8_t *buffer, uint64_t size, bool to_buffer)
{
	for (; size; iov++) {
		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		uint64_t n = iov->iov_len - skip < size ? iov->iov_len - skip : size;
		uint8_t *there = (uint8_t *)iov->iov_base + skip;
		if (buffer)
			memcpy(to_buffer ? buffer : there, to_buffer ? there : buffer, n);
		else
			memset(there, 0, n);
		buffer += buffer ? n : 0;
		size -= n;
		skip = 0;
	}
}

/* ---- parts ---- */

/* Servers have errors of their own; block.h has three. */
static int result_of(int result)
{
	if (result == -EPERM || result == -EROFS)
		return -EROFS;
	return !result || result == -ENOSPC ? result : -EIO;
}

static void io_end(struct remote_io *io, int result)
{
	struct block_request *request = io->request;
	free(io->bounce);
	free(io);
	block_done(request, result_of(result));
}

static bool has_data(const struct block_request *request)
{
	return request->op == BLOCK_READ || request->op == BLOCK_WRITE;
}

/* Sets what the next part is. False: the request has ended. */
static bool io_next(struct remote_io *io)
{
	const struct remote *remote = io->remote;
	const struct block_request *r = io->request;
	uint64_t left = r->size - io->done, most = has_data(r) ? remote->disk.most_data : remote->disk.most_zeroes;
	io->offset = r->offset + io->done;
	/* The server's disk may end within our last sector. */
	uint64_t there = io->offset < remote->bytes ? remote->bytes - io->offset : 0;
	if (left > there) {
		if (r->op == BLOCK_READ)
			copy(r->iov, io->done + there, NULL, left - there, false);
		else if (r->op == BLOCK_WRITE || !there)
			there = 0;
		if (!there) {
			io_end(io, r->op == BLOCK_WRITE ? -ENOSPC : 0);
			return false;
		}
		left = there;
	}
	io->size = left < most ? left : most;
	if (has_data(r) && r->iovs > 1) {
		if (io->size > BOUNCE)
			io->size = BOUNCE;
		if (!io->bounce)
			io->bounce = malloc(r->size < BOUNCE ? r->size : BOUNCE);
		if (!io->bounce) {
			io_end(io, -ENOMEM);
			return false;
		}
		io->bytes = io->bounce;
		if (r->op == BLOCK_WRITE)
			copy(r->iov, io->done, io->bounce, io->size, true);
	} else if (has_data(r)) {
		io->bytes = (uint8_t *)r->iov[0].iov_base + io->done;
	}
	return true;
}

static void io_start(struct remote_io *io)
{
	struct remote *remote = io->remote;
	if (io->request->op != BLOCK_FLUSH && !io_next(io))
		return;
	if (!remote->parts++)
		remote->heard = host_now();
	TAILQ_INSERT_TAIL(&remote->flying, io, link);
	int rc = remote->ops->start(remote->handle, io);
	if (rc)
		remote_done(io, rc);
}

void remote_done(struct remote_io *io, int result)
{
	struct remote *remote = io->remote;
	io->result = result;
	remote->parts--;
	remote->heard = host_now();
	TAILQ_REMOVE(&remote->flying, io, link);
	TAILQ_INSERT_TAIL(&remote->ended, io, link);
}

/* A part has ended in one way or the other: on to the next. */
static void part_ended(struct remote_io *io)
{
	struct block_request *r = io->request;
	struct block *block = &io->remote->block;
	if (io->result == -EOPNOTSUPP && r->op == BLOCK_DISCARD) {
		block->discards = false;
		io->result = 0;
	}
	if (io->result == -EOPNOTSUPP && r->op == BLOCK_WRITE_ZEROES) {
		block->zeroes = false;
		free(io);
		block_write_zeros(block, r);
		return;
	}
	if (io->result) {
		io_end(io, io->result);
		return;
	}
	if (r->op == BLOCK_READ && io->bounce)
		copy(r->iov, io->done, io->bounce, io->size, false);
	io->done += io->size;
	if (r->op != BLOCK_FLUSH && io->done < r->size && io->offset + io->size < io->remote->bytes)
		io_start(io);
	else
		io_end(io, 0);
}

/* ---- the connection ---- */

static void lose(struct remote *remote, const char *why);
static void update(struct remote *remote);

static void on_ready(void *arg, uint32_t ready)
{
	struct remote *remote = arg;
	remote->ops->service(remote->handle, ready);
	update(remote);
}

/* Does what the driver's last calls brought about. */
static void update(struct remote *remote)
{
	struct remote_io *io;
	bool alive = remote->handle && remote->ops->alive(remote->handle);
	while ((io = TAILQ_FIRST(&remote->ended))) {
		TAILQ_REMOVE(&remote->ended, io, link);
		/* What failed because the connection did is not the server's answer. */
		if (io->result && !alive) {
			TAILQ_INSERT_TAIL(&remote->waiting, io, link);
			continue;
		}
		part_ended(io);
		alive = alive && remote->ops->alive(remote->handle);
	}
	if (!remote->handle)
		return;
	if (!alive) {
		lose(remote, "the connection broke");
		return;
	}
	uint32_t events = remote->ops->events(remote->handle);
	if (events != remote->events)
		event_set(remote->source, remote->events = events);
}

static void set_timer(struct remote *remote)
{
	/* A look every second, while there is something to look after. */
	if (remote->handle)
		host_timer_arm(&remote->timer, SECOND, SECOND);
	else
		host_timer_arm(&remote->timer, FIRST_RETRY_MS * MS, FIRST_RETRY_MS * MS);
}

static void disconnect(struct remote *remote)
{
	event_remove(remote->source);
	remote->source = NULL;
	remote->ops->disconnect(remote->handle);
	remote->handle = NULL;
}

static void lose(struct remote *remote, const char *why)
{
	disconnect(remote);
	/* What flies, and what the library gave up at the end, comes before what waits already: it was first. */
	TAILQ_CONCAT(&remote->flying, &remote->ended, link);
	TAILQ_CONCAT(&remote->flying, &remote->waiting, link);
	TAILQ_CONCAT(&remote->waiting, &remote->flying, link);
	remote->parts = 0;
	remote->lost_at = host_now();
	remote->next_try = 0;
	remote->retry_ms = FIRST_RETRY_MS;
	remote->gave_up = false;
	block_warn(&remote->block, "%s: %s; trying to connect again", block_where(&remote->block), why);
	set_timer(remote);
}

static int use(struct remote *remote, void *handle, struct error *err)
{
	remote->handle = handle;
	remote->events = remote->ops->events(handle);
	int rc = event_add(remote->block.loop, &remote->source, remote->ops->fd(handle), remote->events, on_ready,
			   remote, err);
	if (rc) {
		remote->ops->disconnect(handle);
		remote->handle = NULL;
		return rc;
	}
	set_timer(remote);
	return 0;
}

static void *connect_thread(void *arg)
{
	struct remote *remote = arg;
	remote->new_result =
	    remote->ops->connect(block_where(&remote->block), remote->block.options.readonly, remote->cancel,
				 &remote->new_handle, &remote->new_disk, &remote->new_err);
	ssize_t ignored = write(remote->connected, &(uint64_t){ 1 }, sizeof(uint64_t));
	(void)ignored;
	return NULL;
}

static void try_again(struct remote *remote)
{
	remote->next_try = host_now() + remote->retry_ms * MS;
	remote->retry_ms = remote->retry_ms * 2 < LAST_RETRY_MS ? remote->retry_ms * 2 : LAST_RETRY_MS;
	/* Signals are for other threads. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	remote->connecting = pthread_create(&remote->thread, NULL, connect_thread, remote) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Is it the disk that we had? */
static bool same_disk(const struct remote *remote)
{
	const struct remote_disk *a = &remote->disk, *b = &remote->new_disk;
	return a->size == b->size && b->alignment <= remote->block.alignment &&
	       (!b->readonly || remote->block.readonly);
}

static void on_connected(void *arg, uint32_t ready)
{
	struct remote *remote = arg;
	struct remote_ios again = TAILQ_HEAD_INITIALIZER(again);
	struct remote_io *io;
	uint64_t count;
	(void)ready;
	if (!remote->connecting || read(remote->connected, &count, sizeof(count)) != sizeof(count))
		return;
	pthread_join(remote->thread, NULL);
	remote->connecting = false;
	if (remote->new_result)
		return;
	if (!same_disk(remote)) {
		remote->ops->disconnect(remote->new_handle);
		return;
	}
	if (use(remote, remote->new_handle, NULL))
		return;
	remote->disk = remote->new_disk;
	block_warn(&remote->block, "%s: connected again", block_where(&remote->block));
	TAILQ_CONCAT(&again, &remote->waiting, link);
	while ((io = TAILQ_FIRST(&again))) {
		TAILQ_REMOVE(&again, io, link);
		io_start(io);
	}
	update(remote);
}

/* What waits has waited long enough. */
static void give_up(struct remote *remote)
{
	struct remote_io *io;
	if (!remote->gave_up)
		block_warn(&remote->block, "%s: not there for %d seconds: the guest's requests fail until it is back",
			   block_where(&remote->block), REMOTE_PATIENCE);
	remote->gave_up = true;
	while ((io = TAILQ_FIRST(&remote->waiting))) {
		TAILQ_REMOVE(&remote->waiting, io, link);
		io_end(io, -EIO);
	}
}

static void on_tick(void *arg)
{
	struct remote *remote = arg;
	if (remote->handle) {
		if (remote->parts && host_now() - remote->heard >= REMOTE_SILENCE * SECOND)
			lose(remote, "the server does not answer");
		/* Some libraries look for their own time-outs here. */
		else
			on_ready(remote, 0);
		return;
	}
	if (given_up(remote))
		give_up(remote);
	if (!remote->connecting && host_now() >= remote->next_try)
		try_again(remote);
}

/* ---- a layer ---- */

void remote_submit(struct block *block, struct block_request *request)
{
	struct remote *remote = of(block);
	if ((request->op == BLOCK_FLUSH && !remote->disk.flushes) || given_up(remote)) {
		block_done(request, request->op == BLOCK_FLUSH && !remote->disk.flushes ? 0 : -EIO);
		return;
	}
	struct remote_io *io = memory_zalloc(sizeof(*io));
	io->remote = remote;
	io->request = request;
	if (!remote->handle) {
		TAILQ_INSERT_TAIL(&remote->waiting, io, link);
		return;
	}
	io_start(io);
	update(remote);
}

static short poll_events(uint32_t events)
{
	return (short)((events & EPOLLIN ? POLLIN : 0) | (events & EPOLLOUT ? POLLOUT : 0));
}

bool remote_poll(struct block *block, bool wait)
{
	struct remote *remote = of(block);
	struct pollfd fds[] = {
		{ .fd = remote->timer.fd, .events = POLLIN },
		{ .fd = remote->connected, .events = POLLIN },
		{ .fd = remote->handle ? remote->ops->fd(remote->handle) : -1, .events = poll_events(remote->events) },
	};
	if (poll(fds, 3, wait ? -1 : 0) <= 0)
		return false;
	if (fds[2].revents)
		on_ready(remote, (fds[2].revents & POLLIN ? EPOLLIN : 0u) | (fds[2].revents & POLLOUT ? EPOLLOUT : 0u) |
				     (fds[2].revents & (POLLHUP | POLLERR) ? EPOLLIN | EPOLLHUP : 0u));
	if (fds[1].revents)
		on_connected(remote, EPOLLIN);
	if (fds[0].revents) {
		uint64_t times;
		ssize_t ignored = read(remote->timer.fd, &times, sizeof(times));
		(void)ignored;
		on_tick(remote);
	}
	return true;
}

void remote_cancel(struct block *block)
{
	struct remote *remote = of(block);
	struct remote_io *io;
	while (!remote->handle && (io = TAILQ_FIRST(&remote->waiting))) {
		TAILQ_REMOVE(&remote->waiting, io, link);
		io_end(io, -ECANCELED);
	}
}

int remote_close(struct block *block)
{
	struct remote *remote = of(block);
	if (remote->connecting) {
		ssize_t ignored = write(remote->cancel, &(uint64_t){ 1 }, sizeof(uint64_t));
		(void)ignored;
		pthread_join(remote->thread, NULL);
		if (!remote->new_result)
			remote->ops->disconnect(remote->new_handle);
	}
	if (remote->handle)
		disconnect(remote);
	host_timer_fini(&remote->timer);
	event_remove(remote->connected_source);
	if (remote->cancel >= 0)
		close(remote->cancel);
	if (remote->connected >= 0)
		close(remote->connected);
	block_fini(&remote->block);
	free(remote);
	return 0;
}

int remote_wait(int fd, short events, int cancel, uint64_t deadline)
{
	struct pollfd fds[] = { { .fd = fd, .events = events }, { .fd = cancel, .events = POLLIN } };
	uint64_t now = host_now();
	if (now >= deadline)
		return -ETIMEDOUT;
	int n = poll(fds, 2, (int)((deadline - now) / MS) + 1);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	return fds[1].revents ? -ECANCELED : fds[0].revents;
}

static int setup(struct remote *remote, struct error *err)
{
	const struct block_options *o = &remote->block.options;
	struct event_loop *loop = remote->block.loop;
	remote->cancel = eventfd(0, EFD_CLOEXEC);
	remote->connected = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (remote->cancel < 0 || remote->connected < 0)
		return error_errno(err, -errno, "eventfd");
	int rc = event_add(loop, &remote->connected_source, remote->connected, EPOLLIN, on_connected, remote, err);
	if (!rc)
		rc = host_timer_init(&remote->timer, loop, on_tick, remote, err);
	void *handle = NULL;
	if (!rc)
		rc = remote->ops->connect(o->where, o->readonly, -1, &handle, &remote->disk, err);
	if (rc)
		return rc;
	const struct remote_disk *d = &remote->disk;
	if (d->readonly && !o->readonly) {
		remote->ops->disconnect(handle);
		return error_set(err, -EROFS, "the server has it for reading only: add readonly");
	}
	remote->bytes = d->size;
	remote->block.alignment = d->alignment < 512 ? 512 : d->alignment;
	remote->block.size = (d->size + remote->block.alignment - 1) & ~(uint64_t)(remote->block.alignment - 1);
	remote->block.discards = d->discards;
	remote->block.zeroes = d->zeroes;
	return use(remote, handle, err);
}

int remote_open(struct block **block, const struct remote_ops *ops, const struct block_options *options,
		struct event_loop *loop, struct error *err)
{
	struct remote *remote = memory_zalloc(sizeof(*remote));
	*block = NULL;
	remote->ops = ops;
	remote->cancel = remote->connected = -1;
	TAILQ_INIT(&remote->flying);
	TAILQ_INIT(&remote->waiting);
	TAILQ_INIT(&remote->ended);
	block_init(&remote->block, &ops->block, loop, options);
	int rc = setup(remote, err);
	if (rc)
		remote_close(&remote->block);
	else
		*block = &remote->block;
	return rc;
}
