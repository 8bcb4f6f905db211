/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio_uring.c - io_uring(7). Requests wait in a list of ours until a kick puts them into the submission ring, so that a batch
 * costs one system call. An eventfd tells the event loop of completions.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/memory.h"
#include "block/aio.h"

enum { ENTRIES = 256, REAP_AT_ONCE = 64, RETRY_US = 1000 };

struct uring {
	struct aio aio;
	struct io_uring ring;
	struct event_loop *loop;
	struct event_work retry; /* the kernel had no memory for a submission */
	struct event_source *source;
	int eventfd;
	unsigned in_kernel;
	struct aio_request *waiting, **waiting_end;
};

static struct uring *of(struct aio *aio)
{
	return (struct uring *)aio;
}

static void prepare(struct io_uring_sqe *sqe, const struct aio_request *r)
{
	switch (r->op) {
	case AIO_READ:
		io_uring_prep_readv(sqe, r->fd, r->iov, r->iovs, r->offset);
		break;
	case AIO_WRITE:
		io_uring_prep_writev(sqe, r->fd, r->iov, r->iovs, r->offset);
		break;
	case AIO_SYNC:
		io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
		break;
	case AIO_ALLOCATE:
		io_uring_prep_fallocate(sqe, r->fd, r->mode, (off_t)r->offset, (off_t)r->size);
		break;
	}
	io_uring_sqe_set_data(sqe, (void *)(uintptr_t)r);
}

static void uring_submit(struct aio *aio, struct aio_request *request)
{
	struct uring *u = of(aio);

	request->next = NULL;
	*u->waiting_end = request;
	u->waiting_end = &request->next;
}

static void uring_kick(struct aio *aio)
{
	struct uring *u = of(aio);
	bool again = true;

	while (again) {
		struct io_uring_sqe *sqe = NULL;
		while (u->waiting && (sqe = io_uring_get_sqe(&u->ring))) {
			prepare(sqe, u->waiting);
			u->waiting = u->waiting->next;
		}
		if (!u->waiting)
			u->waiting_end = &u->waiting;
		if (!io_uring_sq_ready(&u->ring))
			return;
		int r = io_uring_submit(&u->ring);
		if (r < 0 && r != -EINTR) {
			/* EAGAIN, EBUSY: what is in the ring goes later, perhaps when others have ended. */
			event_queue(u->loop, &u->retry);
			return;
		}
		u->in_kernel += r > 0 ? (unsigned)r : 0;
		again = u->waiting || io_uring_sq_ready(&u->ring);
	}
}

static void on_retry(void *arg)
{
	uring_kick(arg);
}

static void wait_for_one(struct uring *u)
{
	struct io_uring_cqe *cqe;

	for (uring_kick(&u->aio); !u->in_kernel; uring_kick(&u->aio))
		usleep(RETRY_US);
	while (io_uring_wait_cqe(&u->ring, &cqe) == -EINTR)
		;
}

static bool uring_poll(struct aio *aio, bool wait)
{
	struct uring *u = of(aio);
	struct io_uring_cqe *cqe[REAP_AT_ONCE];
	struct aio_request *first = NULL, **end = &first;
	unsigned n;

	if (wait)
		wait_for_one(u);
	/* Taken out before anyone is called, who may submit more. */
	while ((n = io_uring_peek_batch_cqe(&u->ring, cqe, REAP_AT_ONCE))) {
		for (unsigned i = 0; i < n; i++) {
			struct aio_request *r = io_uring_cqe_get_data(cqe[i]);
			r->result = cqe[i]->res;
			*end = r;
			end = &r->next;
		}
		io_uring_cq_advance(&u->ring, n);
		u->in_kernel -= n;
	}
	*end = NULL;
	bool any = first;
	while (first) {
		struct aio_request *next = first->next;
		first->done(first, first->result);
		first = next;
	}
	if (any)
		uring_kick(aio);
	return any;
}

static void on_eventfd(void *arg, uint32_t ready)
{
	struct uring *u = arg;
	uint64_t count;
	ssize_t ignored = read(u->eventfd, &count, sizeof(count));

	(void)ignored;
	(void)ready;
	uring_poll(&u->aio, false);
}

static void uring_destroy(struct aio *aio)
{
	struct uring *u = of(aio);

	event_unqueue(u->loop, &u->retry);
	event_remove(u->source);
	if (u->ring.ring_fd >= 0)
		io_uring_queue_exit(&u->ring);
	if (u->eventfd >= 0)
		close(u->eventfd);
	free(u);
}

static const struct aio_ops uring_ops = {
	.submit = uring_submit,
	.kick = uring_kick,
	.poll = uring_poll,
	.destroy = uring_destroy,
};

int aio_uring_create(struct aio **aio, struct event_loop *loop, struct error *err)
{
	struct uring *u = memory_zalloc(sizeof(*u));

	u->aio.ops = &uring_ops;
	u->loop = loop;
	u->retry = (struct event_work){ .fn = on_retry, .arg = u };
	u->waiting_end = &u->waiting;
	u->ring.ring_fd = -1;
	u->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	int rc = u->eventfd < 0 ? error_errno(err, -errno, "eventfd") : 0;
	if (!rc) {
		rc = io_uring_queue_init(ENTRIES, &u->ring, 0);
		if (rc) {
			u->ring.ring_fd = -1;
			error_errno(err, rc, "io_uring");
		}
	}
	if (!rc) {
		rc = io_uring_register_eventfd(&u->ring, u->eventfd);
		if (rc)
			error_errno(err, rc, "io_uring");
	}
	if (!rc)
		rc = event_add(loop, &u->source, u->eventfd, EPOLLIN, on_eventfd, u, err);
	if (rc)
		uring_destroy(&u->aio);
	else
		*aio = &u->aio;
	return rc;
}
