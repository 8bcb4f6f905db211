/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile_report.c - what the vCPUs' profiles found, as text or as JSON.
 *
 * The report adds up all vCPUs. Times are in microseconds of a vCPU thread, so two busy vCPUs make two seconds a second.
 * Like all of this folder it is compiled without floating point; shares are in thousandths.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/soft/cache.h"
#include "engine/soft/disasm.h"
#include "engine/soft/profile.h"
#include "engine/soft/vm.h"

enum { TOP_BLOCKS = 40, TOP_LISTED = 15, JSON_BLOCKS = 500 };

static const char *const state_names[PROFILE_STATES] = {
	[PROFILE_CODE] = "translated code",
	[PROFILE_DISPATCH] = "dispatcher",
	[PROFILE_TRANSLATE] = "translation",
	[PROFILE_MISS] = "memory access misses",
	[PROFILE_GROUP_MISS] = "group check misses",
	[PROFILE_COMMIT] = "bounced stores",
	[PROFILE_DELIVER] = "exceptions and interrupts",
	[PROFILE_MMIO] = "devices, by memory",
	[PROFILE_DIRECT] = "ring 3, directly",
	[PROFILE_HANDOFF] = "to ring 3 and back",
	[PROFILE_EVICT] = "evicting translations",
	[PROFILE_PASS] = "letting go of evicted translations",
	[PROFILE_WAIT] = "waiting for room for translations",
	[PROFILE_OUTSIDE] = "outside (halted)",
};

static const char *const count_names[PROFILE_COUNTS] = {
	[PROFILE_NEXT_EVENT] = "dispatched for an event",
	[PROFILE_NEXT_LINK] = "dispatched for an exit without link",
	[PROFILE_NEXT_UNLINKED] = "... which still has none",
	[PROFILE_NEXT_PAGE] = "dispatched for a block's second page",
	[PROFILE_NEXT_HELPER] = "dispatched after a helper",
	[PROFILE_NEXT_INDIRECT] = "dispatched for an indirect branch",
	[PROFILE_MISS_EMPTY] = "TLB miss: empty entry",
	[PROFILE_MISS_CONFLICT] = "TLB miss: other page",
	[PROFILE_MISS_READONLY] = "TLB miss: no write tag",
	[PROFILE_MISS_CROSSING] = "TLB miss: page crossing",
	[PROFILE_MISS_HIT] = "TLB miss: filled meanwhile",
	[PROFILE_GROUP_APART] = "groups taken apart",
	[PROFILE_CODE_DROPPED] = "stores that dropped translations",
	[PROFILE_FLUSH_PAGE] = "TLB flushes of a page",
	[PROFILE_HOST_FAULT] = "signals of copied instructions",
	[PROFILE_DIRECT_MAPPED] = "ring 3 stopped for pages to map",
	[PROFILE_DIRECT_SYSCALL] = "ring 3 stopped for a system call",
	[PROFILE_DIRECT_FAULT] = "ring 3 stopped for a fault",
	[PROFILE_DIRECT_KICK] = "ring 3 stopped for an event",
};

static const char *const bounce_names[SOFT_BOUNCE_DISCARD + 1] = {
	[SOFT_BOUNCE_NONE] = "missed accesses made in place",
	[SOFT_BOUNCE_MMIO] = "missed accesses to devices",
	[SOFT_BOUNCE_SPLIT] = "missed accesses across pages",
	[SOFT_BOUNCE_CODE] = "missed accesses to code",
	[SOFT_BOUNCE_DISCARD] = "missed accesses to read-only memory",
};

static const char *const kind_names[] = {
	[PROFILE_HELPER] = "helper",       [PROFILE_FLUSH] = "TLB flush", [PROFILE_EXCEPTION] = "exception",
	[PROFILE_INTERRUPT] = "interrupt", [PROFILE_REST] = "rest",
};

/* Everything of all vCPUs. */
struct sum {
	uint64_t khz, total; /* ticks */
	uint64_t entered[PROFILE_STATES], ticks[PROFILE_STATES];
	uint64_t longest[PROFILE_STATES], stays[PROFILE_STATES][PROFILE_STAYS], evict_cpu, evicted;
	uint64_t count[PROFILE_COUNTS], bounce[SOFT_BOUNCE_DISCARD + 1];
	uint64_t samples, in_code, lost;
	struct profile_slot *slot;
	struct profile_block *block;
	unsigned slots, blocks, cpus;
};

static uint64_t us(const struct sum *sum, uint64_t ticks)
{
	return sum->khz ? ticks / sum->khz * 1000 + ticks % sum->khz * 1000 / sum->khz : 0;
}

