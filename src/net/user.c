/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user.c - a network without any privilege: libslirp answers the guest as a router, a DHCP and a DNS server would, and
 * turns its connections into sockets of this process. docs/design/net.md.
 *
 * libslirp wants to be asked before each wait which sockets it waits for, and told afterwards which are ready. Its sockets
 * are in an epoll set of their own, which the event loop waits for as one descriptor; after each batch of work the answer
 * is compared with what the set holds, so a wait costs no system call for a socket that nothing changed for.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "host/library.h"
#include "net/backend.h"
#include "net/user.h"

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define NEVER (INT64_MAX / 2) /* as a deadline */

enum {
	READY_AT_ONCE = 64,
	HELD_MAX = 2 << 20,  /* bytes that wait for the guest; what is more is lost, as on any wire */
	IDLE_TIMEOUT = 1000, /* ms: what libslirp says when it has nothing to wait for */
};

/* What is used of libslirp, which is loaded by the first such network. */
/* clang-format off */
#define SLIRP(F) \
	F(slirp_add_hostfwd) F(slirp_cleanup) F(slirp_handle_timer) F(slirp_input) F(slirp_new) \
	F(slirp_pollfds_fill) F(slirp_pollfds_poll) F(slirp_version_string)
/* clang-format on */
struct slirp_library {
	SLIRP(LIBRARY_POINTER)
};
static const char *const slirp_names[] = { SLIRP(LIBRARY_NAME) };

/* What is known of a descriptor, which is its index in the table. */
struct watched {
	uint32_t wanted, set, ready; /* EPOLL*; set: what the epoll set has, 0 for nothing */
	bool reads;                  /* has been waited for to read: it is connected */
};

/* A frame that the guest had no room for. */
struct held {
	struct held *next;
	size_t size;
	uint8_t frame[];
};

/* libslirp's one timer: router advertisements. */
struct user_timer {
	struct user *user;
	SlirpTimerId id;
	void *opaque;
	int64_t deadline; /* ms */
};

struct user {
	struct net net;
	struct slirp_library lib;
	Slirp *slirp;
	unsigned mtu;
	unsigned can; /* NET_CAN_* */
	bool received;

	int epoll, timer;
	struct event_source *epoll_source, *timer_source;
	struct watched *watched;
	int watched_room, watched_top; /* room of the table; one more than the highest descriptor in use */
	struct user_timer *ra;
	int64_t deadline, armed; /* ms: of libslirp's timeouts; what the timerfd is set to */

	struct held *held, **held_end;
	size_t held_size;

	uint8_t frame[NET_FRAME_MAX], segment[NET_FRAME_MAX];
};

static struct user *of(struct net *net)
{
	return (struct user *)net;
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * (int64_t)NS_PER_S + ts.tv_nsec;
}

static int64_t now_ms(void)
{
	return now_ns() / (int64_t)NS_PER_MS;
}

/* ---- to the guest ---- */

static bool send_to_guest(void *ctx, const struct net_packet *packet)
{
	struct user *user = ctx;

	if (!net_receive(&user->net, 0, packet))
		return false;
	user->received = true;
	return true;
}

static void hold(struct user *user, const void *frame, size_t size)
{
	if (user->held_size + size > HELD_MAX)
		return;
	struct held *held = malloc(sizeof(*held) + size);
	if (!held)
		return;
	held->next = NULL;
	held->size = size;
	memcpy(held->frame, frame, size);
	if (!user->held)
		event_set(user->epoll_source, 0); /* no more from the host until the guest has taken this */
	*user->held_end = held;
	user->held_end = &held->next;
	user->held_size += size;
}

static void drop_held(struct user *user)
{
	struct held *held = user->held;

	user->held = held->next;
	if (!user->held)
		user->held_end = &user->held;
	user->held_size -= held->size;
	free(held);
}

static ssize_t on_packet(const void *frame, size_t size, void *opaque)
{
	struct user *user = opaque;

	if (user->held || !user_fit(frame, size, user->mtu, send_to_guest, user))
		hold(user, frame, size);
	return (ssize_t)size;
}

static void end_batch(struct user *user)
{
	if (user->received)
		net_received(&user->net, 0);
	user->received = false;
}

/* ---- libslirp's sockets and timers ---- */

