/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_user.c - messages to a back end. Names in the comments are those of docs/interop/vhost-user.rst. */
#include "virtio/vhost_user.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	SET_BACKEND_REQ_FD = 21,
	GET_CONFIG = 24,
};
enum { BACKEND_CONFIG_CHANGE = 2 };
enum { PROTOCOL_MQ = 0, PROTOCOL_REPLY_ACK = 3, PROTOCOL_BACKEND_REQ = 5, PROTOCOL_CONFIG = 9 };
enum { F_PROTOCOL_FEATURES = 30 };

#define BIT(n) (UINT64_C(1) << (n))
#define PROTOCOL_OURS (BIT(PROTOCOL_MQ) | BIT(PROTOCOL_REPLY_ACK) | BIT(PROTOCOL_BACKEND_REQ) | BIT(PROTOCOL_CONFIG))

enum { VERSION = 1, FLAG_VERSION = 3, FLAG_REPLY = 4, FLAG_NEED_REPLY = 8 };
enum { HEADER = 12, REGION = 32, CONFIG_HEADER = 12, FDS_MAX = GUEST_MEMORY_REGIONS + 1 };
enum { PAYLOAD_MAX = CONFIG_HEADER + VHOST_USER_CONFIG_MAX };

struct message {
	uint32_t request, flags, size;
	uint8_t payload[PAYLOAD_MAX];
	int fd[FDS_MAX];
	unsigned fds;
};

/* ---- bytes ---- */

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits until fd is ready or the time is over: -ETIMEDOUT. */
static int wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		int64_t left = deadline - now_ms();
		int r = poll(&p, 1, left > 0 ? (int)left : 0);
		if (r > 0)
			return 0;
		if (!r)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* A message is smaller than any socket's buffer, so one that does not fit at once goes to a back end that reads none. */
static int send_message(int fd, const struct message *m, struct error *err)
{
	uint8_t bytes[HEADER + PAYLOAD_MAX];
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(m->fd))];
	} control;
	struct iovec iov = { .iov_base = bytes, .iov_len = HEADER + m->size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	bytes_put_le32(bytes, m->request);
	bytes_put_le32(bytes + 4, m->flags | VERSION);
	bytes_put_le32(bytes + 8, m->size);
	memcpy(bytes + HEADER, m->payload, m->size);
	if (m->fds) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(m->fds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(m->fds * sizeof(int));
		memcpy(CMSG_DATA(c), m->fd, m->fds * sizeof(int));
	}
	ssize_t r = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (r == (ssize_t)iov.iov_len)
		return 0;
	return error_errno(err, r < 0 ? -errno : -EIO, "can't send message %u", m->request);
}

/* Descriptors that came along are dropped by the kernel, since there is no room for them. */
static int receive_bytes(int fd, void *to, size_t size, int64_t deadline, struct error *err)
{
	size_t done = 0;

	while (done < size) {
		ssize_t r = recv(fd, (uint8_t *)to + done, size - done, MSG_DONTWAIT);
		if (r > 0) {
			done += (size_t)r;
			continue;
		}
		if (!r)
			return error_set(err, -ECONNRESET, "it hung up");
		if (errno != EAGAIN && errno != EINTR)
			return error_errno(err, -errno, "can't read from it");
		int rc = wait_for(fd, POLLIN, deadline);
		if (rc == -ETIMEDOUT)
			return error_set(err, rc, "it does not answer");
		if (rc)
			return error_errno(err, rc, "can't wait for it");
	}
	return 0;
}

static int receive_message(int fd, struct message *m, struct error *err)
{
	int64_t deadline = now_ms() + VHOST_USER_PATIENCE_MS;
	uint8_t header[HEADER];
	int rc = receive_bytes(fd, header, HEADER, deadline, err);

	if (rc)
		return rc;
	m->request = bytes_le32(header);
	m->flags = bytes_le32(header + 4);
	m->size = bytes_le32(header + 8);
	if ((m->flags & FLAG_VERSION) != VERSION || m->size > PAYLOAD_MAX)
		return error_set(err, -EPROTO, "what it says is not vhost-user");
	return receive_bytes(fd, m->payload, m->size, deadline, err);
}

/* ---- messages ---- */

