/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "block/layers.h"

enum { HEAD = 512 };

/* The head is looked at and written from a copy: the guest may change its own bytes meanwhile. */
struct guarded {
	struct block_request write, *request;
	uint8_t head[4096];
	struct iovec iov[];
};

/* The iovecs for `head` bytes from the copy and then the rest of the request. */
static void make_iov(struct guarded *g, size_t head)
{
	const struct block_request *r = g->request;
	size_t skip = head;

	g->iov[g->write.iovs++] = (struct iovec){ .iov_base = g->head, .iov_len = head };
	for (unsigned i = 0; i < r->iovs; i++) {
		size_t here = skip < r->iov[i].iov_len ? skip : r->iov[i].iov_len;
		memcpy(g->head + head - skip, r->iov[i].iov_base, here);
		skip -= here;
		if (here < r->iov[i].iov_len)
			g->iov[g->write.iovs++] = (struct iovec){
				.iov_base = (uint8_t *)r->iov[i].iov_base + here,
				.iov_len = r->iov[i].iov_len - here,
			};
	}
}

static void guarded_done(struct block_request *write, int result)
{
	struct guarded *g = (struct guarded *)write;

	block_done(g->request, result);
	free(g);
}

void block_guard_write(struct block *block, struct block_request *request)
{
	size_t head = request->size < block->alignment ? request->size : block->alignment;
	struct guarded *g = memory_zalloc(sizeof(*g) + (request->iovs + 1) * sizeof(*g->iov));

	g->request = request;
	g->write = (struct block_request){
		.op = BLOCK_WRITE,
		.size = request->size,
		.iov = g->iov,
		.done = guarded_done,
		.block = block,
	};
	make_iov(g, head);
	if (block_probe(g->head, HEAD)) {
		block_warn(
		    block,
		    "%s: the guest wrote the header of a disk image to its first sector; refused, since the disk's "
		    "format was guessed: say format=raw if the guest may",
		    block_where(block));
		block_done(request, -EPERM);
		free(g);
		return;
	}
	block->under_way++;
	block->ops->submit(block, &g->write);
}
