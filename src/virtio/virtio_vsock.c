/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_vsock.c - sockets between the guest and the host: virtio 1.2, 5.10. "cid=3,path=SOCKET".
 *
 * On the host they are Unix sockets, as Firecracker has it: a client connects to SOCKET and writes "CONNECT port\n"; when the
 * guest listens there it reads "OK host-port\n" and is connected. What the guest connects to at port P of the host is
 * whoever listens at SOCKET_P.
 *
 * What is to be told to the guest is state of a connection, not a queue of messages, but for refusals of what belongs to
 * no connection: there is room for some, and as long as it is taken the guest's packets wait.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/keys.h"
#include "base/memory.h"
#include "host/unix.h"
#include "virtio/virtio.h"
#include "virtio/vsock_conn.h"
#include "vm/state.h"

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, QUEUES, QUEUE_SIZE = 256 };
enum { HEADER = 44, HOST_CID = 2, TYPE_STREAM = 1, CONFIG_SIZE = 8, EVENT_RESET = 0 };
enum { /* 5.10.6 */
       OP_REQUEST = 1,
       OP_RESPONSE = 2,
       OP_RST = 3,
       OP_SHUTDOWN = 4,
       OP_RW = 5,
       OP_CREDIT_UPDATE = 6,
       OP_CREDIT_REQUEST = 7,
};
enum { CONNS_MAX = 1024, BUCKETS = 256, REFUSALS = 64, AT_ONCE = 256, IOV_AT_ONCE = 64, PORT_SUFFIX = 11 };
#define FIRST_PORT 0x40000000u /* of those that we choose for clients */

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};

struct options {
	uint64_t cid;
	char *path;
};

struct refusal {
	uint32_t host_port, guest_port;
	uint16_t type;
};

struct vsock {
	struct virtio v;
	struct options options;
	int listener;
	bool deaf; /* for now */
	struct event_source *listening;
	struct vsock_conn *bucket[BUCKETS];
	unsigned conns;
	struct vsock_conn *ready, **ready_end;
	uint32_t next_port;
	struct refusal refusal[REFUSALS];
	unsigned refusals;
	bool tx_waits;    /* for a place among the refusals */
	bool reset_event; /* the guest is to be told that its connections are gone */
};

static struct vsock *of(struct virtio *v)
{
	return (struct vsock *)v;
}

/* ---- the table of connections ---- */

static struct vsock_conn **bucket(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
	return &vsock->bucket[(host_port ^ guest_port * 31) % BUCKETS];
}

static struct vsock_conn *find(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *conn = *bucket(vsock, host_port, guest_port);

	while (conn && (conn->host_port != host_port || conn->guest_port != guest_port ||
			conn->state == VSOCK_GREETING || conn->state == VSOCK_LINGERING))
		conn = conn->next;
	return conn;
}

static void insert(struct vsock *vsock, struct vsock_conn *conn)
{
	struct vsock_conn **at = bucket(vsock, conn->host_port, conn->guest_port);

	conn->next = *at;
	*at = conn;
}

static void take_out(struct vsock *vsock, struct vsock_conn *conn)
{
	struct vsock_conn **at = bucket(vsock, conn->host_port, conn->guest_port);

	while (*at != conn)
		at = &(*at)->next;
	*at = conn->next;
}

static struct vsock_conn *add(struct vsock *vsock, enum vsock_state state, uint32_t host_port, uint32_t guest_port)
{
	if (vsock->conns == CONNS_MAX)
		return NULL;
	struct vsock_conn *conn = memory_zalloc(sizeof(*conn));
	*conn = (struct vsock_conn){
		.vsock = vsock, .state = state, .host_port = host_port, .guest_port = guest_port, .fd = -1
	};
	insert(vsock, conn);
	vsock->conns++;
	return conn;
}

/* ---- those with something to say, in turn ---- */

static void push_ready(struct vsock *vsock, struct vsock_conn *conn)
{
	if (conn->ready)
		return;
	conn->ready = true;
	conn->next_ready = NULL;
	*vsock->ready_end = conn;
	vsock->ready_end = &conn->next_ready;
}

