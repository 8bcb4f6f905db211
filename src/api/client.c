/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - asking a machine. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/api.h"
#include "api/folder.h"
#include "api/http.h"
#include "base/memory.h"
#include "host/unix.h"

enum { PATIENCE_MS = 10000 };

static int send_request(int fd, const char *method, const char *path, const char *body, struct error *err)
{
	char text[HTTP_MAX];
	size_t size = body ? strlen(body) : 0, head = http_request_head(text, sizeof(text), method, path, size);

	if (size > HTTP_BODY_MAX)
		return error_set(err, -EMSGSIZE, "a request is too long");
	memcpy(text + head, body ? body : "", size);
	if (send(fd, text, head + size, MSG_NOSIGNAL) != (ssize_t)(head + size))
		return error_errno(err, -EIO, "can't ask it");
	return 0;
}

/* Reads until an answer is whole. */
static int receive(int fd, char *text, struct http *http, struct error *err)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t size = 0;
	long whole = 0;

	while (!whole) {
		int ready = poll(&p, 1, PATIENCE_MS);
		if (!ready)
			return error_set(err, -ETIMEDOUT, "it does not answer");
		ssize_t n = recv(fd, text + size, HTTP_MAX - size, 0);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return error_set(err, -EPIPE, "it hung up");
		size += (size_t)n;
		whole = http_parse(http, text, size);
	}
	return whole > 0 && http->status ? 0 : error_set(err, -EPROTO, "its answer makes no sense");
}

/* What a refusal says. */
static int refused(const struct http *http, struct error *err)
{
	json_t *body = json_loadb(http->body, http->body_size, 0, NULL);
	const char *text = json_string_value(json_object_get(body, "error"));
	int rc = error_set(err, -EREMOTEIO, "%s", text ? text : "it refuses");

	json_decref(body);
	return rc;
}

int api_call(const char *machine, const char *method, const char *path, const char *body, char **answer,
	     struct error *err)
{
	struct folder folder;
	struct http http;
	int rc = folder_find(&folder, machine, err);

	*answer = NULL;
	if (rc)
		return rc;
	int fd = unix_connect(folder.socket, err);
	if (fd < 0)
		return error_set(err, -ENOENT, "no machine called '%.60s' is running", machine);
	char *text = memory_zalloc(HTTP_MAX);
	rc = send_request(fd, method, path, body, err);
	if (!rc)
		rc = receive(fd, text, &http, err);
	if (!rc && http.status != 200)
		rc = refused(&http, err);
	if (rc) {
		error_prefix(err, rc, "machine %.60s", machine);
	} else {
		*answer = memory_zalloc(http.body_size + 1);
		memcpy(*answer, http.body, http.body_size);
	}
	free(text);
	close(fd);
	return rc;
}
