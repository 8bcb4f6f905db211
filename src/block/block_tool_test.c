/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block_tool_test.c - what whole-program tests of disks drive: opens a disk as the program does and plays a guest that checks what it reads.
 *
 *     test-block-block_tool VERB DISK[,OPTION...] ARGUMENT...
 *
 * OPTIONs are format=F, readonly, none, unsafe, record=LOG (all that reaches the file of a qcow2 image, but reads, goes to LOG too). Verbs:
 *
 *     info                          prints format, size, alignment
 *     dump FILE                     reads the whole disk into FILE
 *     random SEED COUNT FILE DEPTH  random requests, DEPTH at a time, the same done to FILE; ends with every byte compared
 *     hammer SEED COUNT SPAN        numbered writes of 4K below SPAN with flushes; prints each number that has been flushed
 *     verify SEED NUMBER SPAN       looks whether hammer's writes up to NUMBER are there, or later ones
 *     repeat OP SIZE SPAN MS DEPTH  read or write at random places, and the number of requests done a second
 *     discard OFFSET SIZE           discards, then flushes
 *     patient COUNT                 reads 4K, COUNT times, 10 a second; prints each one's result
 *
 * Without arguments it has nothing to do and is skipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "block/driver.h"

enum { SKIPPED = 77, SECTOR = 4096, MAX_REQUEST = 512 << 10 };

struct tool {
	struct event_loop *loop;
	struct block *block;
	char *const *args;
	FILE *record;
};

static void fail(const char *what, int rc)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-rc));
	exit(1);
}

static void warn(void *ctx, const char *what)
{
	(void)ctx;
	printf("warning: %s\n", what);
	fflush(stdout);
}

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint64_t number(const struct tool *tool, int i)
{
	return strtoull(tool->args[i], NULL, 0);
}

static uint64_t milliseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void turn(const struct tool *tool, int timeout_ms)
{
	struct error err = { "" };
	int rc = event_loop_turn(tool->loop, timeout_ms, &err);
	if (rc)
		fail(err.text, rc);
}

/* ---- one request at a time ---- */

struct once {
	struct block_request request;
	bool done;
	int result;
};

static void once_done(struct block_request *request, int result)
{
	struct once *once = (struct once *)request;
	once->done = true;
	once->result = result;
}

static int once(const struct tool *tool, enum block_op op, uint64_t offset, void *bytes, uint64_t size)
{
	struct iovec iov = { .iov_base = bytes, .iov_len = size };
	struct once once = { .request = { .op = op, .offset = offset, .size = size, .done = once_done } };
	if (bytes) {
		once.request.iov = &iov;
		once.request.iovs = 1;
	}
	block_submit(tool->block, &once.request);
	block_kick(tool->block);
	while (!once.done)
		turn(tool, -1);
	return once.result;
}

static int info(const struct tool *tool)
{
	printf("%s %" PRIu64 " %u\n", block_format(tool->block), block_size(tool->block), block_alignment(tool->block));
	return 0;
}

static int dump(const struct tool *tool)
{
	FILE *out = fopen(tool->args[0], "w");
	uint8_t *bytes = memory_zalloc(1 << 20);
	uint64_t size = block_size(tool->block);
	if (!out)
		fail(tool->args[0], -errno);
	for (uint64_t at = 0; at < size; at += 1 << 20) {
		uint64_t n = size - at < 1 << 20 ? size - at : 1 << 20;
		int rc = once(tool, BLOCK_READ, at, bytes, n);
		if (rc)
			fail("read", rc);
		if (fwrite(bytes, 1, n, out) != n)
			fail(tool->args[0], -errno);
	}
	fclose(out);
	free(bytes);
	return 0;
}

static int discard(const struct tool *tool)
{
	int rc = once(tool, BLOCK_DISCARD, number(tool, 0), NULL, number(tool, 1));
	if (!rc)
		rc = once(tool, BLOCK_FLUSH, 0, NULL, 0);
	if (rc)
		fail("discard", rc);
	return 0;
}

/* ---- random requests beside a model ---- */

struct worker {
	struct block_request request;
	struct random *random;
	uint8_t *bytes, *model;
	struct iovec iov[3];
	bool busy;
};

struct random {
	const struct tool *tool;
	struct worker *workers;
	uint64_t state, left, depth, busy;
	int model, failed;
};

