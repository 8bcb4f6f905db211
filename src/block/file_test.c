/* SPDX-License-Identifier: Apache-2.0 */
/* Each test runs in all the ways that a file can be used: io_uring and threads, through the page cache and around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/aio.h"
#include "block/block_testlib.h"

enum { SIZE = 8 << 20 };

struct fixture {
	struct event_loop *loop;
	struct block_options options;
	char path[TEST_PATH], warned[512];
	struct block *block;
	struct error err;
};

static void on_warn(void *ctx, const char *what)
{
	snprintf(((struct fixture *)ctx)->warned, sizeof(((struct fixture *)ctx)->warned), "%s", what);
}

static const struct {
	enum block_cache cache;
	bool threads;
} ways[] = {
	{ BLOCK_CACHE_WRITEBACK, false }, { BLOCK_CACHE_WRITEBACK, true }, { BLOCK_CACHE_NONE, false },
	{ BLOCK_CACHE_NONE, true },       { BLOCK_CACHE_UNSAFE, false },
};

enum { WAYS = sizeof(ways) / sizeof(*ways) };

static int open_again(struct fixture *f)
{
	return block_open(&f->block, &f->options, f->loop, &f->err);
}

/* A file of that size, open in one of the ways; a file system without O_DIRECT can't have all. */
static bool begin(struct fixture *f, unsigned way, uint64_t size)
{
	memset(f, 0, sizeof(*f));
	assert_int_equal(event_loop_create(&f->loop, NULL), 0);
	test_file(f->path, size);
	f->options = (struct block_options){
		.where = f->path,
		.format = "raw",
		.cache = ways[way].cache,
		.threads = ways[way].threads,
		.warn = on_warn,
		.ctx = f,
	};
	int rc = open_again(f);
	if (rc && ways[way].cache == BLOCK_CACHE_NONE && strstr(f->err.text, "around the page cache")) {
		unlink(f->path);
		event_loop_destroy(f->loop);
		return false;
	}
	assert_string_equal(f->err.text, "");
	return true;
}

static void end(struct fixture *f)
{
	assert_int_equal(block_close(f->block), 0);
	unlink(f->path);
	event_loop_destroy(f->loop);
}