static uint64_t ns(const struct sum *sum, uint64_t ticks)
{
	return sum->khz ? ticks * 1000 / sum->khz * 1000 + ticks * 1000 % sum->khz * 1000 / sum->khz : 0;
}

static uint64_t share(uint64_t part, uint64_t all)
{
	return all ? part * 1000 / all : 0;
}

static void add_slot(struct sum *sum, const struct profile_slot *s)
{
	struct profile_slot *to = sum->slot;
	while (to < sum->slot + sum->slots && (to->kind != s->kind || to->name != s->name || to->value != s->value))
		to++;
	if (to == sum->slot + sum->slots) {
		sum->slots++;
		*to = (struct profile_slot){ .kind = s->kind, .name = s->name, .value = s->value };
	}
	to->count += s->count;
	to->ticks += s->ticks;
	sum->total += s->ticks;
}

static void add_block(struct sum *sum, const struct profile_block *b)
{
	struct profile_block *to = sum->block;
	while (to < sum->block + sum->blocks && (to->rip != b->rip || to->gpa != b->gpa || to->mode != b->mode))
		to++;
	if (to == sum->block + sum->blocks) {
		sum->blocks++;
		*to = *b;
		return;
	}
	to->samples += b->samples;
	for (unsigned i = 0; i < PROFILE_BLOCK_BYTES; i++)
		to->at[i] += b->at[i];
}

static void add_cpu(struct sum *sum, const struct soft_profile *p)
{
	sum->cpus++;
	if (p->anew) /* and then it never ran */
		return;
	for (unsigned i = 0; i < PROFILE_STATES; i++) {
		sum->entered[i] += p->entered[i];
		sum->ticks[i] += p->ticks[i];
		sum->total += p->ticks[i];
		if (sum->longest[i] < p->longest[i])
			sum->longest[i] = p->longest[i];
		for (unsigned j = 0; j < PROFILE_STAYS; j++)
			sum->stays[i][j] += p->stays[i][j];
	}
	if (sum->evict_cpu < p->evict_cpu)
		sum->evict_cpu = p->evict_cpu;
	for (unsigned i = 0; i < PROFILE_COUNTS; i++)
		sum->count[i] += p->count[i];
	for (unsigned i = 0; i <= SOFT_BOUNCE_DISCARD; i++)
		sum->bounce[i] += p->bounce[i];
	for (unsigned i = 0; i < PROFILE_SLOTS; i++) {
		if (p->slot[i].count)
			add_slot(sum, &p->slot[i]);
	}
	for (unsigned i = 0; i < PROFILE_BLOCKS; i++) {
		if (p->block[i].samples)
			add_block(sum, &p->block[i]);
	}
	sum->samples += p->samples;
	sum->in_code += p->in_code;
	sum->lost += p->lost;
}

static int by_cost(const void *a, const void *b)
{
	const struct profile_slot *x = a, *y = b;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	if (x->ticks != y->ticks)
		return x->ticks > y->ticks ? -1 : 1;
	return x->count > y->count ? -1 : x->count < y->count;
}

static int by_samples(const void *a, const void *b)
{
	const struct profile_block *x = a, *y = b;
	return x->samples > y->samples ? -1 : x->samples < y->samples;
}

/* Of the code that is not the kernel's (or all) how many samples. */
static uint64_t user_samples(const struct sum *sum)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < sum->blocks; i++)
		n += (sum->block[i].mode & SOFT_MODE_CPL) == 3 ? sum->block[i].samples : 0;
	return n;
}

static void slot_name(char *text, size_t size, const struct profile_slot *s)
{
	const char *name = s->name ? s->name : "other";
	switch (s->kind) {
	case PROFILE_HELPER:
		snprintf(text, size, s->value ? "%s %#lx" : "%s", s->name ? s->name : "exception", s->value);
		break;
	case PROFILE_FLUSH:
		snprintf(text, size, "by %s %#lx%s", name, s->value >> 1, s->value & 1 ? ", global too" : "");
		break;
	case PROFILE_EXCEPTION:
		snprintf(text, size, "vector %lu, error %#lx", s->value & 0xff, s->value >> 8);
		break;
	default:
		snprintf(text, size, "vector %#lx", s->value);
		break;
	}
}

/* ---- text ---- */

static void text_row(FILE *f, const struct sum *sum, const char *name, uint64_t ticks, uint64_t count)
{
	uint64_t part = share(ticks, sum->total), ns = count ? us(sum, ticks) * 1000 / count : 0;
	fprintf(f, "%3lu.%lu%% %10lu us %12lu times %9lu ns  %s\n", part / 10, part % 10, us(sum, ticks), count, ns,
		name);
}

