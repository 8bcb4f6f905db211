/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports 0x80 and 0xed: firmware shows its progress there, and kernels write to them to let time pass. Here they are
 * known to do nothing, so that a trace does not show them as accesses to nowhere.
 */
#include "chip/board.h"

#include <stdlib.h>

#include "base/memory.h"
#include "vm/platform.h"

enum { ALTERNATE_PORT = 0xed };

struct post_port {
	struct device dev;
	struct bus *pio;
};

static uint64_t post_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return ~UINT64_C(0);
}

static void post_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)dev;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct io_ops post_io = { .read = post_read, .write = post_write };

static void post_port_reset(struct device *dev)
{
	(void)dev;
}

static void post_port_save(struct device *dev, struct state_writer *w)
{
	(void)dev;
	(void)w;
}

static int post_port_load(struct device *dev, struct state_reader *r, struct error *err)
{
	(void)dev;
	(void)r;
	(void)err;
	return 0;
}

static void post_port_destroy(struct device *dev)
{
	struct post_port *port = (struct post_port *)dev;

	bus_remove(port->pio, PLATFORM_POST_PORT);
	bus_remove(port->pio, ALTERNATE_PORT);
	free(port);
}

static const struct device_ops post_port_ops = {
	.name = "post_port",
	.version = 1,
	.reset = post_port_reset,
	.save = post_port_save,
	.load = post_port_load,
	.destroy = post_port_destroy,
};

struct device *post_port_create(const struct board *board)
{
	struct post_port *port = memory_zalloc(sizeof(*port));

	port->dev.ops = &post_port_ops;
	port->pio = board->pio;
	bus_add(board->pio, PLATFORM_POST_PORT, 1, &post_io, port, "post_port");
	bus_add(board->pio, ALTERNATE_PORT, 1, &post_io, port, "post_port");
	return &port->dev;
}