/* Drops the file from the page cache, so that reads have to wait. */
static void make_cold(struct fixture *f)
{
	int fd = open(f->path, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(fdatasync(fd), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

static void compare(const uint8_t *bytes, uint64_t offset, uint64_t size)
{
	for (uint64_t i = 0; i < size; i++)
		if (bytes[i] != test_byte(offset + i))
			fail_msg("byte %llu of %llu is %#x", (unsigned long long)i, (unsigned long long)offset,
				 bytes[i]);
}

static void what_is_written_is_read(void **state)
{
	struct fixture f;

	(void)state;
	for (unsigned way = 0; way < WAYS; way++) {
		if (!begin(&f, way, SIZE))
			continue;
		uint8_t *bytes = aligned_alloc(4096, SIZE);
		for (unsigned cold = 0; cold < 2; cold++) {
			if (cold)
				make_cold(&f);
			assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, SIZE), 0);
			compare(bytes, 0, SIZE);
			assert_int_equal(test_request(f.block, BLOCK_READ, 512 * 77, bytes, 512), 0);
			compare(bytes, 512 * 77, 512);
		}
		memset(bytes, 0x5a, SIZE);
		static const uint64_t at[][2] = {
			{ 0, 4096 }, { 512 * 9, 512 }, { 1 << 20, 3 << 20 }, { SIZE - 512, 512 }
		};
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(test_request(f.block, BLOCK_WRITE, at[i][0], bytes, at[i][1]), 0);
		assert_int_equal(test_request(f.block, BLOCK_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(block_close(f.block), 0);
		assert_int_equal(open_again(&f), 0);
		assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, SIZE), 0);
		for (uint64_t i = 0; i < SIZE; i++) {
			bool changed = false;
			for (unsigned n = 0; n < 4; n++)
				changed |= i >= at[n][0] && i < at[n][0] + at[n][1];
			assert_int_equal(bytes[i], changed ? 0x5a : test_byte(i));
		}
		assert_int_equal(block_size(f.block), SIZE);
		free(bytes);
		end(&f);
	}
}

/* Buffers of odd addresses and lengths, more of them than one system call takes. */
static void buffers_lie_anywhere(void **state)
{
	enum { PIECES = IOV_MAX + 500, TOTAL = 3 << 20 };
	static struct iovec iov[PIECES];
	struct fixture f;
	uint8_t *bytes = malloc(TOTAL + PIECES), *all = aligned_alloc(4096, TOTAL);

	(void)state;
	for (unsigned way = 0; way < WAYS; way++) {
		if (!begin(&f, way, SIZE))
			continue;
		uint64_t left = TOTAL;
		uint8_t *at = bytes + 1;
		for (unsigned i = 0; i < PIECES; i++) {
			size_t n = i + 1 == PIECES ? left : 1 + i * 37 % 3000;
			iov[i] = (struct iovec){ .iov_base = at, .iov_len = n };
			at += n + (i + 1 < PIECES);
			left -= n;
		}
		make_cold(&f);
		assert_int_equal(test_request_iov(f.block, BLOCK_READ, 4096, iov, PIECES, TOTAL), 0);
		uint64_t offset = 4096;
		for (unsigned i = 0; i < PIECES; offset += iov[i++].iov_len)
			compare(iov[i].iov_base, offset, iov[i].iov_len);
		assert_int_equal(test_request_iov(f.block, BLOCK_WRITE, 1024, iov, PIECES, TOTAL), 0);
		assert_int_equal(test_request(f.block, BLOCK_READ, 1024, all, TOTAL), 0);
		compare(all, 4096, TOTAL);
		end(&f);
	}
	free(bytes);
	free(all);
}

/* A size that is no multiple of a sector: zeros up to the next one, and a write makes the file longer. */
static void the_last_sector_may_be_short(void **state)
{
	struct fixture f;
	_Alignas(4096) uint8_t bytes[8192];

	(void)state;
	for (unsigned way = 0; way < WAYS; way++) {
		if (!begin(&f, way, 5000))
			continue;
		uint64_t size = block_size(f.block);
		assert_true(size >= 5000 && size < 5000 + block_alignment(f.block) && size <= sizeof(bytes));
		memset(bytes, 0x11, sizeof(bytes));
		assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, size), 0);
		compare(bytes, 0, 5000);
		for (uint64_t i = 5000; i < size; i++)
			assert_int_equal(bytes[i], 0);
		memset(bytes, 0x77, sizeof(bytes));
		uint64_t last = size - block_alignment(f.block);
		assert_int_equal(test_request(f.block, BLOCK_WRITE, last, bytes, size - last), 0);
		assert_int_equal(block_refresh(f.block), size);
		memset(bytes, 0, sizeof(bytes));
		assert_int_equal(test_request(f.block, BLOCK_READ, last, bytes, size - last), 0);
		assert_int_equal(bytes[size - last - 1], 0x77);
		end(&f);
	}
}

static void discards_and_zeroes(void **state)
{
	struct fixture f;
	struct stat st;

	(void)state;
	for (unsigned way = 0; way < WAYS; way++) {
		if (!begin(&f, way, SIZE))
			continue;
		uint8_t *bytes = aligned_alloc(4096, SIZE);
		assert_int_equal(test_request(f.block, BLOCK_WRITE_ZEROES, 4096, NULL, 1 << 20), 0);
		assert_int_equal(test_request(f.block, BLOCK_DISCARD, 2 << 20, NULL, 4 << 20), 0);
		assert_int_equal(test_request(f.block, BLOCK_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, SIZE), 0);
		compare(bytes, 0, 4096);
		for (unsigned i = 4096; i < 4096 + (1 << 20); i++)
			assert_int_equal(bytes[i], 0);
		compare(bytes + 4096 + (1 << 20), 4096 + (1 << 20), (1 << 20) - 4096);
		compare(bytes + (6 << 20), 6 << 20, 2 << 20);
		assert_int_equal(stat(f.path, &st), 0);
		if (f.block->discards) /* the file system can */
			assert_true(st.st_blocks * 512 <= SIZE - (4 << 20) + (64 << 10));
		/* As if the file system could not. */
		f.block->zeroes = false;
		assert_int_equal(test_request(f.block, BLOCK_WRITE_ZEROES, 6 << 20, NULL, 2 << 20), 0);
		assert_int_equal(test_request(f.block, BLOCK_READ, 6 << 20, bytes, 2 << 20), 0);
		for (unsigned i = 0; i < 2 << 20; i++)
			assert_int_equal(bytes[i], 0);
		free(bytes);
		end(&f);
	}
}