static struct vsock_conn *pop_ready(struct vsock *vsock)
{
	struct vsock_conn *conn = vsock->ready;

	vsock->ready = conn->next_ready;
	if (!vsock->ready)
		vsock->ready_end = &vsock->ready;
	conn->ready = false;
	return conn;
}

/* It may stand anywhere in the list. */
static void forget(struct vsock *vsock, struct vsock_conn *conn)
{
	struct vsock_conn **at = &vsock->ready;

	while (conn->ready && *at != conn)
		at = &(*at)->next_ready;
	if (conn->ready) {
		*at = conn->next_ready;
		if (!*at)
			vsock->ready_end = at;
	}
	take_out(vsock, conn);
	vsock_conn_close(conn);
	free(conn);
	vsock->conns--;
	if (vsock->deaf && vsock->listening)
		event_set(vsock->listening, EPOLLIN);
	vsock->deaf = false;
}

static void forget_all(struct vsock *vsock)
{
	for (unsigned i = 0; i < BUCKETS; i++) {
		for (struct vsock_conn *conn = vsock->bucket[i], *next; conn; conn = next) {
			next = conn->next;
			forget(vsock, conn);
		}
	}
	vsock->refusals = 0;
	vsock->tx_waits = false;
}

/* ---- packets to the guest ---- */

static void put_header(const struct vsock *vsock, uint8_t h[HEADER], uint32_t host_port, uint32_t guest_port,
		       uint16_t op)
{
	memset(h, 0, HEADER);
	bytes_put_le64(h, HOST_CID);
	bytes_put_le64(h + 8, vsock->options.cid);
	bytes_put_le32(h + 16, host_port);
	bytes_put_le32(h + 20, guest_port);
	bytes_put_le16(h + 28, TYPE_STREAM);
	bytes_put_le16(h + 30, op);
}

static void put_conn_header(struct vsock_conn *conn, uint8_t h[HEADER], uint16_t op)
{
	put_header(conn->vsock, h, conn->host_port, conn->guest_port, op);
	bytes_put_le32(h + 36, VSOCK_BUFFER);
	bytes_put_le32(h + 40, conn->forwarded);
	conn->told_forwarded = conn->forwarded;
	conn->tell &= (unsigned)~VSOCK_TELL_CREDIT;
}

/* What the client has done that the guest does not know yet. */
static uint8_t new_shutdown(const struct vsock_conn *conn)
{
	uint8_t now = (conn->ended ? VSOCK_NO_SEND : 0) | (conn->hung_up ? VSOCK_NO_RECEIVE : 0);

	return (uint8_t)(now & ~conn->host_shutdown);
}

/* Bytes of the client's as a packet: its size, or 0. */
static size_t put_data(struct vsock_conn *conn, struct virtqueue_chain *chain)
{
	struct iovec iov[IOV_AT_ONCE];
	uint8_t header[HEADER];
	size_t skip = HEADER, room = vsock_conn_credit(conn);
	unsigned n = 0;

	for (unsigned i = 0; i < chain->ins && n < IOV_AT_ONCE && room; i++) {
		if (skip >= chain->in[i].iov_len) {
			skip -= chain->in[i].iov_len;
			continue;
		}
		size_t part = chain->in[i].iov_len - skip;
		iov[n].iov_base = (uint8_t *)chain->in[i].iov_base + skip;
		iov[n].iov_len = part < room ? part : room;
		room -= iov[n++].iov_len;
		skip = 0;
	}
	size_t size = n ? vsock_conn_read(conn, iov, n) : 0;
	if (!size)
		return 0;
	put_conn_header(conn, header, OP_RW);
	bytes_put_le32(header + 24, (uint32_t)size);
	virtqueue_chain_write(chain, 0, header, HEADER);
	return HEADER + size;
}

