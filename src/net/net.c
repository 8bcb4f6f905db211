/* SPDX-License-Identifier: Apache-2.0 */
/* net.c - what all back ends have: finding one, its options, the rate limit. */
#include "net/net.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "net/backend.h"

#define NS_PER_S 1000000000ull

_Static_assert(sizeof(struct net_header) == NET_HEADER_SIZE, "as it is on the wire");

static const struct net_backend *const backends[] = {
#define NET_BACKEND(name) &net_##name,
#include "net/backends.def"
#undef NET_BACKEND
};

enum { BACKENDS = sizeof(backends) / sizeof(*backends), MAC_TEXT = 17 };

/* ---- options ---- */

static int find(const char *options, const struct net_backend **backend, struct error *err)
{
	char names[128] = "";

	if (!strncmp(options, "type=", 5))
		options += 5;
	for (unsigned i = 0; i < BACKENDS; i++) {
		size_t size = strlen(backends[i]->name);
		if (!strncmp(options, backends[i]->name, size) && (!options[size] || options[size] == ',')) {
			*backend = backends[i];
			return 0;
		}
		strncat(names, i ? ", " : "", sizeof(names) - strlen(names) - 1);
		strncat(names, backends[i]->name, sizeof(names) - strlen(names) - 1);
	}
	return error_set(err, -EINVAL, "a network card can't be connected to '%.*s': use one of %s",
			 (int)(strcspn(options, ",") < 40 ? strcspn(options, ",") : 40), options, names);
}

int net_parse_mac(const char *text, uint8_t mac[6], struct error *err)
{
	unsigned v[6];
	int end = 0;

	if (strspn(text, "0123456789abcdefABCDEF:") != MAC_TEXT || strlen(text) != MAC_TEXT ||
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &end) != 6 ||
	    end != MAC_TEXT)
		return error_set(err, -EINVAL, "'%.40s' is no MAC address: write one like 02:00:5e:10:20:30", text);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)v[i];
	if (mac[0] & 1)
		return error_set(err, -EINVAL, "%s is a group's address, not a card's: its first byte must be even",
				 text);
	return 0;
}

static void free_options(const struct net_backend *backend, struct net_options *options)
{
	keys_free(backend->keys, options);
	free(options);
}

static int parse(const char *text, const struct net_backend **backend, struct net_options **options, struct error *err)
{
	int rc = find(text, backend, err);
	uint8_t mac[6];

	if (rc)
		return rc;
	*options = memory_zalloc((*backend)->options_size);
	rc = keys_parse(text, (*backend)->keys, *options, err);
	if (!rc && (*options)->mac)
		rc = net_parse_mac((*options)->mac, mac, err);
	if (!rc && (*backend)->check)
		rc = (*backend)->check(*options, err);
	if (rc)
		free_options(*backend, *options);
	return rc;
}

int net_check(const char *text, struct error *err)
{
	const struct net_backend *backend;
	struct net_options *options;
	int rc = parse(text, &backend, &options, err);

	if (!rc)
		free_options(backend, options);
	return rc;
}

const struct net_options *net_options(const struct net *net)
{
	return net->options;
}

unsigned net_queues(const struct net *net)
{
	return net->queues;
}

/* ---- the rate limit ---- */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void wait_for_tokens(struct net *net)
{
	uint64_t at = now(), in = net->in_held ? token_bucket_wait(&net->in, at) : UINT64_MAX,
		 out = net->out_held ? token_bucket_wait(&net->out, at) : UINT64_MAX;
	uint64_t wait = in < out ? in : out;

	if (wait == UINT64_MAX)
		return;
	if (!wait)
		wait = 1;
	struct itimerspec spec = { .it_value = { (time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S) } };
	timerfd_settime(net->timer, 0, &spec, NULL);
}

