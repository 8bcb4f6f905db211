/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two ports that reset a PC: the chip set's reset control at 0xcf9 (ICH data sheet, 13.7.5), which is also the FADT's
 * reset register, and the PS/2's system control port at 0x92.
 */
#include "chip/board.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/memory.h"
#include "vm/platform.h"
#include "vm/state.h"

enum {
	RESET_CPU = 4,    /* its rise resets */
	RESET_KEPT = 0xa, /* hard reset, full reset */
	PORT92_RESET = 1,
	PORT92_A20 = 2,
};

struct reset_port {
	struct device dev;
	struct board board;

	pthread_mutex_t lock; /* guards what follows */
	uint8_t control;
	uint8_t port92;
};

static uint64_t control_read(void *dev, uint64_t offset, unsigned size)
{
	struct reset_port *port = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&port->lock);
	uint8_t value = port->control;
	pthread_mutex_unlock(&port->lock);
	return value;
}

static void control_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_port *port = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&port->lock);
	port->control = value & RESET_KEPT;
	if (value & RESET_CPU)
		port->board.event(port->board.ctx, BOARD_RESET, 0);
	pthread_mutex_unlock(&port->lock);
}

static uint64_t port92_read(void *dev, uint64_t offset, unsigned size)
{
	struct reset_port *port = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&port->lock);
	uint8_t value = port->port92;
	pthread_mutex_unlock(&port->lock);
	return value;
}

static void port92_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_port *port = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&port->lock);
	bool rises = value & PORT92_RESET && !(port->port92 & PORT92_RESET);
	port->port92 = value & (PORT92_RESET | PORT92_A20);
	if (rises)
		port->board.event(port->board.ctx, BOARD_RESET, 0);
	pthread_mutex_unlock(&port->lock);
}

static const struct io_ops control_io = { .read = control_read, .write = control_write };
static const struct io_ops port92_io = { .read = port92_read, .write = port92_write };

static void reset_port_reset(struct device *dev)
{
	struct reset_port *port = (struct reset_port *)dev;

	pthread_mutex_lock(&port->lock);
	port->control = 0;
	port->port92 = PORT92_A20;
	pthread_mutex_unlock(&port->lock);
}

static void reset_port_save(struct device *dev, struct state_writer *w)
{
	struct reset_port *port = (struct reset_port *)dev;

	pthread_mutex_lock(&port->lock);
	state_put_u8(w, "control", port->control);
	state_put_u8(w, "port92", port->port92);
	pthread_mutex_unlock(&port->lock);
}

static int reset_port_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct reset_port *port = (struct reset_port *)dev;
	uint8_t control = 0, port92 = 0;

	state_get_u8(r, "control", &control);
	state_get_u8(r, "port92", &port92);
	if (state_failed(r, err))
		return -EINVAL;
	pthread_mutex_lock(&port->lock);
	port->control = control & RESET_KEPT;
	port->port92 = port92 & (PORT92_RESET | PORT92_A20);
	pthread_mutex_unlock(&port->lock);
	return 0;
}

static void reset_port_destroy(struct device *dev)
{
	struct reset_port *port = (struct reset_port *)dev;

	bus_remove(port->board.reset_bus, PLATFORM_RESET_PORT);
	bus_remove(port->board.pio, PLATFORM_PORT92);
	pthread_mutex_destroy(&port->lock);
	free(port);
}

static const struct device_ops reset_port_ops = {
	.name = "reset_port",
	.version = 1,
	.reset = reset_port_reset,
	.save = reset_port_save,
	.load = reset_port_load,
	.destroy = reset_port_destroy,
};

struct device *reset_port_create(const struct board *board)
{
	struct reset_port *port = memory_zalloc(sizeof(*port));

	port->dev.ops = &reset_port_ops;
	port->board = *board;
	pthread_mutex_init(&port->lock, NULL);
	reset_port_reset(&port->dev);
	bus_add(board->reset_bus, PLATFORM_RESET_PORT, 1, &control_io, port, "reset_port");
	bus_add(board->pio, PLATFORM_PORT92, 1, &port92_io, port, "reset_port");
	return &port->dev;
}
