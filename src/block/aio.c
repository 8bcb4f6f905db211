/* SPDX-License-Identifier: Apache-2.0 */
#include "block/aio.h"

#include <stddef.h>

int aio_create(struct aio **aio, struct event_loop *loop, bool threads, struct error *err)
{
	/* Whatever is the matter with it (a seccomp profile, a sysctl, an old kernel, locked memory), threads will do. */
	if (!threads && !aio_uring_create(aio, loop, NULL))
		return 0;
	return aio_threads_create(aio, loop, err);
}

void aio_destroy(struct aio *aio)
{
	if (aio)
		aio->ops->destroy(aio);
}
