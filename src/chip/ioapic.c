/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O APIC: Intel 82093AA data sheet, with the EOI register of the ICH's (version 0x20).
 *
 * An edge is delivered at once or, while its pin is masked, ignored (3.2.4, interrupt mask). A level is delivered while
 * its line is up, but not again before its remote IRR is cleared by an end of interrupt.
 */
#include "chip/ioapic.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/memory.h"
#include "vm/platform.h"
#include "vm/state.h"

enum { PINS = PLATFORM_IOAPIC_PINS };

/* Offsets in the page. */
enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };

/* Indirect registers. */
enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_REDIRECTION = 0x10 };

#define VERSION (0x20u | (PINS - 1) << 16)

/* A redirection entry: 82093AA, 3.2.4. */
#define RTE_VECTOR UINT64_C(0xff)
#define RTE_DELIVERY_SHIFT 8
#define RTE_LOGICAL (UINT64_C(1) << 11)
#define RTE_REMOTE_IRR (UINT64_C(1) << 14)
#define RTE_LEVEL (UINT64_C(1) << 15)
#define RTE_MASKED (UINT64_C(1) << 16)
#define RTE_DEST_SHIFT 56
#define RTE_WRITABLE UINT64_C(0xff0000000001afff)

struct ioapic {
	struct device dev;
	struct ioapic_config config;

	pthread_mutex_t lock; /* guards what follows */
	uint8_t select;
	uint8_t id;
	uint32_t level; /* the lines, a bit each */
	uint64_t rte[PINS];
};

static struct apic_message message_of(uint64_t rte)
{
	uint32_t dest = rte >> RTE_DEST_SHIFT;
	bool logical = rte & RTE_LOGICAL;

	return (struct apic_message){
		.dest = dest == 0xff && !logical ? APIC_DEST_ALL : dest,
		.vector = rte & RTE_VECTOR,
		.delivery = rte >> RTE_DELIVERY_SHIFT & 7,
		.logical = logical,
		.level = rte & RTE_LEVEL,
	};
}

/* Whether the message has an end that clears remote IRR. */
static bool has_end(const struct apic_message *msg)
{
	return msg->level && (msg->delivery == APIC_FIXED || msg->delivery == APIC_LOWEST);
}

/* Masked or not: an interrupt that is masked while it is served ends all the same. */
static void tell_route(struct ioapic *ioapic, unsigned pin)
{
	struct apic_message msg = message_of(ioapic->rte[pin]);

	if (ioapic->config.route)
		ioapic->config.route(ioapic->config.ctx, pin, has_end(&msg) ? &msg : NULL);
}

static void deliver(struct ioapic *ioapic, unsigned pin)
{
	struct apic_message msg = message_of(ioapic->rte[pin]);

	if (has_end(&msg))
		ioapic->rte[pin] |= RTE_REMOTE_IRR;
	if (msg.delivery == APIC_SIPI)
		return;
	ioapic->config.deliver(ioapic->config.ctx, &msg);
}

static void service_level(struct ioapic *ioapic, unsigned pin)
{
	bool up = ioapic->level >> pin & 1;

	if (up && (ioapic->rte[pin] & (RTE_LEVEL | RTE_MASKED | RTE_REMOTE_IRR)) == RTE_LEVEL)
		deliver(ioapic, pin);
}

void ioapic_set(void *arg, unsigned pin, bool level)
{
	struct ioapic *ioapic = arg;

	assert(pin < PINS);
	uint32_t bit = 1u << pin;
	pthread_mutex_lock(&ioapic->lock);
	bool rises = level && !(ioapic->level & bit);
	ioapic->level = level ? ioapic->level | bit : ioapic->level & ~bit;
	if (rises && !(ioapic->rte[pin] & (RTE_LEVEL | RTE_MASKED)))
		deliver(ioapic, pin);
	else if (rises)
		service_level(ioapic, pin);
	pthread_mutex_unlock(&ioapic->lock);
}

static void end_locked(struct ioapic *ioapic, uint8_t vector)
{
	for (unsigned pin = 0; pin < PINS; pin++) {
		uint64_t *rte = &ioapic->rte[pin];
		if ((*rte & RTE_VECTOR) != vector || !(*rte & RTE_REMOTE_IRR))
			continue;
		*rte &= ~RTE_REMOTE_IRR;
		service_level(ioapic, pin);
	}
}

void ioapic_eoi(void *arg, uint8_t vector)
{
	struct ioapic *ioapic = arg;

	pthread_mutex_lock(&ioapic->lock);
	end_locked(ioapic, vector);
	pthread_mutex_unlock(&ioapic->lock);
}

/* ---- registers ---- */

static void write_rte(struct ioapic *ioapic, unsigned reg, uint32_t value)
{
	unsigned pin = (reg - REG_REDIRECTION) / 2;
	uint64_t old = ioapic->rte[pin], next;

	if (reg & 1)
		next = (uint64_t)value << 32 | (uint32_t)old;
	else
		next = (old & ~UINT64_C(0xffffffff)) | value;
	next = (next & RTE_WRITABLE) | (old & RTE_REMOTE_IRR);
	/* An edge has no remote IRR: a kernel clears a stuck one by passing through edge mode. */
	if (!(next & RTE_LEVEL))
		next &= ~RTE_REMOTE_IRR;
	ioapic->rte[pin] = next;
	tell_route(ioapic, pin);
	service_level(ioapic, pin);
}

