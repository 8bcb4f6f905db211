/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap.c - a network interface of the host's whose other end is the card: Linux, Documentation/networking/tuntap.rst.
 *
 * Packets go to and from the kernel with their offloads (IFF_VNET_HDR), so a long TCP segment passes the whole host
 * unsplit. Each pair of queues is a descriptor of its own; those that the driver does not use are detached, and have no
 * event source: a detached one would always be ready.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/memory.h"
#include "net/backend.h"
#include "net/offload.h"

enum { AT_ONCE = 64 /* packets, until others get their turn */, IOVS_MAX = 512 };

struct tap_options {
	struct net_options common;
	char *name;
	uint64_t queues;
};

struct tap_queue {
	struct tap *tap;
	int fd;
	bool attached, full; /* full: the kernel took no more, `writable` is owed */
	struct event_source *source;
	struct net_header header;
	size_t pending; /* size of the frame that the card had no room for, or 0 */
	uint8_t *frame;
};

struct tap {
	struct net net;
	char name[IFNAMSIZ];
	bool gone;
	struct tap_queue queue[NET_QUEUES_MAX];
	uint8_t linear[NET_FRAME_MAX];
};

static struct tap *of(struct net *net)
{
	return (struct tap *)net;
}

static unsigned index_of(const struct tap_queue *q)
{
	return (unsigned)(q - q->tap->queue);
}

/* ---- to the card ---- */

static void wait_for(struct tap_queue *q)
{
	if (q->source)
		event_set(q->source, (q->pending ? 0 : EPOLLIN) | (q->full ? EPOLLOUT : 0));
}

static void stop(struct tap_queue *q)
{
	event_remove(q->source);
	q->source = NULL;
	q->pending = 0;
}

/* The interface was deleted under us. */
static void lost(struct tap *tap)
{
	tap->gone = true;
	for (unsigned i = 0; i < tap->net.queues; i++)
		stop(&tap->queue[i]);
	net_link(&tap->net, false);
	net_warn(&tap->net,
		 "the interface %s is gone, so its network card's cable is out until the machine starts again",
		 tap->name);
}

static bool deliver(struct tap_queue *q)
{
	struct iovec iov = { .iov_base = q->frame, .iov_len = q->pending };
	struct net_packet packet = { .header = q->header, .iov = &iov, .iovs = 1, .size = q->pending };

	if (!net_receive(&q->tap->net, index_of(q), &packet))
		return false;
	q->pending = 0;
	return true;
}

static void read_packets(struct tap_queue *q)
{
	struct tap *tap = q->tap;
	unsigned taken = 0;

	for (unsigned i = 0; i < AT_ONCE; i++) {
		struct iovec iov[] = { { &q->header, NET_HEADER_SIZE }, { q->frame, NET_FRAME_MAX } };
		ssize_t n = readv(q->fd, iov, 2);
		if (n < 0 && errno == EBADFD) {
			lost(tap);
			break;
		}
		if (n < 0)
			break;
		if (n <= NET_HEADER_SIZE)
			continue;
		q->pending = (size_t)n - NET_HEADER_SIZE;
		if (!deliver(q)) {
			wait_for(q);
			break;
		}
		taken++;
	}
	if (taken)
		net_received(&tap->net, index_of(q));
}

static void on_ready(void *arg, uint32_t ready)
{
	struct tap_queue *q = arg;

	if (ready & EPOLLOUT && q->full) {
		q->full = false;
		wait_for(q);
		net_writable(&q->tap->net, index_of(q));
	}
	if (ready & ~(uint32_t)EPOLLOUT && !q->pending)
		read_packets(q);
	else if (ready & EPOLLERR)
		lost(q->tap);
}

static void tap_resume(struct net *net, unsigned queue)
{
	struct tap_queue *q = &of(net)->queue[queue];

	if (!q->pending || !deliver(q))
		return;
	net_received(net, queue);
	wait_for(q);
}