/* Sends *m and takes the reply into it, which must have m->size bytes again. */
static int ask(struct vhost_user *vu, struct message *m, struct error *err)
{
	uint32_t request = m->request, size = m->size;
	int rc = send_message(vu->fd, m, err);

	if (!rc)
		rc = receive_message(vu->fd, m, err);
	if (rc)
		return rc;
	if (m->request != request || !(m->flags & FLAG_REPLY))
		return error_set(err, -EPROTO, "its answer to message %u is to another", request);
	if (m->size != size)
		return error_set(err, -EPROTO, "its answer to message %u has %u bytes instead of %u", request, m->size,
				 size);
	return 0;
}

/* Sends *m and, where the back end can say so, waits until it was done. */
static int tell_and_wait(struct vhost_user *vu, struct message *m, struct error *err)
{
	bool waits = vu->protocol & BIT(PROTOCOL_REPLY_ACK);

	m->flags = waits ? FLAG_NEED_REPLY : 0;
	int rc = send_message(vu->fd, m, err);
	if (rc || !waits)
		return rc;
	uint32_t request = m->request;
	rc = receive_message(vu->fd, m, err);
	if (rc)
		return rc;
	if (m->request != request || !(m->flags & FLAG_REPLY) || m->size != 8)
		return error_set(err, -EPROTO, "its answer to message %u makes no sense", request);
	return bytes_le64(m->payload) ? error_set(err, -EIO, "it refuses message %u", request) : 0;
}

static int get_u64(struct vhost_user *vu, uint32_t request, uint64_t *value, struct error *err)
{
	struct message m = { .request = request };
	int rc = send_message(vu->fd, &m, err);

	if (!rc)
		rc = receive_message(vu->fd, &m, err);
	if (rc)
		return rc;
	if (m.request != request || !(m.flags & FLAG_REPLY) || m.size != 8)
		return error_set(err, -EPROTO, "its answer to message %u makes no sense", request);
	*value = bytes_le64(m.payload);
	return 0;
}

static int set_u64(struct vhost_user *vu, uint32_t request, uint64_t value, int fd, struct error *err)
{
	struct message m = { .request = request, .size = 8, .fd = { fd }, .fds = fd >= 0 };

	bytes_put_le64(m.payload, value);
	return send_message(vu->fd, &m, err);
}

/* VRING_NUM, BASE, ENABLE: a ring's index and a number. */
static int set_ring(struct vhost_user *vu, uint32_t request, unsigned index, uint32_t value, struct error *err)
{
	struct message m = { .request = request, .size = 8 };

	bytes_put_le32(m.payload, index);
	bytes_put_le32(m.payload + 4, value);
	return send_message(vu->fd, &m, err);
}

/* ---- beginning and end ---- */

static int open_back_channel(struct vhost_user *vu, struct error *err)
{
	int pair[2];
	struct message m = { .request = SET_BACKEND_REQ_FD, .fds = 1 };

	if (!(vu->protocol & BIT(PROTOCOL_BACKEND_REQ)))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return error_errno(err, -errno, "can't make a socket");
	vu->back_fd = pair[0];
	m.fd[0] = pair[1];
	int rc = tell_and_wait(vu, &m, err);
	close(pair[1]);
	return rc;
}

static int agree(struct vhost_user *vu, struct error *err)
{
	const struct message owner = { .request = SET_OWNER };
	uint64_t theirs = 0, queues = 1;
	int rc = get_u64(vu, GET_FEATURES, &vu->features, err);

	if (!rc && !(vu->features & BIT(F_PROTOCOL_FEATURES)))
		rc = error_set(err, -ENOTSUP, "it is too old: it lacks protocol features");
	if (!rc)
		rc = get_u64(vu, GET_PROTOCOL_FEATURES, &theirs, err);
	vu->protocol = theirs & PROTOCOL_OURS;
	if (!rc)
		rc = set_u64(vu, SET_PROTOCOL_FEATURES, vu->protocol, -1, err);
	if (!rc)
		rc = send_message(vu->fd, &owner, err);
	if (!rc && vu->protocol & BIT(PROTOCOL_MQ))
		rc = get_u64(vu, GET_QUEUE_NUM, &queues, err);
	if (!rc && (!queues || queues > UINT16_MAX))
		rc = error_set(err, -EPROTO, "it says that it has %llu queues", (unsigned long long)queues);
	vu->queues = (unsigned)queues;
	vu->says_queues = vu->protocol & BIT(PROTOCOL_MQ);
	return rc ? rc : open_back_channel(vu, err);
}

int vhost_user_open(struct vhost_user *vu, int fd, struct error *err)
{
	*vu = (struct vhost_user){ .fd = fd, .back_fd = -1 };
	int rc = agree(vu, err);

	if (rc)
		vhost_user_close(vu);
	return rc;
}

