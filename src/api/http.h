/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http.h - as much of HTTP/1.1 (RFC 9112) as a request and an answer with a JSON body need: a length, no encodings, nothing
 * kept alive. Pure functions.
 */
#ifndef PLURES_API_HTTP_H
#define PLURES_API_HTTP_H

#include <stddef.h>

enum { HTTP_METHOD = 8, HTTP_PATH = 64, HTTP_BODY_MAX = 16 << 10, HTTP_MAX = HTTP_BODY_MAX + (4 << 10) };

/* A request, or an answer: then `status` is not 0 and method and path are empty. */
struct http {
	char method[HTTP_METHOD], path[HTTP_PATH];
	unsigned status;
	const char *body; /* within what was parsed; not ended */
	size_t body_size;
};

/* Parses what has come so far: the size of a whole message, 0 when there is more to come, -1 when it can't become one. */
long http_parse(struct http *http, const char *text, size_t size);

/* Writes an answer's or a request's head for a body of `size` bytes: its size, less than `room`. */
size_t http_answer_head(char *to, size_t room, unsigned status, size_t size);
size_t http_request_head(char *to, size_t room, const char *method, const char *path, size_t size);

#endif
