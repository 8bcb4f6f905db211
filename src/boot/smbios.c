/* SPDX-License-Identifier: Apache-2.0 */
/*
 * smbios.c - SMBIOS structures as packed structs, each followed by its strings. Section numbers are of DSP0134 3.2. A
 * string field holds the string's number in its structure, from 1, or 0 for none.
 */
#include "boot/smbios.h"

#include <errno.h>
#include <string.h>

#include "boot/boot.h"
#include "boot/image.h"

#define PACKED __attribute__((packed))
#define TABLE_OFFSET 32u /* the structures behind the entry point */

struct entry_point { /* 5.2.2 */
	char anchor[5];
	uint8_t checksum, length, major, minor, docrev, revision, reserved;
	uint32_t max_size;
	uint64_t table;
} PACKED;

struct head {
	uint8_t type, length;
	uint16_t handle;
} PACKED;

struct type0 { /* 7.1 */
	struct head head;
	uint8_t vendor, version;
	uint16_t segment;
	uint8_t date, rom_size;
	uint64_t characteristics;
	uint8_t extension[2], major, minor, ec_major, ec_minor;
	uint16_t extended_rom_size;
} PACKED;

struct type1 { /* 7.2 */
	struct head head;
	uint8_t manufacturer, product, version, serial, uuid[16], wake_up, sku, family;
} PACKED;

struct type3 { /* 7.4 */
	struct head head;
	uint8_t manufacturer, type, version, serial, asset, boot_state, power_state, thermal_state, security;
	uint32_t oem;
	uint8_t height, cords, elements, element_size, sku;
} PACKED;

struct type4 { /* 7.5 */
	struct head head;
	uint8_t socket, type, family, manufacturer;
	uint64_t id;
	uint8_t version, voltage;
	uint16_t clock, max_speed, speed;
	uint8_t status, upgrade;
	uint16_t l1, l2, l3;
	uint8_t serial, asset, part, cores, cores_enabled, threads;
	uint16_t characteristics, family2, cores2, cores_enabled2, threads2;
} PACKED;

struct type16 { /* 7.17 */
	struct head head;
	uint8_t location, use, correction;
	uint32_t capacity_kib; /* 0x80000000: see below */
	uint16_t error_handle, devices;
	uint64_t capacity;
} PACKED;

struct type17 { /* 7.18, through 2.8 */
	struct head head;
	uint16_t array, error_handle, total_width, data_width, size;
	uint8_t form_factor, set, locator, bank, type;
	uint16_t detail, speed;
	uint8_t manufacturer, serial, asset, part, attributes;
	uint32_t extended_mib;
	uint16_t configured_speed, min_voltage, max_voltage, voltage;
} PACKED;

struct type19 { /* 7.20 */
	struct head head;
	uint32_t start_kib, end_kib; /* ~0: see below */
	uint16_t array;
	uint8_t width;
	uint64_t start, end;
} PACKED;

struct type32 { /* 7.33 */
	struct head head;
	uint8_t reserved[6], status;
} PACKED;

_Static_assert(sizeof(struct entry_point) == 24 && sizeof(struct type0) == 26 && sizeof(struct type1) == 27 &&
		   sizeof(struct type3) == 22 && sizeof(struct type4) == 48 && sizeof(struct type16) == 23 &&
		   sizeof(struct type17) == 40 && sizeof(struct type19) == 31 && sizeof(struct type32) == 11,
	       "the specification's sizes");

enum { HANDLE_BIOS, HANDLE_SYSTEM = 0x100, HANDLE_CHASSIS = 0x300, HANDLE_CPU = 0x400, HANDLE_ARRAY = 0x1000 };
enum { HANDLE_DIMM = 0x1100, HANDLE_MAPPED = 0x1300, HANDLE_BOOT = 0x2000, HANDLE_END = 0x7f00, HANDLE_NONE = 0xfffe };
enum { UNKNOWN = 2 }; /* in most of the enumerations */

struct writer {
	uint8_t *at;
};

/* Everything here is of known, small size: at most a few structures that together are far smaller than the area. */
static void put(struct writer *w, const void *data, size_t size, const char *const strings[])
{
	memcpy(w->at, data, size);
	w->at += size;
	if (!strings || !strings[0])
		*w->at++ = 0;
	for (; strings && *strings; strings++) {
		size_t length = strlen(*strings) + 1;

		memcpy(w->at, *strings, length);
		w->at += length;
	}
	*w->at++ = 0;
}

static struct head head(uint8_t type, size_t length, unsigned handle)
{
	return (struct head){ type, (uint8_t)length, (uint16_t)handle };
}