/* The next thing that a connection has to say; 0: nothing after all. */
static size_t put_packet(struct vsock_conn *conn, struct virtqueue_chain *chain)
{
	uint8_t header[HEADER];
	uint16_t op;
	size_t size = 0;

	if (conn->state == VSOCK_DEAD) {
		put_conn_header(conn, header, OP_RST);
		return virtqueue_chain_write(chain, 0, header, HEADER);
	}
	if (conn->tell & (VSOCK_TELL_REQUEST | VSOCK_TELL_RESPONSE)) {
		op = conn->tell & VSOCK_TELL_REQUEST ? OP_REQUEST : OP_RESPONSE;
		conn->tell &= (unsigned)~(VSOCK_TELL_REQUEST | VSOCK_TELL_RESPONSE);
		put_conn_header(conn, header, op);
		return virtqueue_chain_write(chain, 0, header, HEADER);
	}
	size = vsock_conn_credit(conn) ? put_data(conn, chain) : 0;
	if (size)
		return size;
	uint8_t shutdown = conn->state == VSOCK_OPEN ? new_shutdown(conn) : 0;
	if (shutdown) {
		conn->host_shutdown |= shutdown;
		put_conn_header(conn, header, OP_SHUTDOWN);
		bytes_put_le32(header + 32, conn->host_shutdown);
		if (conn->host_shutdown == VSOCK_NO_MORE) /* only the guest's last word is waited for */
			vsock_conn_close(conn);
	} else if (conn->tell & VSOCK_TELL_CREDIT) {
		put_conn_header(conn, header, OP_CREDIT_UPDATE);
	} else {
		return 0;
	}
	return virtqueue_chain_write(chain, 0, header, HEADER);
}

static size_t put_refusal(struct vsock *vsock, struct virtqueue_chain *chain)
{
	const struct refusal *r = &vsock->refusal[--vsock->refusals];
	uint8_t header[HEADER];

	put_header(vsock, header, r->host_port, r->guest_port, OP_RST);
	bytes_put_le16(header + 28, r->type);
	return virtqueue_chain_write(chain, 0, header, HEADER);
}

/* Says one thing: false when there was nothing to say after all. */
static bool say_one(struct vsock *vsock, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	size_t size;

	if (vsock->refusals) {
		virtqueue_push(vq, chain, put_refusal(vsock, chain));
		return true;
	}
	struct vsock_conn *conn = pop_ready(vsock);
	size = put_packet(conn, chain);
	if (!size) {
		virtqueue_unpop(vq, chain);
		return false;
	}
	virtqueue_push(vq, chain, size);
	if (conn->state != VSOCK_DEAD)
		push_ready(vsock, conn); /* it may have more */
	else if (conn->used)
		conn->state = VSOCK_LINGERING;
	else
		forget(vsock, conn);
	return true;
}

/* Tells the guest what there is to tell, as far as it has given buffers. */
static void pump(struct vsock *vsock)
{
	struct virtqueue *vq = &vsock->v.queue[QUEUE_RX].vq;
	unsigned left = AT_ONCE;

	while ((vsock->ready || vsock->refusals) && left) {
		struct virtqueue_chain *chain = virtqueue_pop(vq);
		if (!chain) {
			if (virtqueue_kicks_on(vq))
				break;
		} else if (chain->in_size <= HEADER) {
			virtqueue_drop(vq, chain);
			virtqueue_break(vq, "a buffer has no room for a packet");
		} else {
			left -= say_one(vsock, vq, chain);
		}
	}
	if (!left)
		virtio_kick(&vsock->v, QUEUE_RX);
	if (vsock->tx_waits && !vsock->refusals) {
		vsock->tx_waits = false;
		virtio_kick(&vsock->v, QUEUE_TX);
	}
	virtqueue_interrupt(vq);
}

/* ---- the client's end ---- */

static void kill_conn(struct vsock_conn *conn)
{
	vsock_conn_close(conn);
	conn->state = VSOCK_DEAD;
	push_ready(conn->vsock, conn);
}

/* After bytes have gone to the client, or the guest has said that it is done. */
static void settle(struct vsock_conn *conn)
{
	if (conn->state != VSOCK_OPEN)
		return;
	if (conn->guest_shutdown == VSOCK_NO_MORE) {
		conn->state = VSOCK_DEAD;
		push_ready(conn->vsock, conn);
		return;
	}
	if (!conn->used && conn->guest_shutdown & VSOCK_NO_SEND && conn->fd >= 0)
		shutdown(conn->fd, SHUT_WR);
	if (conn->forwarded - conn->told_forwarded >= VSOCK_BUFFER / 4)
		conn->tell |= VSOCK_TELL_CREDIT;
	push_ready(conn->vsock, conn);
}

