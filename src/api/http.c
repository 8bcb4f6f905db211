/* SPDX-License-Identifier: Apache-2.0 */
#include "api/http.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Copies up to `end` into a field: what stands behind it, or NULL. */
static const char *take_word(char *to, size_t room, const char *at, const char *stop, char end)
{
	const char *p = memchr(at, end, (size_t)(stop - at));

	if (!p || p == at || (size_t)(p - at) >= room)
		return NULL;
	memcpy(to, at, (size_t)(p - at));
	to[p - at] = '\0';
	for (const char *c = to; *c; c++)
		if (*c <= ' ' || *c > '~')
			return NULL;
	return p + 1;
}

static bool take_first_line(struct http *http, const char *line, const char *stop)
{
	static const char version[] = "HTTP/1.";
	const size_t size = sizeof(version) - 1;

	if ((size_t)(stop - line) > size + 5 && !memcmp(line, version, size)) {
		const char *p = line + size + 2;
		for (unsigned i = 0; i < 3; i++, p++) {
			if (*p < '0' || *p > '9')
				return false;
			http->status = http->status * 10 + (unsigned)(*p - '0');
		}
		return http->status >= 100;
	}
	line = take_word(http->method, sizeof(http->method), line, stop, ' ');
	if (line)
		line = take_word(http->path, sizeof(http->path), line, stop, ' ');
	return line && (size_t)(stop - line) == size + 1 && !memcmp(line, version, size);
}

/* Of the other lines only the length counts, and an encoding that there may not be. */
static bool take_line(struct http *http, const char *line, const char *stop)
{
	static const char length[] = "content-length:", encoding[] = "transfer-encoding:";
	const size_t size = (size_t)(stop - line);

	if (size >= sizeof(encoding) - 1 && !strncasecmp(line, encoding, sizeof(encoding) - 1))
		return false;
	if (size < sizeof(length) - 1 || strncasecmp(line, length, sizeof(length) - 1) != 0)
		return memchr(line, ':', size);
	line += sizeof(length) - 1;
	while (line < stop && *line == ' ')
		line++;
	if (line == stop)
		return false;
	for (http->body_size = 0; line < stop; line++) {
		if (*line < '0' || *line > '9')
			return false;
		http->body_size = http->body_size * 10 + (unsigned)(*line - '0');
		if (http->body_size > HTTP_BODY_MAX)
			return false;
	}
	return true;
}

long http_parse(struct http *http, const char *text, size_t size)
{
	const char *end = memmem(text, size, "\r\n\r\n", 4), *line = text;

	*http = (struct http){ .status = 0 };
	if (!end)
		return size < HTTP_MAX - HTTP_BODY_MAX ? 0 : -1;
	for (bool first = true; line < end; first = false) {
		const char *stop = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
		if (first ? !take_first_line(http, line, stop) : !take_line(http, line, stop))
			return -1;
		line = stop + 2;
	}
	if (line == text)
		return -1;
	http->body = end + 4;
	size_t whole = (size_t)(http->body - text) + http->body_size;
	return whole <= size ? (long)whole : 0;
}

static const char *reason(unsigned status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	default:
		return "Conflict";
	}
}

size_t http_answer_head(char *to, size_t room, unsigned status, size_t size)
{
	return (size_t)snprintf(to, room,
				"HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
				"Connection: close\r\n\r\n",
				status, reason(status), size);
}

size_t http_request_head(char *to, size_t room, const char *method, const char *path, size_t size)
{
	return (size_t)snprintf(to, room,
				"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
				method, path, size);
}