static void arm(struct user *user)
{
	int64_t deadline = user->ra && user->ra->deadline < user->deadline ? user->ra->deadline : user->deadline;

	/* A timer that goes off early costs less than one that is set for each batch of packets. */
	if (deadline >= NEVER || (user->armed <= deadline && user->armed > now_ms()))
		return;
	user->armed = deadline;
	struct itimerspec spec = { .it_value = { deadline / 1000, deadline % 1000 * 1000000 + 1 } };
	timerfd_settime(user->timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

static uint32_t to_epoll(int events)
{
	return (events & SLIRP_POLL_IN ? EPOLLIN : 0) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0) |
	       (events & SLIRP_POLL_PRI ? EPOLLPRI : 0) | EPOLLERR | EPOLLHUP;
}

static struct watched *watched_at(struct user *user, int fd)
{
	if (fd >= user->watched_room) {
		int room = fd + 64;
		user->watched = memory_resize(user->watched, (size_t)room, sizeof(*user->watched));
		memset(user->watched + user->watched_room, 0,
		       (size_t)(room - user->watched_room) * sizeof(*user->watched));
		user->watched_room = room;
	}
	if (fd >= user->watched_top)
		user->watched_top = fd + 1;
	return &user->watched[fd];
}

static int on_add_poll(int fd, int events, void *opaque)
{
	if (fd < 0)
		return -1;
	struct watched *w = watched_at(opaque, fd);
	w->wanted = to_epoll(events);
	w->reads |= (events & SLIRP_POLL_IN) != 0;
	return fd;
}

static int on_get_ready(int fd, void *opaque)
{
	const struct user *user = opaque;

	if (fd < 0 || fd >= user->watched_top)
		return 0;
	const struct watched *w = &user->watched[fd];
	uint32_t ready = w->ready;
	/* Errors come unasked for, and libslirp answers them by reading, for which it asserts that there is room. A connection
	 * that waits to write only is told that it can: it finds the error by itself. */
	if (ready && w->reads && !(w->set & EPOLLIN))
		return SLIRP_POLL_OUT;
	return (ready & EPOLLIN ? SLIRP_POLL_IN : 0) | (ready & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
	       (ready & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (ready & EPOLLERR ? SLIRP_POLL_ERR : 0) |
	       (ready & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

/* A new socket, perhaps with the number of one that was closed. */
static void on_register(int fd, void *opaque)
{
	if (fd >= 0)
		*watched_at(opaque, fd) = (struct watched){ 0 };
}

static void on_unregister(int fd, void *opaque)
{
	struct user *user = opaque;

	if (fd < 0 || fd >= user->watched_top)
		return;
	if (user->watched[fd].set)
		epoll_ctl(user->epoll, EPOLL_CTL_DEL, fd, NULL);
	user->watched[fd] = (struct watched){ 0 };
}

static void put_into_set(const struct user *user, int fd, struct watched *w)
{
	struct epoll_event event = { .events = w->wanted, .data.fd = fd };
	int op = !w->wanted ? EPOLL_CTL_DEL : w->set ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	int r = epoll_ctl(user->epoll, op, fd, &event);

	/* A socket that was closed behind our back has left the set by itself. */
	if (r && errno == ENOENT && op == EPOLL_CTL_MOD)
		r = epoll_ctl(user->epoll, EPOLL_CTL_ADD, fd, &event);
	else if (r && errno == EEXIST)
		r = epoll_ctl(user->epoll, EPOLL_CTL_MOD, fd, &event);
	w->set = r ? 0 : w->wanted;
}

/* Asks libslirp what it waits for now. */
static void ask(struct user *user)
{
	uint32_t timeout = IDLE_TIMEOUT;

	for (int fd = 0; fd < user->watched_top; fd++)
		user->watched[fd].wanted = 0;
	user->lib.slirp_pollfds_fill(user->slirp, &timeout, on_add_poll, user);
	for (int fd = 0; fd < user->watched_top; fd++)
		if (user->watched[fd].wanted != user->watched[fd].set)
			put_into_set(user, fd, &user->watched[fd]);
	while (user->watched_top && !user->watched[user->watched_top - 1].set)
		user->watched_top--;
	user->deadline = timeout < IDLE_TIMEOUT ? now_ms() + timeout : NEVER;
	arm(user);
}

/* Tells libslirp what is ready, has it do its work, and asks again. */
static void turn(struct user *user, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++)
		user->watched[events[i].data.fd].ready = events[i].events;
	user->lib.slirp_pollfds_poll(user->slirp, 0, on_get_ready, user);
	for (int i = 0; i < n; i++)
		watched_at(user, events[i].data.fd)->ready = 0;
	ask(user);
	end_batch(user);
}

static void on_ready(void *arg, uint32_t ready)
{
	struct user *user = arg;
	struct epoll_event events[READY_AT_ONCE];
	int n = epoll_wait(user->epoll, events, READY_AT_ONCE, 0);

	(void)ready;
	if (n > 0)
		turn(user, events, n);
}

static void on_timer(void *arg, uint32_t ready)
{
	struct user *user = arg;
	uint64_t count;
	ssize_t ignored = read(user->timer, &count, sizeof(count));

	(void)ready;
	(void)ignored;
	user->armed = 0;
	if (user->ra && user->ra->deadline <= now_ms()) {
		user->ra->deadline = NEVER;
		user->lib.slirp_handle_timer(user->slirp, user->ra->id, user->ra->opaque);
	}
	turn(user, NULL, 0);
}

static void *on_timer_new(SlirpTimerId id, void *timer_opaque, void *opaque)
{
	struct user *user = opaque;
	struct user_timer *timer = memory_zalloc(sizeof(*timer));

	*timer = (struct user_timer){ .user = user, .id = id, .opaque = timer_opaque, .deadline = NEVER };
	user->ra = timer;
	return timer;
}

static void on_timer_free(void *timer, void *opaque)
{
	((struct user *)opaque)->ra = NULL;
	free(timer);
}

static void on_timer_mod(void *timer, int64_t deadline, void *opaque)
{
	((struct user_timer *)timer)->deadline = deadline;
	arm(opaque);
}

static int64_t on_clock(void *opaque)
{
	(void)opaque;
	return now_ns();
}

static void on_guest_error(const char *message, void *opaque)
{
	(void)message; /* a guest's mistake is not the user's concern */
	(void)opaque;
}

static void on_notify(void *opaque)
{
	(void)opaque; /* each batch of input ends with asking */
}

static const SlirpCb callbacks = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new_opaque = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_register,
	.unregister_poll_fd = on_unregister,
	.notify = on_notify,
};

/* ---- from the guest ---- */

/* More than libslirp takes in one piece. */
static void send_segments(struct user *user, const struct net_header *header, size_t size)
{
	struct net_segments segments;

	if (!net_segments_begin(&segments, header, user->frame, size))
		return;
	while ((size = net_segments_next(&segments, user->segment)))
		user->lib.slirp_input(user->slirp, user->segment, (int)size);
}

static bool user_send(struct net *net, unsigned queue, const struct net_packet *packet)
{
	struct user *user = of(net);
	struct net_header header = packet->header;

	(void)queue;
	net_packet_copy(packet, user->frame);
	if (packet->size > NET_MTU_MAX + NET_FRAME_MIN) {
		send_segments(user, &header, packet->size);
		return true;
	}
	net_checksum_complete(&header, user->frame, packet->size);
	if ((user->can & (NET_CAN_TCP4 | NET_CAN_TCP6)) == (NET_CAN_TCP4 | NET_CAN_TCP6))
		user_raise_segment_size(user->frame, packet->size);
	user->lib.slirp_input(user->slirp, user->frame, (int)packet->size);
	return true;
}

static void user_sent(struct net *net, unsigned queue)
{
	(void)queue;
	/* Also sends what waited for the guest's answer to an ARP request. */
	turn(of(net), NULL, 0);
}

static void user_resume(struct net *net, unsigned queue)
{
	struct user *user = of(net);

	(void)queue;
	if (!user->held)
		return;
	while (user->held && user_fit(user->held->frame, user->held->size, user->mtu, send_to_guest, user))
		drop_held(user);
	if (!user->held)
		event_set(user->epoll_source, EPOLLIN);
	end_batch(user);
}

/* A driver that went takes what was meant for it along. */
static void user_run(struct net *net, unsigned pairs)
{
	struct user *user = of(net);

	if (pairs || !user->held)
		return;
	while (user->held)
		drop_held(user);
	event_set(user->epoll_source, EPOLLIN);
}

static void user_offloads(struct net *net, unsigned can)
{
	of(net)->can = can;
}

/* ---- opening ---- */

/* Addresses are those that people know from QEMU. */
static SlirpConfig config(bool restricted)
{
	SlirpConfig c = {
		.version = 4,
		.restricted = restricted,
		.in_enabled = true,
		.in6_enabled = true,
		.vprefix_len = 64,
		.if_mtu = NET_MTU_MAX,
		.if_mru = NET_MTU_MAX,
	};

	inet_pton(AF_INET, "10.0.2.0", &c.vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &c.vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &c.vhost);
	inet_pton(AF_INET, "10.0.2.15", &c.vdhcp_start);
	inet_pton(AF_INET, "10.0.2.3", &c.vnameserver);
	inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &c.vhost6);
	inet_pton(AF_INET6, "fec0::3", &c.vnameserver6);
	return c;
}

static const struct user_options *options_of(const struct net *net)
{
	return (const struct user_options *)(const void *)net->options;
}

/* libslirp's own UDP sockets would share the port with whoever has it. */
static int try_udp(const struct user_forward *f)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)f->host_port),
				       .sin_addr = f->host };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	int rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	close(fd);
	return rc;
}