void vhost_user_close(struct vhost_user *vu)
{
	if (vu->fd >= 0)
		close(vu->fd);
	if (vu->back_fd >= 0)
		close(vu->back_fd);
	vu->fd = vu->back_fd = -1;
}

/* ---- the device ---- */

static void put_region(struct message *m, const struct guest_region *r)
{
	uint8_t *p = m->payload + 8 + m->fds * REGION;

	bytes_put_le64(p, r->gpa);
	bytes_put_le64(p + 8, r->size);
	bytes_put_le64(p + 16, (uintptr_t)r->hva);
	bytes_put_le64(p + 24, 0);
	m->fd[m->fds++] = r->fd;
}

int vhost_user_set_memory(struct vhost_user *vu, const struct guest_memory *memory, const struct guest_region *more,
			  struct error *err)
{
	struct message m = { .request = SET_MEM_TABLE };

	for (unsigned i = 0; i < memory->regions; i++)
		put_region(&m, &memory->region[i]);
	put_region(&m, more);
	bytes_put_le32(m.payload, m.fds);
	m.size = 8 + m.fds * REGION;
	return tell_and_wait(vu, &m, err);
}

int vhost_user_get_config(struct vhost_user *vu, void *config, unsigned size, struct error *err)
{
	struct message m = { .request = GET_CONFIG, .size = CONFIG_HEADER + size };

	assert(size <= VHOST_USER_CONFIG_MAX);
	if (!(vu->protocol & BIT(PROTOCOL_CONFIG)))
		return error_set(err, -ENOTSUP, "it keeps no configuration space");
	bytes_put_le32(m.payload + 4, size);
	int rc = ask(vu, &m, err);
	if (!rc)
		memcpy(config, m.payload + CONFIG_HEADER, size);
	return rc;
}

int vhost_user_set_features(struct vhost_user *vu, uint64_t features, struct error *err)
{
	return set_u64(vu, SET_FEATURES, features | BIT(F_PROTOCOL_FEATURES), -1, err);
}

static int set_addresses(struct vhost_user *vu, unsigned index, const struct vhost_user_ring *ring, struct error *err)
{
	struct message m = { .request = SET_VRING_ADDR, .size = 40 };

	bytes_put_le32(m.payload, index);
	bytes_put_le64(m.payload + 8, (uintptr_t)ring->desc);
	bytes_put_le64(m.payload + 16, (uintptr_t)ring->used);
	bytes_put_le64(m.payload + 24, (uintptr_t)ring->avail);
	return send_message(vu->fd, &m, err);
}

int vhost_user_ring_start(struct vhost_user *vu, unsigned index, const struct vhost_user_ring *ring, struct error *err)
{
	int rc = set_ring(vu, SET_VRING_NUM, index, ring->size, err);

	if (!rc)
		rc = set_ring(vu, SET_VRING_BASE, index, 0, err);
	if (!rc)
		rc = set_addresses(vu, index, ring, err);
	if (!rc)
		rc = set_u64(vu, SET_VRING_CALL, index, ring->call, err);
	if (!rc)
		rc = set_u64(vu, SET_VRING_KICK, index, ring->kick, err);
	return rc ? rc : set_ring(vu, SET_VRING_ENABLE, index, 1, err);
}

int vhost_user_ring_stop(struct vhost_user *vu, unsigned index, struct error *err)
{
	struct message m = { .request = GET_VRING_BASE, .size = 8 };
	int rc = set_ring(vu, SET_VRING_ENABLE, index, 0, err);

	bytes_put_le32(m.payload, index);
	if (!rc)
		rc = ask(vu, &m, err);
	if (!rc && bytes_le32(m.payload) != index)
		rc = error_set(err, -EPROTO, "it stopped another ring than it should");
	return rc;
}

int vhost_user_take_request(struct vhost_user *vu, bool *config_changed, struct error *err)
{
	struct message m = { .request = 0 };
	int rc = receive_message(vu->back_fd, &m, err);

	if (rc)
		return rc;
	*config_changed = m.request == BACKEND_CONFIG_CHANGE;
	if (!(m.flags & FLAG_NEED_REPLY))
		return 0;
	m.flags = FLAG_REPLY;
	m.size = 8;
	bytes_put_le64(m.payload, !*config_changed);
	return send_message(vu->back_fd, &m, err);
}