/* The bytes as the model has them; what was discarded may have become anything, so it takes that over. */
static void check_read(struct random *random, struct worker *worker)
{
	const struct block_request *r = &worker->request;
	if (pread(random->model, worker->model, r->size, (off_t)r->offset) != (ssize_t)r->size)
		fail("the model", -errno);
	if (!memcmp(worker->model, worker->bytes, r->size))
		return;
	uint64_t i = 0;
	while (worker->model[i] == worker->bytes[i])
		i++;
	fprintf(stderr, "byte %" PRIu64 " is %02x, not %02x (read at %" PRIu64 "+%" PRIu64 ")\n", r->offset + i,
		worker->bytes[i], worker->model[i], r->offset, r->size);
	random->failed = 1;
}

static void random_done(struct block_request *request, int result)
{
	struct worker *worker = (struct worker *)request;
	struct random *random = worker->random;
	worker->busy = false;
	random->busy--;
	if (result)
		fail("a request", result);
	if (request->op == BLOCK_READ)
		check_read(random, worker);
}

/* Requests at the same place would have no order, so there is none while another is there. */
static bool is_free(const struct random *random, uint64_t offset, uint64_t size)
{
	for (uint64_t i = 0; i < random->depth; i++) {
		const struct block_request *r = &random->workers[i].request;
		if (random->workers[i].busy && offset < r->offset + r->size && r->offset < offset + size)
			return false;
	}
	return true;
}

static void random_place(struct random *random, uint64_t *offset, uint64_t *size)
{
	uint64_t disk = block_size(random->tool->block), align = block_alignment(random->tool->block);
	static const uint64_t most[] = { 4096, 4096, 65536, MAX_REQUEST };
	do {
		uint64_t limit = most[next(&random->state) % 4] / align;
		*size = (1 + next(&random->state) % limit) * align;
		/* Half of them in a small part, so that they meet. */
		uint64_t span = next(&random->state) % 2 && disk > 8 << 20 ? 8 << 20 : disk;
		if (*size > span)
			*size = span;
		*offset = next(&random->state) % ((span - *size) / align + 1) * align;
	} while (!is_free(random, *offset, *size));
}

static void set_iov(struct random *random, struct worker *worker)
{
	struct block_request *r = &worker->request;
	uint64_t at = 0;
	r->iov = worker->iov;
	for (r->iovs = 0; r->iovs < 3 && at < r->size; r->iovs++) {
		uint64_t n = r->iovs == 2 ? r->size - at : next(&random->state) % (r->size - at) + 1;
		worker->iov[r->iovs] = (struct iovec){ .iov_base = worker->bytes + at, .iov_len = n };
		at += n;
	}
}

static void put_random(uint8_t *bytes, uint64_t *state)
{
	uint64_t word = next(state);
	memcpy(bytes, &word, sizeof(word));
}

static void random_start(struct random *random, struct worker *worker)
{
	static const enum block_op ops[] = { BLOCK_READ,  BLOCK_READ,  BLOCK_READ,    BLOCK_WRITE,        BLOCK_WRITE,
					     BLOCK_WRITE, BLOCK_WRITE, BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_FLUSH };
	struct block_request *r = &worker->request;
	*r = (struct block_request){ .op = ops[next(&random->state) % 10], .done = random_done };
	r->unmap = next(&random->state) % 2;
	if (r->op == BLOCK_FLUSH && next(&random->state) % 4)
		r->op = BLOCK_WRITE;
	if (r->op != BLOCK_FLUSH)
		random_place(random, &r->offset, &r->size);
	if (r->op == BLOCK_READ || r->op == BLOCK_WRITE)
		set_iov(random, worker);
	/* A discard leaves what it likes: zeros are written over it to know. */
	if (r->op == BLOCK_DISCARD) {
		int rc = once(random->tool, BLOCK_DISCARD, r->offset, NULL, r->size);
		if (rc)
			fail("a discard", rc);
		r->op = BLOCK_WRITE_ZEROES;
	}
	if (r->op == BLOCK_WRITE)
		for (uint64_t i = 0; i < r->size; i += 8)
			put_random(worker->bytes + i, &random->state);
	if (r->op == BLOCK_WRITE_ZEROES)
		memset(worker->bytes, 0, r->size);
	if ((r->op == BLOCK_WRITE || r->op == BLOCK_WRITE_ZEROES) &&
	    pwrite(random->model, worker->bytes, r->size, (off_t)r->offset) != (ssize_t)r->size)
		fail("the model", -errno);
	worker->busy = true;
	random->busy++;
	block_submit(random->tool->block, r);
}