static int add_forward(struct user *user, const char *text, struct error *err)
{
	struct user_forward f;
	char address[INET_ADDRSTRLEN];
	int rc = user_forward_parse(text, &f, err);

	if (rc)
		return rc;
	rc = f.udp ? try_udp(&f) : 0;
	errno = 0;
	if (!rc && user->lib.slirp_add_hostfwd(user->slirp, f.udp, f.host, (int)f.host_port, (struct in_addr){ 0 },
					       (int)f.guest_port))
		rc = errno ? -errno : -EADDRNOTAVAIL;
	if (!rc)
		return 0;
	inet_ntop(AF_INET, &f.host, address, sizeof(address));
	if (rc == -EADDRINUSE)
		return error_set(err, rc, "can't forward %s port %u of %s: it is in use, so choose another port",
				 f.udp ? "UDP" : "TCP", f.host_port, address);
	return error_errno(err, rc, "can't forward %s port %u of %s", f.udp ? "UDP" : "TCP", f.host_port, address);
}

static void user_close(struct net *net)
{
	struct user *user = of(net);

	if (user->slirp)
		user->lib.slirp_cleanup(user->slirp);
	while (user->held)
		drop_held(user);
	free(user->ra);
	event_remove(user->epoll_source);
	event_remove(user->timer_source);
	if (user->epoll >= 0)
		close(user->epoll);
	if (user->timer >= 0)
		close(user->timer);
	free(user->watched);
}

