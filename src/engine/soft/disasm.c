/* SPDX-License-Identifier: Apache-2.0 */
/* disasm.c - instructions as text, by Zydis. */
#include "engine/soft/disasm.h"

#include <Zydis/Zydis.h>

#include <inttypes.h>

#include "host/library.h"

#define ZYDIS(F) F(ZydisDisassembleIntel)
struct zydis_library {
	ZYDIS(LIBRARY_POINTER)
};
static const char *const zydis_names[] = { ZYDIS(LIBRARY_NAME) };

static const ZydisMachineMode machine_mode[] = {
	[INSN_MODE_16] = ZYDIS_MACHINE_MODE_LEGACY_16,
	[INSN_MODE_32] = ZYDIS_MACHINE_MODE_LEGACY_32,
	[INSN_MODE_64] = ZYDIS_MACHINE_MODE_LONG_64,
};

void soft_disasm(FILE *f, const uint8_t *bytes, unsigned len, uint64_t rip, enum insn_mode mode)
{
	ZydisDisassembledInstruction text;
	struct zydis_library zydis;
	struct error err;
	/* Without the library there are still the bytes. */
	bool loaded = !library_load(LIBRARY_ZYDIS, zydis_names, LIBRARY_COUNT(zydis_names), &zydis, &err);
	bool ok = loaded && ZYAN_SUCCESS(zydis.ZydisDisassembleIntel(machine_mode[mode], rip, bytes, len, &text));
	unsigned n = ok ? text.info.length : len < INSN_MAX_LEN ? len : (unsigned)INSN_MAX_LEN;
	fprintf(f, "  %016" PRIx64 ": ", rip);
	for (unsigned i = 0; i < n; i++)
		fprintf(f, "%02x", bytes[i]);
	fprintf(f, "%*s  %s\n", n < 10 ? (int)(2 * (10 - n)) : 0, "",
		ok       ? text.text
		: loaded ? "(undefined)"
			 : err.text);
}