static void compare_all(struct random *random)
{
	struct worker *worker = &random->workers[0];
	uint64_t size = block_size(random->tool->block);
	for (uint64_t at = 0; at < size; at += MAX_REQUEST) {
		struct block_request *r = &worker->request;
		*r = (struct block_request){ .offset = at, .size = size - at < MAX_REQUEST ? size - at : MAX_REQUEST };
		int rc = once(random->tool, BLOCK_READ, at, worker->bytes, r->size);
		if (rc)
			fail("read", rc);
		check_read(random, worker);
	}
}

static int random_requests(const struct tool *tool)
{
	struct random random = {
		.tool = tool, .state = number(tool, 0), .left = number(tool, 1), .depth = number(tool, 3)
	};
	random.model = open(tool->args[2], O_RDWR | O_CLOEXEC);
	if (random.model < 0)
		fail(tool->args[2], -errno);
	random.workers = memory_zalloc(random.depth * sizeof(struct worker));
	for (uint64_t i = 0; i < random.depth; i++) {
		random.workers[i].random = &random;
		random.workers[i].bytes = memory_zalloc(MAX_REQUEST);
		random.workers[i].model = memory_zalloc(MAX_REQUEST);
	}
	while ((random.left || random.busy) && !random.failed) {
		for (uint64_t i = 0; i < random.depth && random.left; i++)
			if (!random.workers[i].busy) {
				random.left--;
				random_start(&random, &random.workers[i]);
			}
		block_kick(tool->block);
		if (random.busy)
			turn(tool, -1);
	}
	while (random.busy)
		turn(tool, -1);
	if (!random.failed)
		compare_all(&random);
	for (uint64_t i = 0; i < random.depth; i++) {
		free(random.workers[i].bytes);
		free(random.workers[i].model);
	}
	free(random.workers);
	close(random.model);
	return random.failed;
}

/* ---- numbered writes ---- */

/* Beside enum block_op, in a record's first word. */
enum { RECORD_GROWN = 100, RECORD_FLUSHED };

static void record(FILE *log, uint64_t op, uint64_t offset, uint64_t size)
{
	fwrite((uint64_t[]){ op, offset, size }, 8, 3, log);
}

static uint64_t hammer_place(uint64_t *state, uint64_t sectors)
{
	return next(state) % sectors;
}

static void hammer_fill(uint64_t *sector, uint64_t place, uint64_t seed, uint64_t i)
{
	for (unsigned k = 0; k < SECTOR / 8; k += 4) {
		sector[k] = place;
		sector[k + 1] = seed;
		sector[k + 2] = i;
		sector[k + 3] = k;
	}
}

static int hammer(const struct tool *tool)
{
	uint64_t seed = number(tool, 0), count = number(tool, 1), sectors = number(tool, 2) / SECTOR, state = seed;
	static _Alignas(4096) uint64_t sector[SECTOR / 8];
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t place = hammer_place(&state, sectors);
		hammer_fill(sector, place, seed, i);
		int rc = once(tool, BLOCK_WRITE, place * SECTOR, sector, SECTOR);
		/* Now and then, and not always, something is given up. */
		if (!rc && i % 16 == 0)
			rc = once(tool, BLOCK_DISCARD, (sectors + i % 64 * 32) * SECTOR, NULL, 32 * SECTOR);
		if (!rc && i % 16 == 8)
			rc = once(tool, BLOCK_WRITE, (sectors + i % 64 * 32) * SECTOR, sector, SECTOR);
		if (!rc && i % 4 == 0)
			rc = once(tool, BLOCK_FLUSH, 0, NULL, 0);
		if (rc)
			fail("hammer", rc);
		if (i % 4 == 0) {
			if (tool->record)
				record(tool->record, RECORD_FLUSHED, i, 0);
			printf("%" PRIu64 "\n", i);
			fflush(stdout);
		}
	}
	return 0;
}

