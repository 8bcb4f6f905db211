/* SPDX-License-Identifier: Apache-2.0 */
/*
 * switch.c - a private network of one user's machines, without a daemon: docs/design/net.md.
 *
 * The network is a folder. Each card has a socket there that it listens at, and a connection to every other card, made by
 * the later of the two; joining is done under a lock, so each pair has one. A message is a packet: header and frame. As
 * everyone is connected with everyone, nothing is ever passed on, and who leaves takes nobody else's network along.
 *
 * A peer is believed to be the same user's and nothing else: what it sends is checked like what a guest sends.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/memory.h"
#include "net/backend.h"
#include "net/offload.h"
#include "net/switch.h"

enum {
	PEERS_MAX = 64,
	TABLE_SIZE = 1024,           /* a power of two */
	AT_ONCE = 64,                /* packets, until others get their turn */
	PATIENCE_NS = 100000000,     /* for a peer that takes no more */
	SOCKET_BUFFER = 1024 * 1024, /* bytes under way to one peer */
	IOVS_MAX = 512,
	SELF = -1,
};

struct peer {
	struct switch_net *sw;
	int fd;                   /* -1: this place is free */
	bool joined, full, stuck; /* it said hello; a sender waits for it; it took too long and loses packets */
	struct event_source *source;
	struct net_header header;
	size_t pending; /* size of the frame that the card had no room for, or 0 */
	uint8_t *frame;
};

/* Where an address was last seen. What stands in the way of another is forgotten, so a flood of addresses costs nothing. */
struct entry {
	uint8_t mac[6];
	bool used;
	int peer; /* index, or SELF */
};

struct switch_net {
	struct net net;
	struct switch_place place;
	struct event_source *listener;
	int timer; /* for the patience with a peer */
	struct event_source *timer_source;
	bool held, warned;
	struct peer peer[PEERS_MAX];
	struct entry table[TABLE_SIZE];
	uint8_t linear[NET_FRAME_MAX];
};

static struct switch_net *of(struct net *net)
{
	return (struct switch_net *)net;
}

/* ---- addresses ---- */

static struct entry *entry_of(struct switch_net *sw, const uint8_t *mac)
{
	uint32_t hash = 2166136261u;

	for (unsigned i = 0; i < 6; i++)
		hash = (hash ^ mac[i]) * 16777619u;
	return &sw->table[(hash ^ hash >> 16) & (TABLE_SIZE - 1)];
}

