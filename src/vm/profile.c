/* SPDX-License-Identifier: Apache-2.0 */
/* profile.c - the engine's profile as a file. Symbols come as System.map, /proc/kallsyms and nm write them: an address, a
 * letter and a name a line. */
#include "vm/profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/writer.h"

/* So far behind a symbol an address is no longer in what the symbol names. */
#define SYMBOL_REACH (1 << 20)

struct symbol {
	uint64_t address;
	char *name;
};

struct profile_file {
	const struct engine_ops *ops;
	const char *path;
	struct writer *file;
	struct symbol *symbol;
	size_t symbols, room;
};

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return (x->address > y->address) - (x->address < y->address);
}

static void add_symbol(struct profile_file *p, uint64_t address, const char *name)
{
	if (p->symbols == p->room) {
		p->room = p->room ? 2 * p->room : 1024;
		p->symbol = memory_resize(p->symbol, p->room, sizeof(*p->symbol));
	}
	p->symbol[p->symbols++] = (struct symbol){ address, memory_strdup(name) };
}

static int read_symbols(struct profile_file *p, const char *path, struct error *err)
{
	FILE *f = fopen(path, "re");
	char line[1024];

	if (!f)
		return error_errno(err, -errno, "can't open the symbols in %s", path);
	while (fgets(line, sizeof(line), f)) {
		unsigned long long address;
		char kind, name[256];
		/* 0 is what /proc/kallsyms says to those who may not know. */
		if (sscanf(line, "%llx %c %255s", &address, &kind, name) == 3 && address && strchr("tTwW", kind))
			add_symbol(p, address, name);
	}
	int rc = ferror(f) ? error_errno(err, -errno, "can't read the symbols in %s", path) : 0;
	fclose(f);
	if (!rc && !p->symbols)
		rc =
		    error_set(err, -EINVAL,
			      "%s holds no symbols: lines of an address, a letter and a name, as nm writes them", path);
	if (!rc)
		qsort(p->symbol, p->symbols, sizeof(*p->symbol), by_address);
	return rc;
}

static const char *find_symbol(void *ctx, uint64_t address, uint64_t *offset)
{
	const struct profile_file *p = ctx;
	size_t low = 0, high = p->symbols;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (p->symbol[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || address - p->symbol[low - 1].address >= SYMBOL_REACH)
		return NULL;
	*offset = address - p->symbol[low - 1].address;
	return p->symbol[low - 1].name;
}

int profile_file_open(struct profile_file **result, const struct vm_config *config, const struct engine_ops *ops,
		      struct error *err)
{
	struct profile_file *p;
	int rc = 0;

	*result = NULL;
	if (!config->profile)
		return 0;
	if (!ops->vm_profile)
		return error_set(err, -ENOTSUP, "the engine %s can't tell where time goes; soft can: --engine soft",
				 ops->name);
	p = memory_zalloc(sizeof(*p));
	p->ops = ops;
	p->path = config->profile;
	if (config->profile_symbols)
		rc = read_symbols(p, config->profile_symbols, err);
	if (!rc) {
		p->file = writer_open(p->path);
		rc = p->file ? 0 : error_errno(err, -errno, "can't open the profile %s", p->path);
	}
	if (rc) {
		profile_file_close(p);
		return rc;
	}
	*result = p;
	return 0;
}

int profile_file_write(struct profile_file *p, struct engine_vm *engine, struct error *err)
{
	size_t length = strlen(p->path);
	struct engine_profile how = {
		.file = writer_file(p->file),
		.json = length > 5 && strcmp(p->path + length - 5, ".json") == 0,
		.symbol = find_symbol,
		.ctx = p,
	};

	p->ops->vm_profile(engine, &how);
	int rc = writer_flush(p->file);
	return rc ? error_errno(err, rc, "can't write the profile to %s", p->path) : 0;
}

void profile_file_close(struct profile_file *p)
{
	if (!p)
		return;
	writer_close(p->file);
	for (size_t i = 0; i < p->symbols; i++)
		free(p->symbol[i].name);
	free(p->symbol);
	free(p);
}