/* The 512 bytes at word `k`: whole, from a write that is the last flushed one or later. Only they are atomic. */
static bool verify_part(const uint64_t *sector, unsigned k, uint64_t place, uint64_t seed, uint64_t last)
{
	uint64_t want[SECTOR / 8] = { 0 }, found = sector[k + 2];
	if (found)
		hammer_fill(want, place, seed, found);
	if (found >= last && !memcmp(want + k, sector + k, 512))
		return true;
	fprintf(stderr, "sector %" PRIu64 " has write %" PRIu64 " at byte %u, should have %" PRIu64 " or later\n",
		place, found, k * 8, last);
	return false;
}

static int verify(const struct tool *tool)
{
	uint64_t seed = number(tool, 0), flushed = number(tool, 1), sectors = number(tool, 2) / SECTOR, state = seed;
	uint64_t *last = memory_zalloc(sectors * sizeof(*last)), *sector = memory_zalloc(SECTOR);
	int bad = 0;
	for (uint64_t i = 1; i <= flushed; i++)
		last[hammer_place(&state, sectors)] = i;
	for (uint64_t place = 0; place < sectors && !bad; place++) {
		int rc = once(tool, BLOCK_READ, place * SECTOR, sector, SECTOR);
		if (rc)
			fail("read", rc);
		for (unsigned k = 0; k < SECTOR / 8 && !bad; k += 64)
			bad = !verify_part(sector, k, place, seed, last[place]);
	}
	free(last);
	free(sector);
	return bad;
}

/* ---- how fast ---- */

struct repeater {
	struct block_request request;
	struct repeat *repeat;
	struct iovec iov;
};

struct repeat {
	const struct tool *tool;
	uint64_t state, places, end, done, busy;
};

static void repeat_next(struct repeater *repeater);

static void repeat_done(struct block_request *request, int result)
{
	struct repeater *repeater = (struct repeater *)request;
	struct repeat *repeat = repeater->repeat;
	if (result)
		fail("a request", result);
	repeat->done++;
	repeat->busy--;
	if (milliseconds() < repeat->end)
		repeat_next(repeater);
}

static void repeat_next(struct repeater *repeater)
{
	struct repeat *repeat = repeater->repeat;
	struct block_request *r = &repeater->request;
	r->offset = next(&repeat->state) % repeat->places * r->size;
	repeat->busy++;
	block_submit(repeat->tool->block, r);
}

static int repeat(const struct tool *tool)
{
	uint64_t size = number(tool, 1), ms = number(tool, 3), depth = number(tool, 4);
	struct repeat repeat = { .tool = tool, .places = number(tool, 2) / size, .end = milliseconds() + ms };
	struct repeater *repeaters = memory_zalloc(depth * sizeof(*repeaters));
	for (uint64_t i = 0; i < depth; i++) {
		struct repeater *r = &repeaters[i];
		r->repeat = &repeat;
		r->iov = (struct iovec){ .iov_base = aligned_alloc(4096, size), .iov_len = size };
		memset(r->iov.iov_base, (int)i + 1, size);
		r->request =
		    (struct block_request){ .op = strcmp(tool->args[0], "read") != 0 ? BLOCK_WRITE : BLOCK_READ,
					    .size = size,
					    .iov = &r->iov,
					    .iovs = 1,
					    .done = repeat_done };
		repeat_next(r);
	}
	while (repeat.busy) {
		block_kick(tool->block);
		turn(tool, -1);
	}
	printf("%" PRIu64 "\n", repeat.done * 1000 / ms);
	for (uint64_t i = 0; i < depth; i++)
		free(repeaters[i].iov.iov_base);
	free(repeaters);
	return 0;
}

static int patient(const struct tool *tool)
{
	static _Alignas(4096) uint8_t sector[SECTOR];
	for (uint64_t i = 0; i < number(tool, 0); i++) {
		int rc = once(tool, BLOCK_READ, i % 16 * SECTOR, sector, SECTOR);
		printf("%s\n", rc ? strerror(-rc) : "read");
		fflush(stdout);
		/* What comes in meanwhile is heard. */
		for (uint64_t end = milliseconds() + 100, now; (now = milliseconds()) < end;)
			turn(tool, (int)(end - now));
	}
	return 0;
}

