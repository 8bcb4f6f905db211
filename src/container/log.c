/* SPDX-License-Identifier: Apache-2.0 */
#include "container/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 2048 };

static struct {
	int fd;
	bool json, debug;
	const char *program;
} output = { .fd = -1, .program = "plures-oci" };

void log_program(const char *name)
{
	output.program = name;
}

int log_open(const char *path, bool json, bool debug, struct error *err)
{
	output.json = json;
	output.debug = debug;
	if (!path)
		return 0;
	output.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (output.fd < 0)
		return error_errno(err, -errno, "--log: can't open %s", path);
	return 0;
}

/* Writes text as the inside of a JSON string. */
static size_t escape(char *to, size_t room, const char *text)
{
	size_t used = 0;

	for (; *text && used + 8 < room; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			used += (size_t)snprintf(to + used, room - used, "\\%c", c);
		else if (c < 0x20)
			used += (size_t)snprintf(to + used, room - used, "\\u%04x", c);
		else
			to[used++] = (char)c;
	}
	to[used] = 0;
	return used;
}

static void write_line(int fd, const char *line, size_t size)
{
	/* There is nobody left to tell. */
	if (write(fd, line, size) < 0)
		return;
}

static void say(enum log_level level, const char *fmt, va_list args)
{
	static const char *const names[] = { "error", "warning", "debug" };
	char text[LINE / 2], line[LINE], when[40];
	struct timespec now;
	struct tm tm;

	if (level == LOG_DEBUG && !output.debug)
		return;
	vsnprintf(text, sizeof(text), fmt, args);
	if (output.fd < 0 || level == LOG_ERRORS)
		write_line(STDERR_FILENO, line, (size_t)snprintf(line, sizeof(line), "%s: %s\n", output.program, text));
	if (output.fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);

	int used = snprintf(line, sizeof(line), output.json ? "{\"level\":\"%s\",\"msg\":\"" : "level=%s msg=\"",
			    names[level]);
	used += (int)escape(line + used, sizeof(line) - 100 - (size_t)used, text);
	used += snprintf(line + used, sizeof(line) - (size_t)used,
			 output.json ? "\",\"time\":\"%s.%09ldZ\"}\n" : "\" time=%s.%09ldZ\n", when, now.tv_nsec);
	write_line(output.fd, line, (size_t)used);
}

void log_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(LOG_ERRORS, fmt, args);
	va_end(args);
}

void log_warn(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(LOG_WARNINGS, fmt, args);
	va_end(args);
}

void log_debug(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(LOG_DEBUG, fmt, args);
	va_end(args);
}
