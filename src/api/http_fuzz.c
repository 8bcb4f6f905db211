/* SPDX-License-Identifier: Apache-2.0 */
/* Messages from whoever connects: what is whole stays whole however much comes behind it, and is within what came. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http http;
	char *text = malloc(size ? size : 1); /* so that a read behind it shows */

	if (!text)
		return 0;
	memcpy(text, data, size);
	long whole = http_parse(&http, text, size);
	if (whole > (long)size || whole < -1)
		abort();
	if (whole > 0) {
		if (http.body < text || http.body + http.body_size > text + size || http.body_size > HTTP_BODY_MAX)
			abort();
		if (!memchr(http.method, 0, sizeof(http.method)) || !memchr(http.path, 0, sizeof(http.path)))
			abort();
	}
	free(text);
	return 0;
}
