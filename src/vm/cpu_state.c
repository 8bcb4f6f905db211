/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/cpu_state.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "vm/state.h"

/* The registers of 64 bits, by name. */
static const struct {
	const char *name;
	size_t offset;
} fields[] = {
#define FIELD(name)                                            \
	{                                                      \
#name, offsetof(struct engine_cpu_state, name) \
	}
	FIELD(rip),          FIELD(rflags),
	FIELD(cr0),          FIELD(cr2),
	FIELD(cr3),          FIELD(cr4),
	FIELD(cr8),          FIELD(xcr0),
	FIELD(efer),         FIELD(star),
	FIELD(lstar),        FIELD(cstar),
	FIELD(sfmask),       FIELD(kernel_gs_base),
	FIELD(sysenter_cs),  FIELD(sysenter_esp),
	FIELD(sysenter_eip), FIELD(pat),
	FIELD(tsc_aux),      FIELD(tsc_adjust),
#undef FIELD
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };

static const char *const segment_names[ENGINE_SEGMENTS] = { "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr" };

/* A segment's four fields: "cs-base" and so on. */
static const char *part(char text[16], unsigned i, const char *name)
{
	snprintf(text, 16, "%s-%s", segment_names[i], name);
	return text;
}

void cpu_state_save(const struct engine_cpu_state *s, struct state_writer *w)
{
	char name[16];

	state_put_u64s(w, "gpr", s->gpr, 16);
	for (unsigned i = 0; i < FIELDS; i++) {
		uint64_t value;
		memcpy(&value, (const char *)s + fields[i].offset, sizeof(value));
		state_put_u64(w, fields[i].name, value);
	}
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		state_put_u16(w, part(name, i, "selector"), s->seg[i].selector);
		state_put_u64(w, part(name, i, "base"), s->seg[i].base);
		state_put_u32(w, part(name, i, "limit"), s->seg[i].limit);
		state_put_u32(w, part(name, i, "attr"), s->seg[i].attr);
	}
	state_put_u64(w, "gdtr-base", s->gdtr.base);
	state_put_u16(w, "gdtr-limit", s->gdtr.limit);
	state_put_u64(w, "idtr-base", s->idtr.base);
	state_put_u16(w, "idtr-limit", s->idtr.limit);
	state_put_u64s(w, "dr", s->dr, 8);
	state_put_bool(w, "nmi-masked", s->nmi_masked);
	state_put_bool(w, "nmi-pending", s->nmi_pending);
	state_put_bool(w, "interrupt-shadow", s->interrupt_shadow);
	state_put_bool(w, "halted", s->halted);
	state_put_bool(w, "wait-sipi", s->wait_sipi);
	state_put_bool(w, "event", s->event.valid);
	state_put_bool(w, "event-external", s->event.external);
	state_put_bool(w, "event-has-error", s->event.has_error);
	state_put_u8(w, "event-vector", s->event.vector);
	state_put_u32(w, "event-error", s->event.error);
	state_put_bytes(w, "xsave", s->xsave, sizeof(s->xsave));
}

