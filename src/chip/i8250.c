/* SPDX-License-Identifier: Apache-2.0 */
/* A PC16550D UART; sections and tables named below are its data sheet's. */
#include "chip/i8250.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "chip/io8.h"
#include "vm/platform.h"
#include "vm/state.h"

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR, REGISTERS };

enum {
	IER_RDA = 1,
	IER_THRE = 2,
	IER_LINE = 4,
	IER_MODEM = 8,
	IIR_NONE = 0x01,
	IIR_MODEM = 0x00,
	IIR_THRE = 0x02,
	IIR_RDA = 0x04,
	IIR_LINE = 0x06,
	IIR_TIMEOUT = 0x0c,
	IIR_FIFO = 0xc0,
	FCR_ENABLE = 1,
	FCR_CLEAR_RX = 2,
	FCR_DMA = 8,
	FCR_TRIGGER = 0xc0,
	LCR_DLAB = 0x80,
	MCR_DTR = 1,
	MCR_RTS = 2,
	MCR_OUT1 = 4,
	MCR_OUT2 = 8, /* lets the interrupt onto the bus, in a PC */
	MCR_LOOP = 16,
	LSR_DATA = 1,
	LSR_OVERRUN = 2,
	LSR_BREAK = 16,
	LSR_EMPTY = 0x60, /* THRE and TEMT */
	LSR_FIFO_ERROR = 0x80,
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
	MSR_DELTAS = 0x0f,
};

enum { FIFO = 16, OUT_SIZE = 4096 };

#define OUT_DELAY_NS 1000000u
#define OUT_RETRY_NS 10000000u /* when nothing was taken */
#define RX_TIMEOUT_MAX_NS 5000000u

struct i8250 {
	struct device dev;
	struct i8250_config config;
	struct timer *out_timer, *rx_timer;

	pthread_mutex_t lock; /* guards what follows */
	uint8_t ier, fcr, lcr, mcr, lsr /* OVERRUN and BREAK only */, msr, scr;
	uint16_t divisor;
	bool thre; /* a THRE interrupt is due */
	bool rx_timeout;
	uint8_t rx[FIFO]; /* rx[0] is the oldest */
	bool rx_break[FIFO];
	unsigned rx_count;
	bool starved;          /* i8250_receive had to leave something */
	uint8_t out[OUT_SIZE]; /* sent and not yet handed over */
	size_t out_count;
	bool out_busy; /* somebody hands it over */
	pthread_cond_t out_done;
};

/* ---- interrupts: table II and section 8.5 ---- */

static unsigned rx_trigger(const struct i8250 *uart)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };
	return uart->fcr & FCR_ENABLE ? level[uart->fcr >> 6] : 1;
}