static void text_times(FILE *f, const struct sum *sum)
{
	char name[64];
	fprintf(f, "Time of %u vCPUs, %lu us in all: share, time, how often, each\n\n", sum->cpus, us(sum, sum->total));
	for (unsigned i = 0; i < PROFILE_STATES; i++)
		text_row(f, sum, state_names[i], sum->ticks[i], sum->entered[i]);
	fprintf(f, "\nHelpers\n\n");
	for (unsigned i = 0; i < sum->slots; i++) {
		if (sum->slot[i].kind != PROFILE_HELPER)
			continue;
		slot_name(name, sizeof(name), &sum->slot[i]);
		text_row(f, sum, name, sum->slot[i].ticks, sum->slot[i].count);
	}
}

static void text_counts(FILE *f, const struct sum *sum)
{
	char name[64];
	fprintf(f, "\nCounts\n\n");
	for (unsigned i = 0; i < PROFILE_COUNTS; i++)
		fprintf(f, "%12lu  %s\n", sum->count[i], count_names[i]);
	for (unsigned i = 0; i <= SOFT_BOUNCE_DISCARD; i++)
		fprintf(f, "%12lu  %s\n", sum->bounce[i], bounce_names[i]);
	for (unsigned i = 0; i < sum->slots; i++) {
		if (sum->slot[i].kind == PROFILE_HELPER)
			continue;
		slot_name(name, sizeof(name), &sum->slot[i]);
		fprintf(f, "%12lu  %s %s\n", sum->slot[i].count, kind_names[sum->slot[i].kind], name);
	}
}

static void text_pauses(FILE *f, const struct sum *sum)
{
	static const unsigned pauses[] = { PROFILE_EVICT, PROFILE_PASS, PROFILE_WAIT };
	fprintf(f, "\nPauses: %lu regions evicted; how often up to so many nanoseconds, and the longest\n\n",
		sum->evicted);
	for (unsigned i = 0; i < sizeof(pauses) / sizeof(*pauses); i++) {
		unsigned state = pauses[i];
		fprintf(f, "  %s:", state_names[state]);
		for (unsigned n = 0; n < PROFILE_STAYS; n++)
			if (sum->stays[state][n])
				fprintf(f, " %lu: %lu,", ns(sum, 1ul << n), sum->stays[state][n]);
		fprintf(f, " longest %lu", ns(sum, sum->longest[state]));
		if (state == PROFILE_EVICT)
			fprintf(f, " (of CPU time %lu)", sum->evict_cpu);
		fputc('\n', f);
	}
}

static void text_listing(FILE *f, const struct profile_block *b)
{
	unsigned at = 0;
	while (at < b->bytes) {
		struct insn insn;
		unsigned left = b->bytes - at;
		if (insn_decode(&insn, b->code + at, left > INSN_MAX_LEN ? INSN_MAX_LEN : left,
				soft_mode_code(b->mode)) < 0)
			break;
		uint64_t part = share(b->at[at], b->samples);
		if (b->at[at])
			fprintf(f, "      %3lu.%lu%%", part / 10, part % 10);
		else
			fprintf(f, "            ");
		soft_disasm(f, b->code + at, insn.len, b->rip + at, soft_mode_code(b->mode));
		at += insn.len;
	}
}

static void text_blocks(FILE *f, const struct sum *sum, const struct engine_profile *how)
{
	uint64_t user = share(user_samples(sum), sum->in_code);
	fprintf(f, "\nBlocks by samples: %lu, of them %lu in translated code (%lu.%lu%% at CPL 3), %lu lost\n\n",
		sum->samples, sum->in_code, user / 10, user % 10, sum->lost);
	for (unsigned i = 0; i < sum->blocks && i < TOP_BLOCKS; i++) {
		const struct profile_block *b = &sum->block[i];
		uint64_t part = share(b->samples, sum->in_code), offset;
		const char *symbol = how->symbol ? how->symbol(how->ctx, b->rip, &offset) : NULL;
		fprintf(f, "%3lu.%lu%% %6u  cpl %u  %016lx", part / 10, part % 10, b->samples, b->mode & SOFT_MODE_CPL,
			b->rip);
		if (symbol)
			fprintf(f, "  %s+%#lx", symbol, offset);
		fputc('\n', f);
		if (i < TOP_LISTED)
			text_listing(f, b);
	}
}

/* ---- JSON ---- */

static void json_string(FILE *f, const char *text)
{
	fputc('"', f);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\' || (unsigned char)*text < ' ')
			fprintf(f, "\\u%04x", (unsigned char)*text);
		else
			fputc(*text, f);
	}
	fputc('"', f);
}

