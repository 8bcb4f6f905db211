/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "engine/engine.h"

#define ENGINE(name) extern const struct engine_ops engine_##name;
#include "engine/engines.def"
#undef ENGINE

const struct engine_ops *const engines[] = {
#define ENGINE(name) &engine_##name,
#include "engine/engines.def"
#undef ENGINE
	NULL,
};

const struct engine_ops *engine_find(const char *name)
{
	for (unsigned i = 0; engines[i]; i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

/* SDM Vol. 3, table 9-1, the power-up column. */
void engine_cpu_state_reset(struct engine_cpu_state *s)
{
	enum { DATA = 0x93, CODE = 0x9b, LDT = 0x82, BUSY_TSS = 0x8b };
	static const uint8_t attr[ENGINE_SEGMENTS] = {
		[ENGINE_ES] = DATA, [ENGINE_CS] = CODE, [ENGINE_SS] = DATA,  [ENGINE_DS] = DATA,
		[ENGINE_FS] = DATA, [ENGINE_GS] = DATA, [ENGINE_LDTR] = LDT, [ENGINE_TR] = BUSY_TSS,
	};

	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		s->seg[i].limit = 0xffff;
		s->seg[i].attr = attr[i];
	}
	s->seg[ENGINE_CS].selector = 0xf000;
	s->seg[ENGINE_CS].base = 0xffff0000;
	s->rip = 0xfff0;
	s->rflags = 2;
	s->gdtr.limit = 0xffff;
	s->idtr.limit = 0xffff;
	s->cr0 = 0x60000010; /* CD, NW, ET */
	s->dr[6] = 0xffff0ff0;
	s->dr[7] = 0x400;
	s->xcr0 = 1;
	s->pat = 0x0007040600070406;

	/* The XSAVE area: FCW, the abridged tag word (all registers valid, holding 0), MXCSR, and x87 in XSTATE_BV. */
	static const uint16_t fcw = 0x40;
	static const uint32_t mxcsr = 0x1f80;
	memcpy(s->xsave, &fcw, sizeof(fcw));
	s->xsave[4] = 0xff;
	memcpy(s->xsave + 24, &mxcsr, sizeof(mxcsr));
	s->xsave[512] = 1;
}
