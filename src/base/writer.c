/* SPDX-License-Identifier: Apache-2.0 */
#include "base/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"

struct writer {
	FILE *file;
	int fd;
	_Atomic int error; /* 0, or the first -errno */
};

static ssize_t on_write(void *cookie, const char *data, size_t size)
{
	struct writer *w = cookie;
	ssize_t n;
	int none = 0;

	do
		n = write(w->fd, data, size);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	atomic_compare_exchange_strong(&w->error, &none, -errno);
	return 0; /* fopencookie(3): an error is 0 here, not -1 */
}

struct writer *writer_open(const char *path)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : STDERR_FILENO;

	if (fd < 0)
		return NULL;
	struct writer *w = memory_zalloc(sizeof(*w));
	w->fd = fd;
	w->file = fopencookie(w, "w", (cookie_io_functions_t){ .write = on_write });
	if (!w->file) {
		writer_close(w);
		errno = ENOMEM;
		return NULL;
	}
	if (!path)
		setvbuf(w->file, NULL, _IONBF, 0);
	return w;
}

FILE *writer_file(struct writer *writer)
{
	return writer->file;
}

int writer_flush(struct writer *writer)
{
	bool failed = fflush(writer->file) || ferror(writer->file);
	int error = atomic_load(&writer->error);

	return error ? error : failed ? -EIO : 0;
}

void writer_close(struct writer *writer)
{
	if (!writer)
		return;
	if (writer->file)
		fclose(writer->file);
	if (writer->fd != STDERR_FILENO)
		close(writer->fd);
	free(writer);
}