static void greet(struct vsock *vsock, struct vsock_conn *conn)
{
	uint32_t port = 0;
	int r = vsock_conn_greeting(conn, &port);

	if (r < 0 || (r > 0 && !vsock->v.started)) {
		forget(vsock, conn);
		return;
	}
	if (!r)
		return;
	take_out(vsock, conn);
	conn->guest_port = port;
	insert(vsock, conn);
	conn->state = VSOCK_REQUESTED;
	conn->tell = VSOCK_TELL_REQUEST;
	push_ready(vsock, conn);
}

static void on_client(void *arg, uint32_t ready)
{
	struct vsock_conn *conn = arg;
	struct vsock *vsock = conn->vsock;

	vsock_conn_note(conn, ready);
	if (conn->state == VSOCK_GREETING) {
		greet(vsock, conn);
	} else if (conn->state == VSOCK_REQUESTED) {
		if (conn->hung_up)
			kill_conn(conn);
	} else {
		/* A client that is gone for good takes nothing, but what it has said is still to be read. */
		vsock_conn_flush(conn);
		settle(conn);
		if (conn->state == VSOCK_LINGERING && !conn->used)
			forget(vsock, conn);
	}
	pump(vsock);
}

/* A port that no connection has. */
static uint32_t free_port(struct vsock *vsock)
{
	uint32_t port = vsock->next_port;

	vsock->next_port = port == UINT32_MAX - 1 ? FIRST_PORT : port + 1;
	return port; /* they go round after three thousand million */
}

static void on_knock(void *arg, uint32_t ready)
{
	struct vsock *vsock = arg;
	struct error err;
	int fd = accept4(vsock->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)ready;
	if (fd < 0) { /* no descriptor is free, perhaps: until a connection ends */
		vsock->deaf = errno != EAGAIN && errno != EINTR && vsock->conns;
		if (vsock->deaf)
			event_set(vsock->listening, 0);
		return;
	}
	struct vsock_conn *conn = add(vsock, VSOCK_GREETING, free_port(vsock), 0);
	if (!conn)
		close(fd);
	else if (vsock_conn_open(conn, vsock->v.env.loop, fd, on_client, &err))
		forget(vsock, conn);
}

/* ---- packets from the guest ---- */

static void refuse(struct vsock *vsock, const struct packet *p)
{
	if (p->op != OP_RST && vsock->refusals < REFUSALS)
		vsock->refusal[vsock->refusals++] =
		    (struct refusal){ .host_port = p->dst_port, .guest_port = p->src_port, .type = p->type };
}

static void take_request(struct vsock *vsock, const struct packet *p)
{
	char path[UNIX_PATH_MAX_SIZE + 1];
	struct error err;

	snprintf(path, sizeof(path), "%s_%u", vsock->options.path, p->dst_port);
	int fd = unix_connect(path, &err);
	if (fd < 0) {
		refuse(vsock, p);
		return;
	}
	struct vsock_conn *conn = add(vsock, VSOCK_OPEN, p->dst_port, p->src_port);
	if (!conn) {
		close(fd);
		refuse(vsock, p);
		return;
	}
	conn->guest_buffer = p->buf_alloc;
	conn->guest_forwarded = p->fwd_cnt;
	if (vsock_conn_open(conn, vsock->v.env.loop, fd, on_client, &err)) {
		kill_conn(conn);
		return;
	}
	conn->tell = VSOCK_TELL_RESPONSE;
	push_ready(vsock, conn);
}

static void take_response(struct vsock_conn *conn)
{
	char line[32];

	if (conn->state != VSOCK_REQUESTED) {
		kill_conn(conn);
		return;
	}
	conn->state = VSOCK_OPEN;
	snprintf(line, sizeof(line), "OK %u\n", conn->host_port);
	if (!vsock_conn_say(conn, line))
		kill_conn(conn);
	else
		push_ready(conn->vsock, conn);
}