static void a_file_may_change_its_size(void **state)
{
	struct fixture f;
	_Alignas(4096) uint8_t bytes[4096];

	(void)state;
	for (unsigned way = 0; way < WAYS; way++) {
		if (!begin(&f, way, SIZE))
			continue;
		assert_int_equal(truncate(f.path, SIZE + (1 << 20)), 0);
		assert_int_equal(test_request(f.block, BLOCK_READ, SIZE, bytes, 4096), -EINVAL);
		assert_int_equal(block_refresh(f.block), SIZE + (1 << 20));
		assert_int_equal(test_request(f.block, BLOCK_READ, SIZE, bytes, 4096), 0);
		assert_int_equal(f.block->ops->grow(f.block, SIZE + (2 << 20)), 0);
		assert_int_equal(block_size(f.block), SIZE + (2 << 20));
		/* Made shorter behind our back: an error, not zeros. */
		assert_int_equal(truncate(f.path, 4096), 0);
		assert_int_equal(test_request(f.block, BLOCK_READ, 8192, bytes, 4096), -EIO);
		assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, 4096), 0);
		compare(bytes, 0, 4096);
		assert_int_equal(block_refresh(f.block), 4096);
		assert_int_equal(test_request(f.block, BLOCK_READ, 8192, bytes, 4096), -EINVAL);
		end(&f);
	}
}

/* ---- many at once ---- */

struct many {
	struct block_request request;
	struct iovec iov;
	uint8_t bytes[4096];
	unsigned *left;
};

static void on_one(struct block_request *request, int result)
{
	struct many *m = (struct many *)request;

	assert_int_equal(result, 0);
	--*m->left;
}

static void many_requests_at_once(void **state)
{
	enum { N = 700 };
	struct many *many = calloc(N, sizeof(*many));
	struct fixture f;

	(void)state;
	for (unsigned way = 0; way < WAYS * 2; way++) {
		if (!begin(&f, way / 2, SIZE))
			continue;
		make_cold(&f);
		unsigned left = N;
		for (unsigned i = 0; i < N; i++) {
			many[i].iov = (struct iovec){ .iov_base = many[i].bytes, .iov_len = 4096 };
			many[i].left = &left;
			many[i].request = (struct block_request){
				.op = BLOCK_READ,
				.offset = i * 4096ull,
				.size = 4096,
				.iov = &many[i].iov,
				.iovs = 1,
				.done = on_one,
			};
			block_submit(f.block, &many[i].request);
		}
		block_kick(f.block);
		if (way % 2)
			block_drain(f.block);
		while (left)
			event_loop_turn(f.loop, -1, NULL);
		for (unsigned i = 0; i < N; i++)
			compare(many[i].bytes, i * 4096ull, 4096);
		end(&f);
	}
	free(many);
}

/* ---- opening ---- */

static void refused(struct fixture *f, int rc, const char *words)
{
	struct block *block = f->block;

	assert_int_equal(open_again(f), rc);
	assert_null(f->block);
	if (!strstr(f->err.text, words))
		fail_msg("'%s' does not say '%s'", f->err.text, words);
	f->block = block;
	f->err.text[0] = '\0';
}

static void what_is_no_disk_is_refused(void **state)
{
	struct fixture f;
	char empty[TEST_PATH];

	(void)state;
	assert_true(begin(&f, 0, SIZE));
	test_file(empty, 0);
	f.options.where = empty;
	refused(&f, -EINVAL, "is empty");
	f.options.where = "/var/tmp/plures/none";
	refused(&f, -ENOENT, "/var/tmp/plures/none: can't open it: No such file");
	f.options.where = "/dev";
	f.options.readonly = true;
	refused(&f, -EINVAL, "a folder");
	f.options.where = "/dev/null";
	refused(&f, -EINVAL, "neither a file nor a block device");
	f.options.where = "gopher://x/y";
	refused(&f, -ENOENT, "nothing for such addresses");
	f.options.where = f.path;
	f.options.format = "vhdx";
	refused(&f, -EINVAL, "no image format is called 'vhdx': use one of raw");
	unlink(empty);
	end(&f);
}

static void two_writers_exclude_each_other(void **state)
{
	struct fixture f;

	(void)state;
	assert_true(begin(&f, 0, SIZE));
	refused(&f, -EAGAIN, "another program uses it");
	f.options.readonly = true;
	refused(&f, -EAGAIN, "have all of them use it read-only");
	block_close(f.block);

	struct block *first;
	assert_int_equal(open_again(&f), 0);
	first = f.block;
	assert_int_equal(open_again(&f), 0); /* readers share */
	assert_int_equal(test_request(f.block, BLOCK_WRITE, 0, NULL, 0), -EROFS);
	f.options.readonly = false;
	refused(&f, -EAGAIN, "another program uses it");
	block_close(first);
	block_close(f.block);
	assert_int_equal(open_again(&f), 0);
	end(&f);
}

