/* SPDX-License-Identifier: Apache-2.0 */
/* api.c - the server: api.h has the requests. */
#include "api/api.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/folder.h"
#include "api/http.h"
#include "base/memory.h"
#include "host/event.h"
#include "host/unix.h"
#include "vm/vm.h"

enum { CLIENTS_MAX = 8 };

struct client {
	struct api *api;
	int fd; /* -1: none */
	struct event_source *source;
	char *text; /* HTTP_MAX bytes */
	size_t size;
};

struct api {
	struct vm *vm;
	struct folder folder;
	const char *name; /* the last part of the folder's path */
	int listener;
	struct event_source *listening;
	struct client client[CLIENTS_MAX];
	unsigned next; /* whom a newcomer takes the place of, when all are taken */
};

/* ---- what can be asked ---- */

/* 200 and *answer, or another status and err. */
typedef unsigned handler(struct api *api, const json_t *body, json_t **answer, struct error *err);

static handler get_machine, get_balloon, put_balloon;

static const struct {
	const char *method, *path;
	handler *handle;
} requests[] = {
	{ "GET", "/machine", get_machine },
	{ "GET", "/balloon", get_balloon },
	{ "PUT", "/balloon", put_balloon },
};

static unsigned get_machine(struct api *api, const json_t *body, json_t **answer, struct error *err)
{
	struct vm_info info;

	(void)body;
	(void)err;
	vm_get_info(api->vm, &info);
	*answer = json_pack("{s:s, s:i, s:s, s:I, s:I}", "name", api->name, "pid", (int)getpid(), "engine", info.engine,
			    "memory", (json_int_t)info.memory, "cpus", (json_int_t)info.cpus);
	return 200;
}

static unsigned get_balloon(struct api *api, const json_t *body, json_t **answer, struct error *err)
{
	struct vm_balloon balloon;

	(void)body;
	if (vm_get_balloon(api->vm, &balloon, err))
		return 409;
	json_t *statistics = json_object();
	for (unsigned i = 0; i < VM_BALLOON_STATISTICS; i++)
		if (balloon.statistic[i] <= INT64_MAX) /* else the guest has not said */
			json_object_set_new(statistics, vm_balloon_statistics[i],
					    json_integer((json_int_t)balloon.statistic[i]));
	*answer = json_pack("{s:I, s:I, s:o}", "target", (json_int_t)balloon.target, "actual",
			    (json_int_t)balloon.actual, "statistics", statistics);
	return 200;
}

static unsigned put_balloon(struct api *api, const json_t *body, json_t **answer, struct error *err)
{
	const json_t *target = json_object_get(body, "target");

	if (!json_is_integer(target) || json_integer_value(target) < 0) {
		error_set(err, -EINVAL, "target is to be a number of bytes");
		return 400;
	}
	int rc = vm_set_balloon(api->vm, (uint64_t)json_integer_value(target), err);
	if (rc)
		return rc == -EINVAL ? 400 : 409;
	return get_balloon(api, NULL, answer, err);
}

static unsigned serve(struct api *api, const struct http *http, json_t **answer, struct error *err)
{
	json_t *body = NULL;
	bool known = false;

	for (unsigned i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
		if (strcmp(requests[i].path, http->path) != 0)
			continue;
		known = true;
		if (strcmp(requests[i].method, http->method) != 0)
			continue;
		if (http->body_size)
			body = json_loadb(http->body, http->body_size, JSON_REJECT_DUPLICATES, NULL);
		if (http->body_size && !json_is_object(body)) {
			json_decref(body);
			error_set(err, -EINVAL, "the body is no JSON object");
			return 400;
		}
		unsigned status = requests[i].handle(api, body, answer, err);
		json_decref(body);
		return status;
	}
	error_set(err, -ENOENT, known ? "that can't be done to it" : "there is no such thing");
	return known ? 405 : 404;
}

/* ---- clients ---- */

static void drop(struct client *client)
{
	if (client->fd < 0)
		return;
	event_remove(client->source);
	close(client->fd);
	free(client->text);
	*client = (struct client){ .api = client->api, .fd = -1 };
}

/* An answer is small: a socket that does not take it at once is one that nobody reads. */
static void reply(struct client *client, unsigned status, json_t *answer, const struct error *err)
{
	char head[256];

	if (!answer)
		answer = json_pack("{s:s}", "error", err->text);
	char *body = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	if (!body)
		return;
	struct iovec iov[2] = { { head, 0 }, { body, strlen(body) } };
	iov[0].iov_len = http_answer_head(head, sizeof(head), status, iov[1].iov_len);
	const struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };
	if (sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EINTR)
		sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	free(body);
}

static void on_client(void *arg, uint32_t ready)
{
	struct client *client = arg;
	struct error err = { "" };
	struct http http;
	json_t *answer = NULL;

	(void)ready;
	ssize_t n = recv(client->fd, client->text + client->size, HTTP_MAX - client->size, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(client);
		return;
	}
	client->size += (size_t)n;
	long whole = http_parse(&http, client->text, client->size);
	if (!whole && client->size < HTTP_MAX)
		return;
	unsigned status = 400;
	if (whole > 0 && !http.status)
		status = serve(client->api, &http, &answer, &err);
	else
		error_set(&err, -EPROTO, "that is no request");
	reply(client, status, answer, &err);
	drop(client);
}

static void on_knock(void *arg, uint32_t ready)
{
	struct api *api = arg;
	struct client *client = &api->client[api->next];
	struct error err;
	int fd = accept4(api->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)ready;
	if (fd < 0)
		return;
	api->next = (api->next + 1) % CLIENTS_MAX;
	drop(client);
	client->fd = fd;
	client->text = memory_zalloc(HTTP_MAX);
	if (event_add(vm_event_loop(api->vm), &client->source, fd, EPOLLIN, on_client, client, &err))
		drop(client);
}

/* ---- making ---- */

int api_create(struct api **out, struct vm *vm, const char *name, struct error *err)
{
	struct api *api = memory_zalloc(sizeof(*api));

	*out = NULL;
	api->vm = vm;
	api->listener = -1;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		api->client[i] = (struct client){ .api = api, .fd = -1 };
	int rc = folder_make(&api->folder, name, err);
	if (!rc) {
		api->name = strrchr(api->folder.path, '/') + 1;
		api->listener = unix_listen(api->folder.socket, err);
		rc = api->listener < 0 ? api->listener : 0;
	}
	if (!rc)
		rc = event_add(vm_event_loop(vm), &api->listening, api->listener, EPOLLIN, on_knock, api, err);
	if (rc)
		api_destroy(api);
	else
		*out = api;
	return rc;
}

void api_destroy(struct api *api)
{
	if (!api)
		return;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		drop(&api->client[i]);
	event_remove(api->listening);
	if (api->listener >= 0)
		close(api->listener);
	folder_remove(&api->folder);
	free(api);
}