static void put_system(struct writer *w)
{
	const struct type0 bios = {
		.head = head(0, sizeof(bios), HANDLE_BIOS),
		.vendor = 1,
		.version = 2,
		.segment = 0xf000,
		.date = 3,
		.characteristics = 1 << 3,           /* no characteristics are given */
		.extension = { 1, 1 << 2 | 1 << 4 }, /* ACPI; targeted content distribution; a virtual machine */
		.ec_major = 0xff,
		.ec_minor = 0xff,
	};
	const struct type1 system = {
		.head = head(1, sizeof(system), HANDLE_SYSTEM),
		.manufacturer = 1,
		.product = 2,
		.wake_up = 6, /* power switch */
	};
	const struct type3 chassis = {
		.head = head(3, sizeof(chassis), HANDLE_CHASSIS),
		.manufacturer = 1,
		.type = 1,       /* other */
		.boot_state = 3, /* safe */
		.power_state = 3,
		.thermal_state = 3,
		.security = UNKNOWN,
	};

	put(w, &bios, sizeof(bios), (const char *const[]){ "Plures", "1", "01/01/2026", NULL });
	put(w, &system, sizeof(system), (const char *const[]){ "Plures", "Plures Virtual Machine", NULL });
	put(w, &chassis, sizeof(chassis), (const char *const[]){ "Plures", NULL });
}

static void put_cpu(struct writer *w, unsigned vcpus)
{
	const uint8_t few = vcpus < 255 ? (uint8_t)vcpus : 255;
	const struct type4 cpu = {
		.head = head(4, sizeof(cpu), HANDLE_CPU),
		.socket = 1,
		.type = 3, /* central processor */
		.family = UNKNOWN,
		.manufacturer = 2,
		.status = 1 << 6 | 1, /* populated, enabled */
		.upgrade = 1,         /* other */
		.l1 = 0xffff,
		.l2 = 0xffff,
		.l3 = 0xffff,
		.cores = few,
		.cores_enabled = few,
		.threads = few,
		.characteristics = 1 << 2, /* 64-bit capable */
		.family2 = UNKNOWN,
		.cores2 = (uint16_t)vcpus,
		.cores_enabled2 = (uint16_t)vcpus,
		.threads2 = (uint16_t)vcpus,
	};

	put(w, &cpu, sizeof(cpu), (const char *const[]){ "CPU 0", "Plures", NULL });
}

static void put_memory(struct writer *w, const struct boot_memory *memory)
{
	uint64_t bytes = boot_memory_size(memory), mib = bytes >> 20;
	const struct type16 array = {
		.head = head(16, sizeof(array), HANDLE_ARRAY),
		.location = 1,   /* other */
		.use = 3,        /* system memory */
		.correction = 3, /* none */
		.capacity_kib = bytes >> 10 < 0x80000000u ? (uint32_t)(bytes >> 10) : 0x80000000u,
		.error_handle = HANDLE_NONE,
		.devices = 1,
		.capacity = bytes >> 10 < 0x80000000u ? 0 : bytes,
	};
	const struct type17 dimm = {
		.head = head(17, sizeof(dimm), HANDLE_DIMM),
		.array = HANDLE_ARRAY,
		.error_handle = HANDLE_NONE,
		.total_width = 0xffff,
		.data_width = 0xffff,
		.size = mib < 0x7fff ? (uint16_t)mib : 0x7fff,
		.form_factor = 9, /* DIMM */
		.locator = 1,
		.type = 7,        /* RAM */
		.detail = 1 << 1, /* other */
		.manufacturer = 2,
		.extended_mib = mib < 0x7fff ? 0 : (uint32_t)mib,
	};

	put(w, &array, sizeof(array), NULL);
	put(w, &dimm, sizeof(dimm), (const char *const[]){ "DIMM 0", "Plures", NULL });
	for (unsigned i = 0; i < memory->regions; i++) {
		uint64_t start = memory->region[i].gpa, end = start + memory->region[i].size - 1;
		bool wide = end >> 10 >= 0xffffffffu;
		const struct type19 mapped = {
			.head = head(19, sizeof(mapped), HANDLE_MAPPED + i),
			.start_kib = wide ? 0xffffffffu : (uint32_t)(start >> 10),
			.end_kib = wide ? 0xffffffffu : (uint32_t)(end >> 10),
			.array = HANDLE_ARRAY,
			.width = 1,
			.start = wide ? start : 0,
			.end = wide ? end : 0,
		};

		put(w, &mapped, sizeof(mapped), NULL);
	}
}

int smbios_build(const struct boot_memory *memory, unsigned vcpus, struct error *err)
{
	uint8_t *base = boot_memory_at(memory, PLATFORM_SMBIOS_BASE, PLATFORM_SMBIOS_SIZE);
	struct entry_point entry = {
		.anchor = { '_', 'S', 'M', '3', '_' },
		.length = sizeof(entry),
		.major = 3,
		.minor = 2,
		.revision = 1,
		.table = PLATFORM_SMBIOS_BASE + TABLE_OFFSET,
	};
	const struct type32 boot = { .head = head(32, sizeof(boot), HANDLE_BOOT) };
	const struct head last = head(127, sizeof(last), HANDLE_END);

	if (!base)
		return error_set(err, -EINVAL, "there is no memory where SMBIOS structures go (at %#x)",
				 PLATFORM_SMBIOS_BASE);
	struct writer w = { base + TABLE_OFFSET };

	put_system(&w);
	put_cpu(&w, vcpus);
	put_memory(&w, memory);
	put(&w, &boot, sizeof(boot), NULL);
	put(&w, &last, sizeof(last), NULL);
	entry.max_size = (uint32_t)(w.at - (base + TABLE_OFFSET));
	entry.checksum = image_checksum(&entry, sizeof(entry));
	memcpy(base, &entry, sizeof(entry));
	return 0;
}