static void get(struct engine_cpu_state *s, struct state_reader *r)
{
	char name[16];

	state_get_u64s(r, "gpr", s->gpr, 16);
	for (unsigned i = 0; i < FIELDS; i++) {
		uint64_t value = 0;
		state_get_u64(r, fields[i].name, &value);
		memcpy((char *)s + fields[i].offset, &value, sizeof(value));
	}
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		state_get_u16(r, part(name, i, "selector"), &s->seg[i].selector);
		state_get_u64(r, part(name, i, "base"), &s->seg[i].base);
		state_get_u32(r, part(name, i, "limit"), &s->seg[i].limit);
		state_get_u32(r, part(name, i, "attr"), &s->seg[i].attr);
	}
	state_get_u64(r, "gdtr-base", &s->gdtr.base);
	state_get_u16(r, "gdtr-limit", &s->gdtr.limit);
	state_get_u64(r, "idtr-base", &s->idtr.base);
	state_get_u16(r, "idtr-limit", &s->idtr.limit);
	state_get_u64s(r, "dr", s->dr, 8);
	state_get_bool(r, "nmi-masked", &s->nmi_masked);
	state_get_bool(r, "nmi-pending", &s->nmi_pending);
	state_get_bool(r, "interrupt-shadow", &s->interrupt_shadow);
	state_get_bool(r, "halted", &s->halted);
	state_get_bool(r, "wait-sipi", &s->wait_sipi);
	state_get_bool(r, "event", &s->event.valid);
	state_get_bool(r, "event-external", &s->event.external);
	state_get_bool(r, "event-has-error", &s->event.has_error);
	state_get_u8(r, "event-vector", &s->event.vector);
	state_get_u32(r, "event-error", &s->event.error);
	state_get_bytes(r, "xsave", s->xsave, sizeof(s->xsave));
}

static bool canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* What is wrong with the control registers, or NULL: SDM Vol. 3, 2.5 and 4.1, and 27.3.1.1, which has it as a list. */
static const char *wrong_control(const struct engine_cpu_state *s)
{
	enum { PE = 1, CR4_PAE = 1 << 5, LME = 1 << 8, LMA = 1 << 10 };
	const uint64_t pg = 1u << 31;
	bool paging = s->cr0 & pg, lma = s->efer & LMA, lme = s->efer & LME;

	if (s->cr0 >> 32 || s->cr4 >> 32 || s->efer >> 16 || s->cr8 >> 4)
		return "a control register has bits that do not exist";
	if (paging && !(s->cr0 & PE))
		return "paging without protected mode";
	if (lma != (lme && paging) || (lma && !(s->cr4 & CR4_PAE)))
		return "a half of long mode";
	if (s->cr3 >> 52)
		return "page tables beyond physical memory";
	if (!(s->xcr0 & 1) || (s->xcr0 & 6) == 4)
		return "XCR0 is impossible";
	return NULL;
}

static const char *wrong(const struct engine_cpu_state *s)
{
	enum { RFLAGS_FIXED = 2, VM = 1 << 17 };
	static const unsigned based[] = { ENGINE_FS, ENGINE_GS, ENGINE_LDTR, ENGINE_TR };

	if (!(s->rflags & RFLAGS_FIXED) || s->rflags >> 22 || ((s->rflags & VM) && !(s->cr0 & 1)))
		return "RFLAGS is impossible";
	for (unsigned i = 0; i < sizeof(based) / sizeof(based[0]); i++)
		if (!canonical(s->seg[based[i]].base))
			return "a segment's base is not canonical";
	if (!canonical(s->gdtr.base) || !canonical(s->idtr.base) || !canonical(s->kernel_gs_base) ||
	    !canonical(s->lstar) || !canonical(s->cstar) || !canonical(s->sysenter_esp) || !canonical(s->sysenter_eip))
		return "an address is not canonical";
	if (s->event.valid && !s->event.external && s->event.vector > 31)
		return "an exception of a vector that there is not";
	if (s->dr[6] >> 32 || s->dr[7] >> 32 || s->tsc_aux >> 32)
		return "a register has bits that do not exist";
	for (unsigned i = 0; i < 64; i += 8) {
		uint8_t type = s->pat >> i;
		if (type > 7 || type == 2 || type == 3)
			return "a memory type that there is not";
	}
	return wrong_control(s);
}

int cpu_state_load(struct engine_cpu_state *s, struct state_reader *r, struct error *err)
{
	engine_cpu_state_reset(s);
	get(s, r);
	if (state_failed(r, err))
		return -EINVAL;
	const char *what = wrong(s);
	return what ? error_set(err, -EINVAL, "the saved state of a CPU can't be: %s", what) : 0;
}