/* ---- from the card ---- */

static bool tap_send(struct net *net, unsigned queue, const struct net_packet *packet)
{
	struct tap *tap = of(net);
	struct tap_queue *q = &tap->queue[queue < net->pairs ? queue : 0];
	struct net_header header = packet->header;
	struct iovec iov[IOVS_MAX + 1] = { { &header, NET_HEADER_SIZE } };
	unsigned n = 1;

	if (tap->gone)
		return true;
	if (packet->iovs > IOVS_MAX) {
		net_packet_copy(packet, tap->linear);
		iov[n++] = (struct iovec){ tap->linear, packet->size };
	} else {
		memcpy(iov + 1, packet->iov, packet->iovs * sizeof(*iov));
		n += packet->iovs;
	}
	/* What the kernel does not like about a packet, or an interface that is down, loses the packet. */
	if (writev(q->fd, iov, (int)n) >= 0 || errno != EAGAIN || !q->source)
		return true;
	q->full = true;
	wait_for(q);
	return false;
}

static void tap_offloads(struct net *net, unsigned can)
{
	unsigned flags = 0;

	if (can & NET_CAN_CHECKSUM)
		flags = TUN_F_CSUM | (can & NET_CAN_TCP4 ? TUN_F_TSO4 : 0) | (can & NET_CAN_TCP6 ? TUN_F_TSO6 : 0) |
			(can & NET_CAN_ECN ? TUN_F_TSO_ECN : 0);
	/* Where it fails the card does without. */
	ioctl(of(net)->queue[0].fd, TUNSETOFFLOAD, flags);
}

/* ---- queues ---- */

static void attach(struct tap_queue *q, bool on)
{
	struct ifreq request = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (on == q->attached)
		return;
	if (!on)
		stop(q);
	if (!ioctl(q->fd, TUNSETQUEUE, &request))
		q->attached = on;
}

static void tap_run(struct net *net, unsigned pairs)
{
	struct tap *tap = of(net);

	for (unsigned i = net->queues; i-- > 1;)
		attach(&tap->queue[i], i < pairs);
	for (unsigned i = 0; i < net->queues; i++) {
		struct tap_queue *q = &tap->queue[i];
		if (tap->gone || i >= pairs || !q->attached)
			stop(q);
		else if (!q->source && event_add(net->loop, &q->source, q->fd, EPOLLIN, on_ready, q, NULL))
			net_warn(net, "can't wait for packets of %s", tap->name);
		q->full = false;
	}
}

/* ---- opening ---- */

static int explain(const struct tap *tap, int rc, bool many, struct error *err)
{
	const char *name = tap->name;

	switch (rc) {
	case -EPERM:
	case -EACCES:
		return error_set(
		    err, rc,
		    "you may not use the interface %s: have root run 'ip tuntap add %s mode tap%s user %u', or use "
		    "--net user, which needs no right",
		    name, name, many ? " multi_queue" : "", (unsigned)getuid());
	case -EBUSY:
		return error_set(err, rc, "the interface %s is in use by another program: choose another name=", name);
	case -EINVAL:
		return error_set(
		    err, -ENODEV,
		    "%s is no tap interface%s: have root run 'ip tuntap add %s mode tap%s', or choose another name=",
		    name, many ? " with several queues" : "", name, many ? " multi_queue" : "");
	default:
		return error_errno(err, rc, "can't use the interface %s", name);
	}
}

static int open_device(struct error *err)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	int rc = -errno;
	if (rc == -ENOENT || rc == -ENODEV || rc == -ENXIO)
		return error_set(err, rc,
				 "this host has no tap interfaces: have root run 'modprobe tun', or use --net user");
	if (rc == -EACCES || rc == -EPERM)
		return error_set(
		    err, rc,
		    "you may not open /dev/net/tun: have root allow it, or use --net user, which needs no right");
	return error_errno(err, rc, "can't open /dev/net/tun");
}