/* ---- a layer that records ---- */

struct recorder {
	struct block block;
	struct block *below;
	FILE *log;
};

static void record_submit(struct block *block, struct block_request *request)
{
	struct recorder *recorder = (struct recorder *)block;
	/* One after the other: what was written before a flush is known. */
	int rc = 0;
	if (request->op != BLOCK_READ) {
		record(recorder->log, request->op, request->offset, request->size);
		for (unsigned i = 0; i < request->iovs; i++)
			fwrite(request->iov[i].iov_base, 1, request->iov[i].iov_len, recorder->log);
	}
	uint64_t at = request->offset;
	if (!request->iovs && request->op != BLOCK_FLUSH)
		rc = block_sync(recorder->below, request->op, at, NULL, request->size);
	for (unsigned i = 0; i < request->iovs && !rc; at += request->iov[i++].iov_len)
		rc = block_sync(recorder->below, request->op, at, request->iov[i].iov_base, request->iov[i].iov_len);
	block_done(request, rc);
}

static int record_grow(struct block *block, uint64_t size)
{
	struct recorder *recorder = (struct recorder *)block;
	int rc = recorder->below->ops->grow(recorder->below, size);
	block->size = recorder->below->size;
	record(recorder->log, RECORD_GROWN, block->size, 0);
	return rc;
}

static int record_close(struct block *block)
{
	struct recorder *recorder = (struct recorder *)block;
	int rc = block_close(recorder->below);
	fclose(recorder->log);
	block_fini(block);
	free(recorder);
	return rc;
}

static const struct block_ops record_ops = {
	.name = "record", .submit = record_submit, .grow = record_grow, .close = record_close
};

static int open_recorded(struct tool *tool, const struct block_options *options, const char *log, struct error *err)
{
	struct recorder *recorder = memory_zalloc(sizeof(*recorder));
	struct block_options raw = *options;
	raw.format = "raw";
	int rc = block_open(&recorder->below, &raw, tool->loop, err);
	if (rc)
		return rc;
	block_init(&recorder->block, &record_ops, tool->loop, &raw);
	recorder->block.size = recorder->below->size;
	recorder->block.zeroes = recorder->block.discards = true;
	recorder->log = fopen(log, "w");
	if (!recorder->log)
		fail(log, -errno);
	tool->record = recorder->log;
	return block_qcow2_open(&tool->block, &recorder->block, options, tool->loop, err);
}

/* ---- the command ---- */

static const struct {
	const char *name;
	int args;
	int (*fn)(const struct tool *tool);
} verbs[] = {
	{ "info", 0, info },     { "dump", 1, dump },     { "discard", 2, discard }, { "random", 4, random_requests },
	{ "hammer", 3, hammer }, { "verify", 3, verify }, { "repeat", 5, repeat },   { "patient", 1, patient },
};

static void open_disk(struct tool *tool, char *text)
{
	struct block_options options = { .warn = warn };
	struct error err = { "" };
	const char *log = NULL;
	options.where = strtok(text, ",");
	for (const char *option; (option = strtok(NULL, ","));) {
		if (!strncmp(option, "format=", 7))
			options.format = option + 7;
		else if (!strncmp(option, "record=", 7))
			log = option + 7;
		else if (!strcmp(option, "none"))
			options.cache = BLOCK_CACHE_NONE;
		else if (!strcmp(option, "unsafe"))
			options.cache = BLOCK_CACHE_UNSAFE;
		else
			options.readonly = true;
	}
	int rc = log ? open_recorded(tool, &options, log, &err) : block_open(&tool->block, &options, tool->loop, &err);
	if (rc) {
		fprintf(stderr, "%s\n", err.text);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct tool tool = { .args = argv + 3 };
	if (argc < 3)
		return SKIPPED;
	if (event_loop_create(&tool.loop, NULL))
		return 1;
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(verbs[i].name, argv[1]) != 0 || argc != 3 + verbs[i].args)
			continue;
		open_disk(&tool, argv[2]);
		int status = verbs[i].fn(&tool), rc = block_close(tool.block);
		if (rc)
			fail("closing", rc);
		event_loop_destroy(tool.loop);
		return status;
	}
	fprintf(stderr, "no such verb, or not its arguments: %s\n", argv[1]);
	return 2;
}