/* The bytes behind the header. */
static bool take_data(struct vsock_conn *conn, const struct packet *p, const struct virtqueue_chain *chain)
{
	size_t skip = HEADER, left = p->len;
	bool fits = true;

	for (unsigned i = 0; fits && left && i < chain->outs; i++) {
		if (skip >= chain->out[i].iov_len) {
			skip -= chain->out[i].iov_len;
			continue;
		}
		struct iovec iov = { (uint8_t *)chain->out[i].iov_base + skip, chain->out[i].iov_len - skip };
		skip = 0;
		if (iov.iov_len > left)
			iov.iov_len = left;
		left -= iov.iov_len;
		fits = vsock_conn_write(conn, &iov, 1);
	}
	return fits;
}

static void take_for_conn(struct vsock_conn *conn, const struct packet *p, const struct virtqueue_chain *chain)
{
	if (p->op == OP_RST) {
		forget(conn->vsock, conn);
		return;
	}
	if (conn->state == VSOCK_DEAD)
		return; /* it will hear of it */
	conn->guest_buffer = p->buf_alloc;
	conn->guest_forwarded = p->fwd_cnt;
	bool open = conn->state == VSOCK_OPEN, fine = true;
	switch (p->op) {
	case OP_RESPONSE:
		take_response(conn);
		return;
	case OP_RW:
		fine = open && !(conn->guest_shutdown & VSOCK_NO_SEND) && take_data(conn, p, chain);
		break;
	case OP_SHUTDOWN:
		fine = open;
		conn->guest_shutdown |= p->flags & VSOCK_NO_MORE;
		if (conn->guest_shutdown & VSOCK_NO_RECEIVE && conn->fd >= 0)
			shutdown(conn->fd, SHUT_RD);
		break;
	case OP_CREDIT_REQUEST:
		conn->tell |= VSOCK_TELL_CREDIT;
		break;
	case OP_CREDIT_UPDATE:
		break;
	default:
		fine = false;
	}
	if (fine)
		settle(conn);
	else
		kill_conn(conn);
}

static void parse_packet(struct packet *p, const uint8_t h[HEADER])
{
	*p = (struct packet){
		.src_cid = bytes_le64(h),
		.dst_cid = bytes_le64(h + 8),
		.src_port = bytes_le32(h + 16),
		.dst_port = bytes_le32(h + 20),
		.len = bytes_le32(h + 24),
		.type = bytes_le16(h + 28),
		.op = bytes_le16(h + 30),
		.flags = bytes_le32(h + 32),
		.buf_alloc = bytes_le32(h + 36),
		.fwd_cnt = bytes_le32(h + 40),
	};
}

static bool take_packet(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	struct vsock *vsock = of(v);
	uint8_t header[HEADER];
	struct packet p;

	if (vsock->refusals == REFUSALS) {
		vsock->tx_waits = true;
		virtqueue_unpop(vq, chain);
		return false;
	}
	if (virtqueue_chain_read(chain, 0, header, HEADER) == HEADER) {
		parse_packet(&p, header);
		struct vsock_conn *conn = find(vsock, p.dst_port, p.src_port);
		bool ours = p.src_cid == vsock->options.cid && p.dst_cid == HOST_CID && p.type == TYPE_STREAM &&
			    p.len <= chain->out_size - HEADER;
		if (!ours)
			refuse(vsock, &p);
		else if (conn)
			take_for_conn(conn, &p, chain);
		else if (p.op == OP_REQUEST)
			take_request(vsock, &p);
		else
			refuse(vsock, &p);
	}
	virtqueue_push(vq, chain, 0);
	return true;
}

/* ---- the device ---- */

/* After a saved state was loaded: 5.10.6.8. */
static void send_event(struct vsock *vsock)
{
	struct virtqueue *vq = &vsock->v.queue[QUEUE_EVENT].vq;
	uint8_t event[4];

	if (!vsock->reset_event)
		return;
	struct virtqueue_chain *chain = virtqueue_pop(vq);
	if (!chain) {
		virtqueue_kicks_on(vq);
		return;
	}
	vsock->reset_event = false;
	bytes_put_le32(event, EVENT_RESET);
	virtqueue_push(vq, chain, virtqueue_chain_write(chain, 0, event, sizeof(event)));
	virtqueue_interrupt(vq);
}

