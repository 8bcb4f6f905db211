/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does anything: accesses to configuration space and to the registers of a device of each kind, changes of
 * guest memory, turns of the event loop. The first byte chooses the kind; then come commands.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "block/block_testlib.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WRITE_REGISTER, READ_REGISTER, WRITE_CONFIG, READ_CONFIG, WRITE_MEMORY, SEND, NOTIFY, TURN, COMMANDS };

struct input {
	const uint8_t *at;
	size_t left;
};

static uint64_t take(struct input *in, unsigned size)
{
	uint8_t bytes[8] = { 0 };
	size_t n = size < in->left ? size : in->left;

	memcpy(bytes, in->at, n);
	in->at += n;
	in->left -= n;
	return bytes_le64(bytes);
}

/* A disk in memory, which may fail or hold its requests until someone waits for them. */
static struct virtio *make_disk(struct test_guest *g, unsigned choice)
{
	struct test_disk *disk = test_disk_create(g->loop, 64 << 10);
	const struct virtio_blk_config config = {
		.ready = &disk->block, .serial = "fuzz", .queues = 2, .no_thread = true
	};
	struct virtio *v;
	struct error err;

	disk->block.readonly = choice & 8;
	disk->hold = choice & 16;
	disk->fail = choice & 32 ? -EIO : 0;
	disk->block.zeroes = choice & 64;
	if (virtio_blk_make(&v, &g->env, &config, &err))
		abort();
	return v;
}

/* What is fuzzed of each kind; one without a line here does not compile. %d stands for what makes a socket's name one of its
 * own, no options for the disk that is made here. Devices whose back end is another process have a target of their own,
 * vhost_device_fuzz.c. */
#define FUZZ_rng { "rng", "" },
#define FUZZ_balloon { "balloon", "16M,stats=1" },
#define FUZZ_blk { "blk", NULL },
#define FUZZ_console { "console", "/tmp/plures-fuzz-%d,name=a\n/tmp/plures-fuzz-%d-b,console" },
#define FUZZ_net { "net", "user,restrict" }, { "net", "none,bps=1M" },
#define FUZZ_vsock { "vsock", "cid=3,path=/tmp/plures-fuzz-%d-v" },
#define FUZZ_share
#define FUZZ_vhost_user

static const char *const devices[][2] = {
#define VIRTIO_DEVICE(name) FUZZ_##name
#include "virtio/devices.def"
#undef VIRTIO_DEVICE
};

/* One of them, which need nothing of the host but a place for sockets. */
static struct virtio *make(struct test_guest *g, unsigned choice)
{
	const char *const *device = devices[choice % (sizeof(devices) / sizeof(*devices))];
	char options[128];
	struct virtio *v;
	struct error err;

	if (!device[1])
		return make_disk(g, choice);
	snprintf(options, sizeof(options), device[1], getpid(), getpid());
	if (virtio_kind_find(device[0])->create(&v, &g->env, options, &err))
		abort();
	return v;
}

static void write_memory(struct test_guest *g, struct input *in)
{
	uint32_t at = (uint32_t)take(in, 3) % TEST_MEMORY;
	size_t n = take(in, 1);

	if (n > TEST_MEMORY - at)
		n = TEST_MEMORY - at;
	if (n > in->left)
		n = in->left;
	memcpy(g->ram + at, in->at, n);
	in->at += n;
	in->left -= n;
}

static void send(struct test_guest *g, struct input *in)
{
	unsigned queue = (unsigned)take(in, 1) % g->v->queues;
	uint64_t address = TEST_BUFFERS + take(in, 2);
	uint32_t out = (uint32_t)take(in, 1), inward = (uint32_t)take(in, 2);

	if (out + inward && queue < (TEST_BUFFERS - TEST_RINGS) / 0x2000)
		test_send(g, queue, address, out, address + 0x100, inward);
}

static void command(struct test_guest *g, struct input *in)
{
	unsigned what = (unsigned)take(in, 1), size = 1u << (what >> 4 & 3);
	uint64_t value;

	switch (what % COMMANDS) {
	case WRITE_REGISTER:
		value = take(in, 2);
		test_reg_write(g, (unsigned)value % VIRTIO_PCI_BAR_SIZE, size, take(in, size));
		break;
	case READ_REGISTER:
		test_reg_read(g, (unsigned)take(in, 2) % VIRTIO_PCI_BAR_SIZE, size);
		break;
	case WRITE_CONFIG:
		value = PLATFORM_PCI_ECAM_BASE + take(in, 2);
		bus_write(g->mmio, value, size, take(in, size));
		break;
	case READ_CONFIG:
		bus_read(g->mmio, PLATFORM_PCI_ECAM_BASE + take(in, 2), size, &value);
		break;
	case WRITE_MEMORY:
		write_memory(g, in);
		break;
	case SEND:
		send(g, in);
		break;
	case NOTIFY:
		virtio_kick(g->v, (unsigned)take(in, 1));
		break;
	default:
		test_guest_settle(g);
		clock_advance(g->clock, 700000000);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct test_guest g;

	if (size < 4)
		return 0;
	unsigned choice = (unsigned)take(&in, 1);
	test_guest_init(&g);
	test_guest_plug(&g, make(&g, choice));
	if (choice & 0x80) /* else it has to find its way by itself */
		test_driver_start(&g, virtio_offered(g.v) & ~VIRTIO_BIT(take(&in, 1) & 63));
	for (unsigned i = 0; i < 200 && in.left; i++)
		command(&g, &in);
	test_guest_settle(&g);
	test_guest_fini(&g);
	return 0;
}