static void json_slots(FILE *f, const struct sum *sum)
{
	char name[64];
	fprintf(f, " \"events\": [");
	for (unsigned i = 0; i < sum->slots; i++) {
		const struct profile_slot *s = &sum->slot[i];
		slot_name(name, sizeof(name), s);
		fprintf(f, "%s\n  {\"kind\": \"%s\", \"name\": ", i ? "," : "", kind_names[s->kind]);
		json_string(f, name);
		fprintf(f, ", \"count\": %lu, \"us\": %lu}", s->count, us(sum, s->ticks));
	}
	fprintf(f, "],\n");
}

static void json_blocks(FILE *f, const struct sum *sum, const struct engine_profile *how)
{
	fprintf(f, " \"blocks\": [");
	for (unsigned i = 0; i < sum->blocks && i < JSON_BLOCKS; i++) {
		const struct profile_block *b = &sum->block[i];
		uint64_t offset;
		const char *symbol = how->symbol ? how->symbol(how->ctx, b->rip, &offset) : NULL;
		fprintf(f, "%s\n  {\"rip\": \"%#lx\", \"gpa\": \"%#lx\", \"cpl\": %u, \"samples\": %u, \"at\": {",
			i ? "," : "", b->rip, b->gpa, b->mode & SOFT_MODE_CPL, b->samples);
		const char *between = "";
		for (unsigned j = 0; j < PROFILE_BLOCK_BYTES; j++) {
			if (b->at[j])
				fprintf(f, "%s\"%u\": %u", between, j, b->at[j]);
			between = b->at[j] ? ", " : between;
		}
		fputc('}', f);
		if (symbol) {
			fprintf(f, ", \"symbol\": ");
			json_string(f, symbol);
			fprintf(f, ", \"offset\": %lu", offset);
		}
		fputc('}', f);
	}
	fprintf(f, "]\n");
}

static void json(FILE *f, const struct sum *sum, const struct engine_profile *how)
{
	fprintf(f, "{\"cpus\": %u, \"us\": %lu, \"samples\": %lu, \"in_code\": %lu, \"user\": %lu, \"lost\": %lu,\n",
		sum->cpus, us(sum, sum->total), sum->samples, sum->in_code, user_samples(sum), sum->lost);
	fprintf(f, " \"states\": {");
	for (unsigned i = 0; i < PROFILE_STATES; i++) {
		fprintf(f, "%s\n  \"%s\": {\"count\": %lu, \"us\": %lu, \"longest_ns\": %lu, \"up_to_ns\": {",
			i ? "," : "", state_names[i], sum->entered[i], us(sum, sum->ticks[i]),
			ns(sum, sum->longest[i]));
		const char *between = "";
		for (unsigned n = 0; n < PROFILE_STAYS; n++) {
			if (sum->stays[i][n])
				fprintf(f, "%s\"%lu\": %lu", between, ns(sum, 1ul << n), sum->stays[i][n]);
			between = sum->stays[i][n] ? ", " : between;
		}
		fprintf(f, "}}");
	}
	fprintf(f, "},\n \"evicted\": %lu, \"evict_cpu_ns\": %lu,\n \"counts\": {", sum->evicted, sum->evict_cpu);
	for (unsigned i = 0; i < PROFILE_COUNTS; i++)
		fprintf(f, "%s\n  \"%s\": %lu", i ? "," : "", count_names[i], sum->count[i]);
	for (unsigned i = 0; i <= SOFT_BOUNCE_DISCARD; i++)
		fprintf(f, ",\n  \"%s\": %lu", bounce_names[i], sum->bounce[i]);
	fprintf(f, "},\n");
	json_slots(f, sum);
	json_blocks(f, sum, how);
	fprintf(f, "}\n");
}

/* ---- all ---- */

void profile_report(struct soft_vm *vm, const struct engine_profile *how)
{
	struct sum sum = { .khz = vm->tsc_khz, .evicted = cache_evicted(vm->cache) };
	sum.slot = calloc((size_t)PROFILE_SLOTS * (vm->cpus + 1), sizeof(*sum.slot));
	sum.block = calloc((size_t)PROFILE_BLOCKS * (vm->cpus + 1), sizeof(*sum.block));
	if (!sum.slot || !sum.block) {
		fprintf(how->file, "out of memory\n");
	} else {
		for (unsigned i = 0; i < vm->cpus; i++)
			add_cpu(&sum, vm->cpu[i]->profile);
		qsort(sum.slot, sum.slots, sizeof(*sum.slot), by_cost);
		qsort(sum.block, sum.blocks, sizeof(*sum.block), by_samples);
		if (how->json) {
			json(how->file, &sum, how);
		} else {
			text_times(how->file, &sum);
			text_pauses(how->file, &sum);
			text_counts(how->file, &sum);
			text_blocks(how->file, &sum, how);
		}
	}
	free(sum.slot);
	free(sum.block);
}
