/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Port 0xf4, as QEMU's isa-debug-exit: a guest that is a test writes its result v there and the process ends with
 * (v << 1) | 1, which is never 0, so that a result can't be taken for a power-off.
 */
#include "chip/board.h"

#include <stdlib.h>

#include "base/memory.h"
#include "vm/platform.h"

struct debug_exit {
	struct device dev;
	struct board board;
};

static uint64_t debug_exit_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0;
}

static void debug_exit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_exit *port = dev;

	(void)offset;
	(void)size;
	port->board.event(port->board.ctx, BOARD_DEBUG_EXIT, (unsigned)value << 1 | 1);
}

static const struct io_ops debug_exit_io = { .read = debug_exit_read, .write = debug_exit_write };

static void debug_exit_reset(struct device *dev)
{
	(void)dev;
}

static void debug_exit_save(struct device *dev, struct state_writer *w)
{
	(void)dev;
	(void)w;
}

static int debug_exit_load(struct device *dev, struct state_reader *r, struct error *err)
{
	(void)dev;
	(void)r;
	(void)err;
	return 0;
}

static void debug_exit_destroy(struct device *dev)
{
	struct debug_exit *port = (struct debug_exit *)dev;

	bus_remove(port->board.pio, PLATFORM_DEBUG_EXIT_PORT);
	free(port);
}

static const struct device_ops debug_exit_ops = {
	.name = "debug_exit",
	.version = 1,
	.reset = debug_exit_reset,
	.save = debug_exit_save,
	.load = debug_exit_load,
	.destroy = debug_exit_destroy,
};

struct device *debug_exit_create(const struct board *board)
{
	struct debug_exit *port = memory_zalloc(sizeof(*port));

	port->dev.ops = &debug_exit_ops;
	port->board = *board;
	bus_add(board->pio, PLATFORM_DEBUG_EXIT_PORT, 4, &debug_exit_io, port, "debug_exit");
	return &port->dev;
}