/* One more descriptor of the interface, which is made if it is not there and that is allowed. */
static int open_queue(struct tap *tap, bool many)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = tap->queue[tap->net.queues].fd, size = NET_HEADER_SIZE;

	memcpy(request.ifr_name, tap->name, sizeof(tap->name));
	if (many)
		request.ifr_flags |= IFF_MULTI_QUEUE;
	int r = ioctl(fd, TUNSETIFF, &request);
	if (r && errno == EINVAL && !many) { /* one that was made for several queues takes one as well */
		request.ifr_flags |= IFF_MULTI_QUEUE;
		r = ioctl(fd, TUNSETIFF, &request);
	}
	return r || ioctl(fd, TUNSETVNETHDRSZ, &size) ? -errno : 0;
}

/* Where we may; else whoever made it has to. */
static void bring_up(const struct tap *tap)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	memcpy(request.ifr_name, tap->name, sizeof(tap->name));
	if (!ioctl(fd, SIOCGIFFLAGS, &request) && !(request.ifr_flags & IFF_UP)) {
		request.ifr_flags |= IFF_UP;
		ioctl(fd, SIOCSIFFLAGS, &request);
	}
	close(fd);
}

static void tap_close(struct net *net)
{
	struct tap *tap = of(net);

	for (unsigned i = 0; i < net->queues; i++) {
		event_remove(tap->queue[i].source);
		close(tap->queue[i].fd);
		free(tap->queue[i].frame);
	}
}

static int tap_open(struct net *net, struct error *err)
{
	struct tap *tap = of(net);
	const struct tap_options *options = (const struct tap_options *)(const void *)net->options;
	unsigned queues = options->queues ? (unsigned)options->queues : 1;
	int rc = 0;

	strncpy(tap->name, options->name ? options->name : "tap0", sizeof(tap->name) - 1);
	for (net->queues = 0; net->queues < queues; net->queues++) {
		struct tap_queue *q = &tap->queue[net->queues];
		q->tap = tap;
		q->fd = open_device(err);
		if (q->fd < 0) {
			rc = q->fd;
			break;
		}
		rc = open_queue(tap, queues > 1);
		if (rc) {
			rc = explain(tap, rc, queues > 1, err);
			close(q->fd);
			break;
		}
		q->attached = true;
		q->frame = memory_zalloc(NET_FRAME_MAX);
	}
	if (rc) {
		tap_close(net);
		return rc;
	}
	for (unsigned i = queues; i-- > 1;)
		attach(&tap->queue[i], false);
	bring_up(tap);
	net_link(net, true);
	return 0;
}

static int tap_check(const struct net_options *options, struct error *err)
{
	const char *name = ((const struct tap_options *)(const void *)options)->name;

	if (name && (strlen(name) >= IFNAMSIZ || strpbrk(name, "/% :\t") || !strcmp(name, ".") || !strcmp(name, "..")))
		return error_set(err, -EINVAL,
				 "'%.40s' can't be an interface's name: it has at most %d letters and no / or %%", name,
				 IFNAMSIZ - 1);
	return 0;
}

static const struct keys_item tap_keys[] = {
	NET_KEYS,
	{ .name = "name", .kind = KEYS_STRING, .offset = offsetof(struct tap_options, name) },
	{ .name = "queues",
	  .kind = KEYS_NUMBER,
	  .offset = offsetof(struct tap_options, queues),
	  .min = 1,
	  .max = NET_QUEUES_MAX },
	{ .name = NULL },
};

const struct net_backend net_tap = {
	.name = "tap",
	.keys = tap_keys,
	.options_size = sizeof(struct tap_options),
	.size = sizeof(struct tap),
	.check = tap_check,
	.open = tap_open,
	.close = tap_close,
	.run = tap_run,
	.offloads = tap_offloads,
	.send = tap_send,
	.resume = tap_resume,
};