static uint8_t interrupt(const struct i8250 *uart)
{
	if (uart->ier & IER_LINE && uart->lsr)
		return IIR_LINE;
	if (uart->ier & IER_RDA && uart->rx_count >= rx_trigger(uart))
		return IIR_RDA;
	if (uart->ier & IER_RDA && uart->rx_timeout)
		return IIR_TIMEOUT;
	if (uart->ier & IER_THRE && uart->thre)
		return IIR_THRE;
	if (uart->ier & IER_MODEM && uart->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct i8250 *uart)
{
	bool gate = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	irq_line_set(&uart->config.irq, gate && interrupt(uart) != IIR_NONE);
}

/* ---- receiving ---- */

static unsigned rx_capacity(const struct i8250 *uart)
{
	return uart->fcr & FCR_ENABLE ? FIFO : 1;
}

/* Four characters' time, after which fewer than the trigger level are reported too: section 8.5, FIFO interrupt mode. */
static uint64_t rx_timeout_ns(const struct i8250 *uart)
{
	unsigned bits = 1 + 5 + (uart->lcr & 3) + (uart->lcr >> 3 & 1) + 1 + (uart->lcr >> 2 & 1);
	uint64_t divisor = uart->divisor ? uart->divisor : 1;
	uint64_t ns = 4 * bits * divisor * 16 * 1000000000u / PLATFORM_COM_CLOCK;
	return ns < RX_TIMEOUT_MAX_NS ? ns : RX_TIMEOUT_MAX_NS;
}

static void rx_timeout_restart(struct i8250 *uart)
{
	uart->rx_timeout = false;
	if (uart->fcr & FCR_ENABLE && uart->rx_count && uart->rx_count < rx_trigger(uart))
		timer_arm(uart->rx_timer, clock_now(uart->config.clock) + rx_timeout_ns(uart));
}

static void rx_expired(void *arg)
{
	struct i8250 *uart = arg;

	/* A character read or received since has armed the timer anew, which is early by at most four characters. */
	pthread_mutex_lock(&uart->lock);
	if (uart->rx_count && uart->rx_count < rx_trigger(uart))
		uart->rx_timeout = true;
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
}

/* The error of a character is seen when it has become the oldest. */
static void rx_show_head(struct i8250 *uart)
{
	if (uart->rx_count && uart->rx_break[0])
		uart->lsr |= LSR_BREAK;
}

static void rx_push(struct i8250 *uart, uint8_t byte, bool is_break)
{
	if (uart->rx_count == rx_capacity(uart)) {
		uart->lsr |= LSR_OVERRUN;
		return;
	}
	uart->rx[uart->rx_count] = byte;
	uart->rx_break[uart->rx_count] = is_break;
	if (++uart->rx_count == 1)
		rx_show_head(uart);
}

static uint8_t rx_pop(struct i8250 *uart)
{
	uint8_t byte = uart->rx[0];

	if (!uart->rx_count)
		return 0;
	uart->rx_count--;
	memmove(uart->rx, uart->rx + 1, uart->rx_count);
	memmove(uart->rx_break, uart->rx_break + 1, uart->rx_count * sizeof(uart->rx_break[0]));
	rx_show_head(uart);
	rx_timeout_restart(uart);
	return byte;
}

static void rx_clear(struct i8250 *uart)
{
	uart->rx_count = 0;
	uart->rx_timeout = false;
	uart->lsr &= ~LSR_BREAK;
}

/* Whether the line may deliver a byte. */
static bool listening(const struct i8250 *uart)
{
	return !(uart->mcr & MCR_LOOP) && (!uart->config.flow_control || uart->mcr & MCR_RTS);
}

/* Whether the back end should be told, once, that it can go on. */
static bool take_room(struct i8250 *uart)
{
	if (!uart->starved || !listening(uart) || uart->rx_count > rx_capacity(uart) / 2)
		return false;
	uart->starved = false;
	return uart->config.back.room;
}

size_t i8250_receive(struct i8250 *uart, const void *bytes, size_t size)
{
	const uint8_t *from = bytes;
	size_t taken = 0;

	pthread_mutex_lock(&uart->lock);
	while (listening(uart) && taken < size && uart->rx_count < rx_capacity(uart))
		rx_push(uart, from[taken++], false);
	uart->starved = taken < size;
	if (taken)
		rx_timeout_restart(uart);
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
	return taken;
}

void i8250_break(struct i8250 *uart)
{
	pthread_mutex_lock(&uart->lock);
	if (!(uart->mcr & MCR_LOOP)) {
		rx_push(uart, 0, true);
		rx_timeout_restart(uart);
		update_irq(uart);
	}
	pthread_mutex_unlock(&uart->lock);
}

/* ---- sending ---- */

/* Hands over what is gathered, without the lock meanwhile: others may add to it, but only its writer takes from it. */
static void out_write(struct i8250 *uart, bool wait)
{
	const struct i8250_back *back = &uart->config.back;
	size_t size = uart->out_count, taken = size;

	uart->out_busy = true;
	pthread_mutex_unlock(&uart->lock);
	if (back->write)
		taken = back->write(back->ctx, uart->out, size, wait);
	pthread_mutex_lock(&uart->lock);
	if (wait)
		taken = size;
	uart->out_count -= taken;
	memmove(uart->out, uart->out + taken, uart->out_count);
	uart->out_busy = false;
	if (uart->out_count)
		timer_arm(uart->out_timer, clock_now(uart->config.clock) + (taken ? OUT_DELAY_NS : OUT_RETRY_NS));
	pthread_cond_broadcast(&uart->out_done);
}

/* Waits until no more than `most` bytes are gathered. */
static void out_drain(struct i8250 *uart, size_t most)
{
	while (uart->out_count > most) {
		if (uart->out_busy)
			pthread_cond_wait(&uart->out_done, &uart->lock);
		else
			out_write(uart, true);
	}
}

static void out_expired(void *arg)
{
	struct i8250 *uart = arg;

	pthread_mutex_lock(&uart->lock);
	if (uart->out_count && !uart->out_busy)
		out_write(uart, false);
	pthread_mutex_unlock(&uart->lock);
}

void i8250_flush(struct i8250 *uart)
{
	pthread_mutex_lock(&uart->lock);
	out_drain(uart, 0);
	pthread_mutex_unlock(&uart->lock);
}

static void transmit(struct i8250 *uart, uint8_t byte)
{
	uart->thre = true; /* empty again already */
	if (uart->mcr & MCR_LOOP) {
		rx_push(uart, byte, false);
		rx_timeout_restart(uart);
		return;
	}
	out_drain(uart, OUT_SIZE - 1);
	if (!uart->out_count)
		timer_arm(uart->out_timer, clock_now(uart->config.clock) + OUT_DELAY_NS);
	uart->out[uart->out_count++] = byte;
}

/* ---- modem lines: section 8.7 and 8.8 ---- */

static void update_modem(struct i8250 *uart)
{
	uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD, old = uart->msr & 0xf0;

	if (uart->mcr & MCR_LOOP) {
		lines = (uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
			(uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0);
	}
	uint8_t deltas = (lines ^ old) >> 4 & ~(MSR_RI >> 4);
	if (old & MSR_RI && !(lines & MSR_RI)) /* the trailing edge only */
		deltas |= MSR_RI >> 4;
	uart->msr = lines | (uart->msr & MSR_DELTAS) | deltas;
}

/* ---- registers ---- */

static uint8_t read_iir(struct i8250 *uart)
{
	uint8_t iir = interrupt(uart);

	if (iir == IIR_THRE)
		uart->thre = false;
	return iir | (uart->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct i8250 *uart)
{
	uint8_t lsr = uart->lsr | LSR_EMPTY | (uart->rx_count ? LSR_DATA : 0);

	for (unsigned i = 0; i < uart->rx_count && uart->fcr & FCR_ENABLE; i++) {
		if (uart->rx_break[i])
			lsr |= LSR_FIFO_ERROR;
	}
	uart->lsr = 0;
	return lsr;
}

static uint8_t read_msr(struct i8250 *uart)
{
	uint8_t msr = uart->msr;
	uart->msr &= ~MSR_DELTAS;
	return msr;
}

static uint8_t read_register(struct i8250 *uart, unsigned offset)
{
	bool dlab = uart->lcr & LCR_DLAB;

	switch (offset) {
	case RBR_THR:
		return dlab ? uart->divisor & 0xff : rx_pop(uart);
	case IER:
		return dlab ? uart->divisor >> 8 : uart->ier;
	case IIR_FCR:
		return read_iir(uart);
	case LCR:
		return uart->lcr;
	case MCR:
		return uart->mcr;
	case LSR:
		return read_lsr(uart);
	case MSR:
		return read_msr(uart);
	default:
		return uart->scr;
	}
}

static void write_ier(struct i8250 *uart, uint8_t value)
{
	value &= 0x0f;
	/* The transmitter is always empty, so enabling its interrupt raises it. */
	if (value & IER_THRE && !(uart->ier & IER_THRE))
		uart->thre = true;
	uart->ier = value;
}

static void write_fcr(struct i8250 *uart, uint8_t value)
{
	if ((value ^ uart->fcr) & FCR_ENABLE)
		rx_clear(uart);
	if (!(value & FCR_ENABLE)) { /* other bits are programmed only together with this one */
		uart->fcr = 0;
		return;
	}
	if (value & FCR_CLEAR_RX)
		rx_clear(uart);
	uart->fcr = value & (FCR_ENABLE | FCR_DMA | FCR_TRIGGER);
	rx_timeout_restart(uart);
}

static void write_register(struct i8250 *uart, unsigned offset, uint8_t value)
{
	bool dlab = uart->lcr & LCR_DLAB;

	switch (offset) {
	case RBR_THR:
		if (dlab)
			uart->divisor = (uart->divisor & 0xff00) | value;
		else
			transmit(uart, value);
		break;
	case IER:
		if (dlab)
			uart->divisor = (uart->divisor & 0xff) | value << 8;
		else
			write_ier(uart, value);
		break;
	case IIR_FCR:
		write_fcr(uart, value);
		break;
	case LCR:
		uart->lcr = value;
		break;
	case MCR:
		uart->mcr = value & 0x1f;
		update_modem(uart);
		break;
	case SCR:
		uart->scr = value;
		break;
	default: /* LSR and MSR: for factory tests */
		break;
	}
}

static uint8_t read8(void *dev, unsigned offset)
{
	struct i8250 *uart = dev;

	pthread_mutex_lock(&uart->lock);
	uint8_t value = read_register(uart, offset);
	update_irq(uart);
	bool room = take_room(uart);
	pthread_mutex_unlock(&uart->lock);
	if (room)
		uart->config.back.room(uart->config.back.ctx);
	return value;
}

static void write8(void *dev, unsigned offset, uint8_t value)
{
	struct i8250 *uart = dev;

	pthread_mutex_lock(&uart->lock);
	write_register(uart, offset, value);
	update_irq(uart);
	bool room = take_room(uart);
	pthread_mutex_unlock(&uart->lock);
	if (room)
		uart->config.back.room(uart->config.back.ctx);
}

static uint64_t i8250_read(void *dev, uint64_t offset, unsigned size)
{
	return io8_read(read8, dev, offset, size);
}

static void i8250_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	io8_write(write8, dev, offset, size, value);
}

static const struct io_ops i8250_io = { .read = i8250_read, .write = i8250_write };

/* ---- life ---- */

static void i8250_reset(struct device *dev) /* table III */
{
	struct i8250 *uart = (struct i8250 *)dev;

	pthread_mutex_lock(&uart->lock);
	out_drain(uart, 0);
	uart->ier = uart->fcr = uart->lcr = uart->mcr = uart->lsr = uart->scr = 0;
	uart->divisor = 1; /* not reset by the chip; so that the rate is one at all */
	uart->thre = false;
	rx_clear(uart);
	update_modem(uart);
	uart->msr &= ~MSR_DELTAS;
	update_irq(uart);
	bool room = take_room(uart);
	pthread_mutex_unlock(&uart->lock);
	if (room)
		uart->config.back.room(uart->config.back.ctx);
}

static void i8250_save(struct device *dev, struct state_writer *w)
{
	struct i8250 *uart = (struct i8250 *)dev;
	uint8_t is_break[FIFO];

	pthread_mutex_lock(&uart->lock);
	out_drain(uart, 0);
	for (unsigned i = 0; i < FIFO; i++)
		is_break[i] = i < uart->rx_count && uart->rx_break[i];
	state_put_u8(w, "ier", uart->ier);
	state_put_u8(w, "fcr", uart->fcr);
	state_put_u8(w, "lcr", uart->lcr);
	state_put_u8(w, "mcr", uart->mcr);
	state_put_u8(w, "lsr", uart->lsr);
	state_put_u8(w, "msr", uart->msr);
	state_put_u8(w, "scr", uart->scr);
	state_put_u16(w, "divisor", uart->divisor);
	state_put_bool(w, "thre", uart->thre);
	state_put_bool(w, "rx-timeout", uart->rx_timeout);
	state_put_bytes(w, "rx", uart->rx, uart->rx_count);
	state_put_bytes(w, "rx-break", is_break, uart->rx_count);
	pthread_mutex_unlock(&uart->lock);
}

struct loaded {
	uint8_t ier, fcr, lcr, mcr, lsr, msr, scr;
	uint16_t divisor;
	bool thre, rx_timeout;
	const uint8_t *rx, *rx_break;
	size_t rx_count, rx_break_count;
};

static void apply_locked(struct i8250 *uart, const struct loaded *in)
{
	uart->ier = in->ier & 0x0f;
	uart->fcr = in->fcr & (FCR_ENABLE | FCR_DMA | FCR_TRIGGER);
	uart->lcr = in->lcr;
	uart->mcr = in->mcr & 0x1f;
	uart->lsr = in->lsr & (LSR_OVERRUN | LSR_BREAK);
	uart->msr = in->msr;
	uart->scr = in->scr;
	uart->divisor = in->divisor;
	uart->thre = in->thre;
	uart->rx_count = in->rx_count;
	for (unsigned i = 0; i < in->rx_count; i++) {
		uart->rx[i] = in->rx[i];
		uart->rx_break[i] = in->rx_break[i];
	}
	rx_timeout_restart(uart);
	uart->rx_timeout = in->rx_timeout;
	update_irq(uart);
}

static int i8250_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct i8250 *uart = (struct i8250 *)dev;
	struct loaded in = { 0 };

	state_get_u8(r, "ier", &in.ier);
	state_get_u8(r, "fcr", &in.fcr);
	state_get_u8(r, "lcr", &in.lcr);
	state_get_u8(r, "mcr", &in.mcr);
	state_get_u8(r, "lsr", &in.lsr);
	state_get_u8(r, "msr", &in.msr);
	state_get_u8(r, "scr", &in.scr);
	state_get_u16(r, "divisor", &in.divisor);
	state_get_bool(r, "thre", &in.thre);
	state_get_bool(r, "rx-timeout", &in.rx_timeout);
	in.rx = state_get_blob(r, "rx", &in.rx_count);
	in.rx_break = state_get_blob(r, "rx-break", &in.rx_break_count);
	if (state_failed(r, err))
		return -EINVAL;
	if (in.rx_count > (in.fcr & FCR_ENABLE ? FIFO : 1) || in.rx_break_count != in.rx_count)
		return error_set(err, -EINVAL, "i8250: saved with more received than it holds");
	pthread_mutex_lock(&uart->lock);
	apply_locked(uart, &in);
	bool room = take_room(uart);
	pthread_mutex_unlock(&uart->lock);
	if (room)
		uart->config.back.room(uart->config.back.ctx);
	return 0;
}

static void i8250_destroy(struct device *dev)
{
	struct i8250 *uart = (struct i8250 *)dev;

	bus_remove(uart->config.pio, uart->config.base);
	timer_free(uart->out_timer);
	timer_free(uart->rx_timer);
	i8250_flush(uart);
	pthread_cond_destroy(&uart->out_done);
	pthread_mutex_destroy(&uart->lock);
	free(uart);
}

static const struct device_ops i8250_ops = {
	.name = "i8250",
	.version = 1,
	.reset = i8250_reset,
	.save = i8250_save,
	.load = i8250_load,
	.destroy = i8250_destroy,
};

struct i8250 *i8250_create(const struct i8250_config *config)
{
	struct i8250 *uart = memory_zalloc(sizeof(*uart));

	uart->dev.ops = &i8250_ops;
	uart->config = *config;
	pthread_mutex_init(&uart->lock, NULL);
	pthread_cond_init(&uart->out_done, NULL);
	uart->out_timer = timer_create_on(config->clock, out_expired, uart);
	uart->rx_timer = timer_create_on(config->clock, rx_expired, uart);
	i8250_reset(&uart->dev);
	bus_add(config->pio, config->base, REGISTERS, &i8250_io, uart, "i8250");
	return uart;
}

struct device *i8250_device(struct i8250 *uart)
{
	return &uart->dev;
}