static void learn(struct switch_net *sw, const uint8_t *mac, int peer)
{
	struct entry *e = entry_of(sw, mac);

	if (mac[0] & 1)
		return;
	if (peer != SELF && e->used && e->peer == SELF && !memcmp(e->mac, mac, 6)) {
		if (!sw->warned)
			net_warn(&sw->net,
				 "another machine on the network %s has this one's address "
				 "%02x:%02x:%02x:%02x:%02x:%02x: give each "
				 "a --name of its own",
				 sw->place.folder, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
		sw->warned = true;
		return;
	}
	memcpy(e->mac, mac, 6);
	e->used = true;
	e->peer = peer;
}

/* The peer that has the address, or SELF: all of them get the packet. */
static int look_up(struct switch_net *sw, const uint8_t *mac)
{
	const struct entry *e = entry_of(sw, mac);

	if (mac[0] & 1 || !e->used || e->peer == SELF || memcmp(e->mac, mac, 6) != 0)
		return SELF;
	return e->peer;
}

/* ---- peers ---- */

static void let_go(struct switch_net *sw)
{
	if (!sw->held)
		return;
	sw->held = false;
	net_writable(&sw->net, 0);
}

static void wait_for(struct peer *p)
{
	event_set(p->source, (p->pending ? 0 : EPOLLIN) | (p->full || p->stuck ? EPOLLOUT : 0));
}

static void drop_peer(struct peer *p)
{
	struct switch_net *sw = p->sw;
	int index = (int)(p - sw->peer);

	event_remove(p->source);
	close(p->fd);
	free(p->frame);
	*p = (struct peer){ .sw = sw, .fd = -1 };
	for (unsigned i = 0; i < TABLE_SIZE; i++)
		if (sw->table[i].used && sw->table[i].peer == index)
			sw->table[i].used = false;
	let_go(sw); /* perhaps it was waited for */
}

static bool deliver(struct peer *p)
{
	struct iovec iov = { .iov_base = p->frame, .iov_len = p->pending };
	struct net_packet packet = { .header = p->header, .iov = &iov, .iovs = 1, .size = p->pending };

	if (!net_receive(&p->sw->net, 0, &packet))
		return false;
	p->pending = 0;
	return true;
}

/* A message has come that is `size` bytes long: whether the peer may stay. */
static bool take_message(struct peer *p, size_t size)
{
	if (!p->joined) {
		uint8_t hello[SWITCH_HELLO_SIZE] = { 0 };
		if (size != sizeof(hello))
			return false;
		memcpy(hello, &p->header, NET_HEADER_SIZE);
		memcpy(hello + NET_HEADER_SIZE, p->frame, sizeof(hello) - NET_HEADER_SIZE);
		p->joined = !memcmp(hello, SWITCH_HELLO, sizeof(hello));
		return p->joined;
	}
	struct net_packet packet = { .header = p->header, .size = size - NET_HEADER_SIZE };
	if (size < NET_HEADER_SIZE + NET_FRAME_MIN || !net_packet_check(&packet))
		return true; /* a guest of the peer's may have made it up */
	p->pending = size - NET_HEADER_SIZE;
	learn(p->sw, p->frame + 6, (int)(p - p->sw->peer));
	return true;
}

static void read_peer(struct peer *p)
{
	struct switch_net *sw = p->sw;
	bool taken = false, stays = true;

	for (unsigned i = 0; i < AT_ONCE && stays; i++) {
		struct iovec iov[] = { { &p->header, NET_HEADER_SIZE }, { p->frame, NET_FRAME_MAX } };
		struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };
		ssize_t n = recvmsg(p->fd, &message, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		stays = n > 0 && !(message.msg_flags & MSG_TRUNC) && take_message(p, (size_t)n);
		if (stays && p->pending) {
			if (!deliver(p)) {
				wait_for(p);
				break;
			}
			taken = true;
		}
	}
	if (!stays)
		drop_peer(p);
	if (taken)
		net_received(&sw->net, 0);
}

static void on_peer(void *arg, uint32_t ready)
{
	struct peer *p = arg;

	if (ready & EPOLLOUT && (p->full || p->stuck)) {
		p->full = p->stuck = false;
		wait_for(p);
		let_go(p->sw);
	}
	if (p->fd < 0)
		return;
	if (!p->pending)
		read_peer(p);
	else if (ready & (EPOLLHUP | EPOLLERR))
		drop_peer(p);
}

/* Takes fd: a connection to a card of the same user's. */
static void add_peer(struct switch_net *sw, int fd)
{
	unsigned i = 0;
	int size = SOCKET_BUFFER;

	while (i < PEERS_MAX && sw->peer[i].fd >= 0)
		i++;
	struct peer *p = &sw->peer[i];
	if (i == PEERS_MAX ||
	    send(fd, SWITCH_HELLO, SWITCH_HELLO_SIZE, MSG_DONTWAIT | MSG_NOSIGNAL) != SWITCH_HELLO_SIZE) {
		close(fd);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	*p = (struct peer){ .sw = sw, .fd = fd, .frame = memory_zalloc(NET_FRAME_MAX) };
	if (event_add(sw->net.loop, &p->source, fd, EPOLLIN, on_peer, p, NULL)) {
		free(p->frame);
		*p = (struct peer){ .sw = sw, .fd = -1 };
		close(fd);
	}
}

static void on_connection(void *arg, uint32_t ready)
{
	struct switch_net *sw = arg;
	int fd;

	(void)ready;
	while ((fd = switch_accept(&sw->place)) >= 0)
		add_peer(sw, fd);
}

static void on_found(void *ctx, int fd)
{
	add_peer(ctx, fd);
}

/* ---- from the card ---- */

/* 0, or -EAGAIN: it takes no more now. Whatever else fails loses the packet. */
static int send_to(struct switch_net *sw, struct peer *p, const struct net_packet *packet)
{
	struct net_header header = packet->header;
	struct iovec iov[IOVS_MAX + 1] = { { &header, NET_HEADER_SIZE } };
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };

	if (packet->iovs > IOVS_MAX) {
		net_packet_copy(packet, sw->linear);
		iov[1] = (struct iovec){ sw->linear, packet->size };
	} else {
		memcpy(iov + 1, packet->iov, packet->iovs * sizeof(*iov));
		message.msg_iovlen = 1 + packet->iovs;
	}
	return sendmsg(p->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

static void start_patience(struct switch_net *sw)
{
	struct itimerspec spec = { .it_value.tv_nsec = PATIENCE_NS };

	timerfd_settime(sw->timer, 0, &spec, NULL);
}

/* Who is still full after that loses packets until it is not: it must not hold up what goes to others. */
static void on_timer(void *arg, uint32_t ready)
{
	struct switch_net *sw = arg;
	uint64_t count;
	ssize_t ignored = read(sw->timer, &count, sizeof(count));

	(void)ready;
	(void)ignored;
	for (unsigned i = 0; i < PEERS_MAX; i++)
		if (sw->peer[i].full) {
			sw->peer[i].full = false;
			sw->peer[i].stuck = true;
		}
	let_go(sw);
}

static bool send_to_one(struct switch_net *sw, struct peer *p, const struct net_packet *packet)
{
	if (p->stuck || !send_to(sw, p, packet))
		return true;
	if (!p->full)
		start_patience(sw);
	p->full = sw->held = true;
	wait_for(p);
	return false;
}

static bool switch_send(struct net *net, unsigned queue, const struct net_packet *packet)
{
	struct switch_net *sw = of(net);
	uint8_t addresses[12];
	size_t n = 0;

	(void)queue;
	for (unsigned i = 0; i < packet->iovs && n < sizeof(addresses); i++) {
		size_t part =
		    packet->iov[i].iov_len < sizeof(addresses) - n ? packet->iov[i].iov_len : sizeof(addresses) - n;
		memcpy(addresses + n, packet->iov[i].iov_base, part);
		n += part;
	}
	learn(sw, addresses + 6, SELF);
	int to = look_up(sw, addresses);
	if (to != SELF)
		return send_to_one(sw, &sw->peer[to], packet);
	for (unsigned i = 0; i < PEERS_MAX; i++)
		if (sw->peer[i].joined)
			send_to(sw, &sw->peer[i], packet);
	return true;
}

static void switch_resume(struct net *net, unsigned queue)
{
	struct switch_net *sw = of(net);
	bool taken = false;

	for (unsigned i = 0; i < PEERS_MAX; i++) {
		struct peer *p = &sw->peer[i];
		if (!p->pending)
			continue;
		if (!deliver(p))
			break;
		wait_for(p);
		taken = true;
	}
	if (taken)
		net_received(net, queue);
}

/* A driver that went takes what was meant for it along. */
static void switch_run(struct net *net, unsigned pairs)
{
	struct switch_net *sw = of(net);

	for (unsigned i = 0; !pairs && i < PEERS_MAX; i++)
		if (sw->peer[i].pending) {
			sw->peer[i].pending = 0;
			wait_for(&sw->peer[i]);
		}
}

/* ---- opening ---- */

static void switch_close(struct net *net)
{
	struct switch_net *sw = of(net);

	event_remove(sw->listener);
	switch_leave(&sw->place);
	for (unsigned i = 0; i < PEERS_MAX; i++)
		if (sw->peer[i].fd >= 0) {
			event_remove(sw->peer[i].source);
			close(sw->peer[i].fd);
			free(sw->peer[i].frame);
		}
	event_remove(sw->timer_source);
	if (sw->timer >= 0)
		close(sw->timer);
}

static int switch_open(struct net *net, struct error *err)
{
	struct switch_net *sw = of(net);
	const struct switch_options *options = (const struct switch_options *)(const void *)net->options;

	for (unsigned i = 0; i < PEERS_MAX; i++)
		sw->peer[i] = (struct peer){ .sw = sw, .fd = -1 };
	sw->place.listener = -1;
	sw->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	int rc = sw->timer < 0 ? error_errno(err, -errno, "the network: timerfd_create")
			       : event_add(net->loop, &sw->timer_source, sw->timer, EPOLLIN, on_timer, sw, err);
	if (!rc)
		rc = switch_join(&sw->place, options, on_found, sw, err);
	if (!rc)
		rc = event_add(net->loop, &sw->listener, sw->place.listener, EPOLLIN, on_connection, sw, err);
	if (rc) {
		switch_close(net);
		return rc;
	}
	net_link(net, true);
	return 0;
}

static const struct keys_item switch_keys[] = {
	NET_KEYS,
	{ .name = "name", .kind = KEYS_STRING, .offset = offsetof(struct switch_options, name) },
	{ .name = "path", .kind = KEYS_STRING, .offset = offsetof(struct switch_options, path) },
	{ .name = NULL },
};

const struct net_backend net_switch = {
	.name = "switch",
	.keys = switch_keys,
	.options_size = sizeof(struct switch_options),
	.size = sizeof(struct switch_net),
	.check = switch_check,
	.open = switch_open,
	.close = switch_close,
	.run = switch_run,
	.send = switch_send,
	.resume = switch_resume,
};