static uint32_t read_register(const struct ioapic *ioapic)
{
	unsigned reg = ioapic->select;

	switch (reg) {
	case REG_ID:
	case REG_ARBITRATION:
		return (uint32_t)ioapic->id << 24;
	case REG_VERSION:
		return VERSION;
	default:
		break;
	}
	if (reg < REG_REDIRECTION || reg >= REG_REDIRECTION + 2 * PINS)
		return 0;
	uint64_t rte = ioapic->rte[(reg - REG_REDIRECTION) / 2];
	return reg & 1 ? rte >> 32 : (uint32_t)rte;
}

static void write_register(struct ioapic *ioapic, uint32_t value)
{
	unsigned reg = ioapic->select;

	if (reg == REG_ID)
		ioapic->id = value >> 24 & 0xf;
	else if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * PINS)
		write_rte(ioapic, reg, value);
}

/* Registers are 32 bits on 16-byte boundaries; a narrower read gives their low part, other offsets nothing. */
static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned size)
{
	struct ioapic *ioapic = dev;
	uint64_t value = 0;

	(void)size;
	pthread_mutex_lock(&ioapic->lock);
	if (offset == IOREGSEL)
		value = ioapic->select;
	else if (offset == IOWIN)
		value = read_register(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return value;
}

static void ioapic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct ioapic *ioapic = dev;

	pthread_mutex_lock(&ioapic->lock);
	if (offset == IOREGSEL)
		ioapic->select = value & 0xff;
	else if (offset == IOWIN && size == 4)
		write_register(ioapic, value);
	else if (offset == IOEOI)
		end_locked(ioapic, value & 0xff);
	pthread_mutex_unlock(&ioapic->lock);
}

static const struct io_ops ioapic_io = { .read = ioapic_read, .write = ioapic_write };

/* ---- life ---- */

static void ioapic_reset(struct device *dev)
{
	struct ioapic *ioapic = (struct ioapic *)dev;

	pthread_mutex_lock(&ioapic->lock);
	ioapic->select = 0;
	ioapic->id = ioapic->config.id;
	for (unsigned pin = 0; pin < PINS; pin++) {
		ioapic->rte[pin] = RTE_MASKED;
		tell_route(ioapic, pin);
	}
	pthread_mutex_unlock(&ioapic->lock);
}

static void ioapic_save(struct device *dev, struct state_writer *w)
{
	struct ioapic *ioapic = (struct ioapic *)dev;

	pthread_mutex_lock(&ioapic->lock);
	state_put_u8(w, "select", ioapic->select);
	state_put_u8(w, "id", ioapic->id);
	state_put_u32(w, "level", ioapic->level);
	state_put_u64s(w, "redirection", ioapic->rte, PINS);
	pthread_mutex_unlock(&ioapic->lock);
}

static int ioapic_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct ioapic *ioapic = (struct ioapic *)dev;
	uint8_t select = 0, id = 0;
	uint32_t level = 0;
	uint64_t rte[PINS] = { 0 };

	state_get_u8(r, "select", &select);
	state_get_u8(r, "id", &id);
	state_get_u32(r, "level", &level);
	state_get_u64s(r, "redirection", rte, PINS);
	if (state_failed(r, err))
		return -EINVAL;
	if (level >> PINS || id > 0xf)
		return error_set(err, -EINVAL, "ioapic: saved with pins or an id that it does not have");
	for (unsigned pin = 0; pin < PINS; pin++) {
		if (rte[pin] & ~(RTE_WRITABLE | RTE_REMOTE_IRR))
			return error_set(err, -EINVAL, "ioapic: saved redirection entry %u is impossible", pin);
	}
	pthread_mutex_lock(&ioapic->lock);
	ioapic->select = select;
	ioapic->id = id;
	ioapic->level = level;
	for (unsigned pin = 0; pin < PINS; pin++) {
		ioapic->rte[pin] = rte[pin];
		tell_route(ioapic, pin);
	}
	pthread_mutex_unlock(&ioapic->lock);
	return 0;
}

static void ioapic_destroy(struct device *dev)
{
	struct ioapic *ioapic = (struct ioapic *)dev;

	bus_remove(ioapic->config.mmio, ioapic->config.base);
	pthread_mutex_destroy(&ioapic->lock);
	free(ioapic);
}

static const struct device_ops ioapic_ops = {
	.name = "ioapic",
	.version = 1,
	.reset = ioapic_reset,
	.save = ioapic_save,
	.load = ioapic_load,
	.destroy = ioapic_destroy,
};

struct ioapic *ioapic_create(const struct ioapic_config *config)
{
	struct ioapic *ioapic = memory_zalloc(sizeof(*ioapic));

	ioapic->dev.ops = &ioapic_ops;
	ioapic->config = *config;
	pthread_mutex_init(&ioapic->lock, NULL);
	ioapic_reset(&ioapic->dev);
	bus_add(config->mmio, config->base, PLATFORM_IOAPIC_SIZE, &ioapic_io, ioapic, "ioapic");
	return ioapic;
}

struct device *ioapic_device(struct ioapic *ioapic)
{
	return &ioapic->dev;
}