static void on_timer(void *arg, uint32_t ready)
{
	struct net *net = arg;
	uint64_t count, at = now();
	ssize_t ignored = read(net->timer, &count, sizeof(count));
	uint32_t in = token_bucket_open(&net->in, at) ? net->in_held : 0;
	uint32_t out = token_bucket_open(&net->out, at) ? net->out_held : 0;

	(void)ready;
	(void)ignored;
	net->in_held &= ~in;
	net->out_held &= ~out;
	for (unsigned i = 0; i < net->queues; i++) {
		if (in >> i & 1 && net->backend->resume)
			net->backend->resume(net, i);
		if (out >> i & 1)
			net->card.writable(net->card.ctx, i);
	}
	wait_for_tokens(net);
}

static int make_limit(struct net *net, struct error *err)
{
	uint64_t rate = net->options->bps;

	if (!rate)
		return 0;
	token_bucket_init(&net->in, rate, NET_FRAME_MAX, now());
	token_bucket_init(&net->out, rate, NET_FRAME_MAX, now());
	net->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (net->timer < 0)
		return error_errno(err, -errno, "the network's rate limit: timerfd_create");
	return event_add(net->loop, &net->timer_source, net->timer, EPOLLIN, on_timer, net, err);
}

/* Whether one may pass; else `held` remembers that its queue waits. */
static bool may_pass(struct net *net, struct token_bucket *bucket, uint32_t *held, unsigned queue)
{
	if (!bucket->rate || token_bucket_open(bucket, now()))
		return true;
	*held |= UINT32_C(1) << queue;
	wait_for_tokens(net);
	return false;
}

/* ---- packets ---- */

bool net_send(struct net *net, unsigned queue, const struct net_packet *packet)
{
	if (!may_pass(net, &net->out, &net->out_held, queue) || !net->backend->send(net, queue, packet))
		return false;
	token_bucket_take(&net->out, packet->size);
	return true;
}

void net_sent(struct net *net, unsigned queue)
{
	if (net->backend->sent)
		net->backend->sent(net, queue);
}

void net_resume(struct net *net, unsigned queue)
{
	if (net->backend->resume && !(net->in_held >> queue & 1))
		net->backend->resume(net, queue);
}

bool net_receive(struct net *net, unsigned queue, const struct net_packet *packet)
{
	if (!net->pairs)
		return true;
	if (!may_pass(net, &net->in, &net->in_held, queue) || !net->card.receive(net->card.ctx, queue, packet))
		return false;
	token_bucket_take(&net->in, packet->size);
	return true;
}

void net_received(struct net *net, unsigned queue)
{
	net->card.received(net->card.ctx, queue);
}

void net_writable(struct net *net, unsigned queue)
{
	if (!(net->out_held >> queue & 1))
		net->card.writable(net->card.ctx, queue);
}

void net_link(struct net *net, bool up)
{
	net->card.link(net->card.ctx, up);
}

void net_warn(struct net *net, const char *format, ...)
{
	char text[512];
	va_list args;

	if (!net->card.warn)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	net->card.warn(net->card.ctx, text);
}

/* ---- life ---- */

static void free_net(struct net *net)
{
	event_remove(net->timer_source);
	if (net->timer >= 0)
		close(net->timer);
	free_options(net->backend, net->options);
	free(net);
}

int net_open(struct net **result, const char *text, struct event_loop *loop, const struct net_card *card,
	     struct error *err)
{
	const struct net_backend *backend;
	struct net_options *options;
	int rc = parse(text, &backend, &options, err);

	*result = NULL;
	if (rc)
		return rc;
	struct net *net = memory_zalloc(backend->size);
	net->backend = backend;
	net->options = options;
	net->loop = loop;
	net->card = *card;
	net->queues = 1;
	net->timer = -1;
	rc = make_limit(net, err);
	if (!rc)
		rc = backend->open(net, err);
	if (rc) {
		free_net(net);
		return rc;
	}
	assert(net->queues && net->queues <= NET_QUEUES_MAX);
	*result = net;
	return 0;
}

void net_close(struct net *net)
{
	if (!net)
		return;
	if (net->backend->close)
		net->backend->close(net);
	free_net(net);
}

void net_run(struct net *net, unsigned pairs)
{
	net->pairs = pairs;
	if (net->backend->run)
		net->backend->run(net, pairs);
}

void net_offloads(struct net *net, unsigned can)
{
	if (net->backend->offloads)
		net->backend->offloads(net, can);
}
