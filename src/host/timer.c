/* SPDX-License-Identifier: Apache-2.0 */
#include "host/timer.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)

uint64_t host_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t host_sleeps(void)
{
	struct rusage usage = { 0 };

	getrusage(RUSAGE_THREAD, &usage);
	return (uint64_t)usage.ru_nvcsw;
}

static void on_timer(void *arg, uint32_t ready)
{
	struct host_timer *timer = arg;
	uint64_t count;

	(void)ready;
	if (read(timer->fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) /* else it was armed anew meanwhile */
		timer->fn(timer->arg);
}

int host_timer_init(struct host_timer *timer, struct event_loop *loop, void (*fn)(void *arg), void *arg,
		    struct error *err)
{
	memset(timer, 0, sizeof(*timer));
	timer->fn = fn;
	timer->arg = arg;
	timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (timer->fd < 0) {
		int rc = error_errno(err, -errno, "timerfd_create");
		memset(timer, 0, sizeof(*timer));
		return rc;
	}
	int rc = event_add(loop, &timer->source, timer->fd, EPOLLIN, on_timer, timer, err);
	if (rc) {
		close(timer->fd);
		memset(timer, 0, sizeof(*timer));
	}
	return rc;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };
}

void host_timer_arm(struct host_timer *timer, uint64_t delay, uint64_t period)
{
	struct itimerspec when = {
		.it_value = timespec_of(delay ? delay : 1), /* 0 would disarm it */
		.it_interval = timespec_of(period),
	};

	timerfd_settime(timer->fd, 0, &when, NULL);
}

void host_timer_cancel(struct host_timer *timer)
{
	struct itimerspec never = { 0 };

	timerfd_settime(timer->fd, 0, &never, NULL);
}

void host_timer_fini(struct host_timer *timer)
{
	if (!timer->source)
		return;
	event_remove(timer->source);
	close(timer->fd);
	memset(timer, 0, sizeof(*timer));
}