static int make_sources(struct user *user, struct error *err)
{
	user->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (user->epoll < 0)
		return error_errno(err, -errno, "the user network: epoll_create1");
	user->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (user->timer < 0)
		return error_errno(err, -errno, "the user network: timerfd_create");
	int rc = event_add(user->net.loop, &user->epoll_source, user->epoll, EPOLLIN, on_ready, user, err);
	if (!rc)
		rc = event_add(user->net.loop, &user->timer_source, user->timer, EPOLLIN, on_timer, user, err);
	return rc;
}

static int user_open(struct net *net, struct error *err)
{
	struct user *user = of(net);
	const struct user_options *options = options_of(net);
	SlirpConfig slirp_config = config(options->restricted);

	user->epoll = user->timer = -1;
	user->held_end = &user->held;
	user->deadline = NEVER;
	user->mtu = options->common.mtu ? (unsigned)options->common.mtu : NET_MTU;
	int rc = library_load(LIBRARY_SLIRP, slirp_names, LIBRARY_COUNT(slirp_names), &user->lib, err);
	if (!rc)
		rc = make_sources(user, err);
	if (!rc) {
		user->slirp = user->lib.slirp_new(&slirp_config, &callbacks, user);
		if (!user->slirp)
			rc = error_set(err, -EINVAL, "libslirp %s does not start", user->lib.slirp_version_string());
	}
	for (unsigned i = 0; !rc && i < options->forward.count; i++)
		rc = add_forward(user, options->forward.value[i], err);
	if (rc) {
		user_close(net);
		return rc;
	}
	ask(user);
	net_link(net, true);
	return 0;
}

static int user_check(const struct net_options *options, struct error *err)
{
	const struct user_options *o = (const struct user_options *)(const void *)options;
	struct user_forward f;
	int rc = 0;

	for (unsigned i = 0; !rc && i < o->forward.count; i++)
		rc = user_forward_parse(o->forward.value[i], &f, err);
	return rc;
}

static const struct keys_item user_keys[] = {
	NET_KEYS,
	{ .name = "forward", .kind = KEYS_LIST, .offset = offsetof(struct user_options, forward) },
	{ .name = "restrict", .kind = KEYS_FLAG, .offset = offsetof(struct user_options, restricted) },
	{ .name = NULL },
};

const struct net_backend net_user = {
	.name = "user",
	.keys = user_keys,
	.options_size = sizeof(struct user_options),
	.size = sizeof(struct user),
	.check = user_check,
	.open = user_open,
	.close = user_close,
	.run = user_run,
	.offloads = user_offloads,
	.send = user_send,
	.sent = user_sent,
	.resume = user_resume,
};