static void vsock_notify(struct virtio *v, unsigned queue)
{
	if (queue == QUEUE_TX)
		virtio_serve(v, queue, take_packet);
	if (queue == QUEUE_EVENT)
		send_event(of(v));
	else
		pump(of(v));
}

static void vsock_reset(struct virtio *v)
{
	struct vsock *vsock = of(v);

	forget_all(vsock);
	vsock->reset_event = false;
}

static void vsock_save(struct virtio *v, struct state_writer *w)
{
	state_put_u64(w, "cid", of(v)->options.cid);
}

/* Connections are not carried over: whoever had their other ends is elsewhere. */
static int vsock_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	uint64_t cid = 0;

	state_get_u64(r, "cid", &cid);
	if (state_failed(r, err))
		return -EINVAL;
	of(v)->reset_event = true;
	return 0;
}

static const struct keys_item keys[] = {
	{ .name = "cid",
	  .kind = KEYS_NUMBER,
	  .offset = offsetof(struct options, cid),
	  .min = HOST_CID + 1,
	  .max = UINT32_MAX - 1 },
	{ .name = "path", .kind = KEYS_STRING, .offset = offsetof(struct options, path) },
	{ .name = NULL },
};

static void vsock_destroy(struct virtio *v)
{
	struct vsock *vsock = of(v);

	forget_all(vsock);
	event_remove(vsock->listening);
	if (vsock->listener >= 0) {
		close(vsock->listener);
		unlink(vsock->options.path);
	}
	keys_free(keys, &vsock->options);
	virtio_fini(v);
	free(vsock);
}

static const struct virtio_ops vsock_ops = {
	.name = "virtio-vsock",
	.version = 1,
	.type = VIRTIO_TYPE_VSOCK,
	.class_code = 0x028000,
	.reset = vsock_reset,
	.notify = vsock_notify,
	.save = vsock_save,
	.load = vsock_load,
	.destroy = vsock_destroy,
};

/* ---- making ---- */

static int parse(const char *text, struct options *o, struct error *err)
{
	*o = (struct options){ 0 };
	int rc = keys_parse(text, keys, o, err);

	if (rc)
		return rc;
	if (!o->cid || !o->path)
		return error_set(err, -EINVAL, "needs the guest's number and a socket: cid=3,path=PATH");
	if (strlen(o->path) > UNIX_PATH_MAX_SIZE - PORT_SUFFIX)
		return error_set(err, -EINVAL, "%s is too long, as ports are put behind it: at most %d bytes", o->path,
				 UNIX_PATH_MAX_SIZE - PORT_SUFFIX);
	return 0;
}

int virtio_vsock_check(const char *text, struct error *err)
{
	struct options o;
	int rc = parse(text, &o, err);

	keys_free(keys, &o);
	return rc;
}

int virtio_vsock_create(struct virtio **v, const struct virtio_env *env, const char *text, struct error *err)
{
	struct vsock *vsock = memory_zalloc(sizeof(*vsock));
	int rc = parse(text, &vsock->options, err);

	*v = NULL;
	if (rc) {
		keys_free(keys, &vsock->options);
		free(vsock);
		return rc;
	}
	vsock->ready_end = &vsock->ready;
	vsock->next_port = FIRST_PORT;
	virtio_init(&vsock->v, &vsock_ops, env, 0, QUEUES, QUEUE_SIZE, CONFIG_SIZE);
	bytes_put_le64(vsock->v.config, vsock->options.cid);
	vsock->listener = unix_listen(vsock->options.path, err);
	rc = vsock->listener < 0 ? vsock->listener : 0;
	if (!rc)
		rc = event_add(env->loop, &vsock->listening, vsock->listener, EPOLLIN, on_knock, vsock, err);
	if (rc)
		vsock_destroy(&vsock->v);
	else
		*v = &vsock->v;
	return rc;
}
