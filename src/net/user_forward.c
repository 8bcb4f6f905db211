/* SPDX-License-Identifier: Apache-2.0 */
/* user_forward.c - the user network's forwards, as people write them. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/size.h"
#include "net/user.h"

static int bad(const char *text, struct error *err)
{
	return error_set(err, -EINVAL,
			 "'%.80s' is no forward: write tcp:HOSTPORT:GUESTPORT or udp:ADDRESS:HOSTPORT:GUESTPORT", text);
}

static int parse_port(const char *text, const char *what, unsigned *port, struct error *err)
{
	uint64_t value;
	int rc = number_parse(text, what, 1, 65535, &value, err);

	if (!rc)
		*port = (unsigned)value;
	return rc;
}

/* `parts` is the text without "tcp:", to be taken apart. */
static int parse_parts(const char *text, char *parts, struct user_forward *f, struct error *err)
{
	char *last = strrchr(parts, ':'), *address = NULL, *host = parts;

	if (!last)
		return bad(text, err);
	*last++ = '\0';
	char *colon = strrchr(parts, ':');
	if (colon) {
		*colon = '\0';
		address = parts;
		host = colon + 1;
	}
	f->host.s_addr = htonl(INADDR_LOOPBACK);
	if (address && inet_pton(AF_INET, address, &f->host) != 1)
		return error_set(err, -EINVAL, "forward '%.80s': '%.40s' is no IPv4 address", text, address);
	int rc = parse_port(host, "the host's port", &f->host_port, err);
	if (!rc)
		rc = parse_port(last, "the guest's port", &f->guest_port, err);
	return rc ? error_prefix(err, -EINVAL, "forward '%.80s'", text) : 0;
}

int user_forward_parse(const char *text, struct user_forward *f, struct error *err)
{
	*f = (struct user_forward){ .udp = !strncmp(text, "udp:", 4) };
	if (!f->udp && strncmp(text, "tcp:", 4) != 0)
		return bad(text, err);
	char *parts = memory_strdup(text + 4);
	int rc = parse_parts(text, parts, f, err);
	free(parts);
	return rc;
}