/* What the kernel says of a full disk reaches the caller; a process' limit of file sizes is the nearest that needs no root. */
static void the_hosts_errors_come_through(void **state)
{
	struct fixture f;
	_Alignas(4096) uint8_t bytes[4096] = { 0 };

	(void)state;
	for (unsigned way = 0; way < 2; way++) {
		assert_true(begin(&f, way, SIZE));
		block_close(f.block);
		f.options.where = "/dev/full";
		assert_int_equal(open_again(&f), -EINVAL); /* a character device */
		f.options.where = f.path;
		f.options.readonly = true;
		assert_int_equal(open_again(&f), 0);
		f.block->readonly = false; /* so that the kernel has to refuse it */
		assert_int_equal(test_request(f.block, BLOCK_WRITE, 0, bytes, 4096), -EBADF);
		assert_int_equal(test_request(f.block, BLOCK_WRITE, 512, bytes, 512), -EBADF);
		assert_int_equal(test_request(f.block, BLOCK_DISCARD, 0, NULL, 4096), -EBADF);
		end(&f);
	}
}

/* In a process of its own, which may not use io_uring, as in a container. */
static int without_io_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = 4, .filter = filter };
	struct aio *aio = NULL;
	struct fixture f;
	uint8_t bytes[4096];

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return 77;
	begin(&f, 0, SIZE);
	if (aio_uring_create(&aio, f.loop, NULL) != -EPERM)
		return 1;
	make_cold(&f);
	if (test_request(f.block, BLOCK_READ, 8192, bytes, 4096) || bytes[5] != test_byte(8197))
		return 2;
	if (test_request(f.block, BLOCK_FLUSH, 0, NULL, 0))
		return 3;
	end(&f);
	return 0;
}

static void threads_serve_where_io_uring_is_forbidden(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (!pid)
		_exit(without_io_uring());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A guest that could make an image of a raw disk would choose its backing file. */
static void a_guessed_raw_disk_stays_one(void **state)
{
	struct fixture f;
	_Alignas(4096) uint8_t header[4096] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 }, bytes[4096];
	struct iovec pieces[] = {
		{ .iov_base = header, .iov_len = 3 },
		{ .iov_base = header + 3, .iov_len = 1000 },
		{ .iov_base = header + 1003, .iov_len = 3093 },
	};

	(void)state;
	assert_true(begin(&f, 0, SIZE));
	assert_int_equal(test_request(f.block, BLOCK_WRITE, 0, header, 4096), 0); /* the user said raw */
	assert_int_equal(test_request(f.block, BLOCK_WRITE, 0, memset(bytes, 1, sizeof(bytes)), 4096), 0);
	block_close(f.block);
	f.options.format = NULL;
	assert_int_equal(open_again(&f), 0);
	assert_string_equal(block_format(f.block), "raw");
	assert_int_equal(test_request(f.block, BLOCK_WRITE, 0, header, 4096), -EPERM);
	assert_non_null(strstr(f.warned, "say format=raw"));
	assert_int_equal(test_request_iov(f.block, BLOCK_WRITE, 0, pieces, 3, 4096), -EPERM);
	assert_int_equal(test_request(f.block, BLOCK_WRITE, 512, header, 512), 0);
	assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, 4096), 0);
	assert_int_equal(bytes[0], 1);
	/* Anything else goes there as it is. */
	header[0] = 'q';
	header[700] = 7;
	assert_int_equal(test_request_iov(f.block, BLOCK_WRITE, 0, pieces, 3, 4096), 0);
	assert_int_equal(test_request(f.block, BLOCK_READ, 0, bytes, 4096), 0);
	assert_memory_equal(bytes, header, 4096);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(buffers_lie_anywhere),
		cmocka_unit_test(the_last_sector_may_be_short),
		cmocka_unit_test(discards_and_zeroes),
		cmocka_unit_test(a_file_may_change_its_size),
		cmocka_unit_test(many_requests_at_once),
		cmocka_unit_test(what_is_no_disk_is_refused),
		cmocka_unit_test(two_writers_exclude_each_other),
		cmocka_unit_test(the_hosts_errors_come_through),
		cmocka_unit_test(threads_serve_where_io_uring_is_forbidden),
		cmocka_unit_test(a_guessed_raw_disk_stays_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
