/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2.h - what the files of the qcow2 layer share. qcow2.c has the scheme; block.h is for users.
 *
 *   qcow2_format.h   the file format: header and entries, without I/O
 *   qcow2.c          open, close, and the way in: what can go straight to the file does
 *   qcow2_open.c     from an opened file to tables in memory, and backing files
 *   qcow2_io.c       requests to the file and the backing file; who is at which clusters
 *   qcow2_cache.c    slices of L2 tables and refcount blocks
 *   qcow2_map.c      where a guest's byte is
 *   qcow2_read.c     reads that need more than one look
 *   qcow2_write.c    writes that allocate; zeros and discards
 *   qcow2_refcount.c which clusters are free
 *   qcow2_commit.c   tables back to the file, in an order that survives a crash
 *
 * Functions marked (waits) run within a fiber, or anywhere while q->sync is set. They return 0 or -errno.
 */
#ifndef PLURES_BLOCK_QCOW2_H
#define PLURES_BLOCK_QCOW2_H

#include <sys/queue.h>

#include "block/driver.h"
#include "block/fiber.h"
#include "block/qcow2_format.h"

/* A piece of an L2 table or refcount block: what is read and written at once. */
struct qcow2_slice {
	uint64_t offset; /* in the file */
	uint8_t *bytes;
	bool loading; /* nobody may look yet */
	bool dirty;
	bool writing; /* a commit has taken a copy, which may not be in the file yet */
	bool refcounts;
	struct qcow2_slice *hash_next;
	TAILQ_ENTRY(qcow2_slice) lru;
	TAILQ_ENTRY(qcow2_slice) dirty_link;
};

TAILQ_HEAD(qcow2_slices, qcow2_slice);

enum { QCOW2_HASH = 4096 };

struct qcow2_cache {
	struct qcow2_slice *hash[QCOW2_HASH];
	struct qcow2_slices lru;   /* least recently used first */
	struct qcow2_slices dirty; /* in the order in which they became so */
	unsigned count, dirty_count, limit;
	struct fiber_queue loaded;
};

/* A request under way, at clusters [first, last] of the disk. See qcow2_op_begin. */
struct qcow2_op {
	uint64_t first, last;
	bool exclusive;
	TAILQ_ENTRY(qcow2_op) link;
};

TAILQ_HEAD(qcow2_ops, qcow2_op);

/* A request that went straight to the file. */
struct qcow2_direct {
	struct block_request below;
	struct block_request *request;
	struct qcow2_op op;
	struct qcow2 *q;
	struct qcow2_direct *next; /* unused ones */
};

/* Clusters of the file to be given back once nothing on stable storage points to them. */
struct qcow2_free {
	uint64_t cluster, count;
};

struct qcow2_frees {
	struct qcow2_free *free;
	size_t count, room;
};

/* A set of clusters of the file: open addressing, 0 is an empty place (cluster 0 is the header's and always in it). */
struct qcow2_set {
	uint64_t *place;
	size_t count, places;
};

struct qcow2 {
	struct block block;
	struct block *file, *backing;
	struct qcow2_header header;
	uint64_t cluster_size;
	unsigned cluster_bits;
	unsigned l2_bits;       /* entries of an L2 table, as a power of two */
	unsigned entry_bits;    /* bytes of one */
	unsigned sub_bits;      /* bytes of a subcluster, which is a cluster unless entries are extended */
	unsigned refblock_bits; /* entries of a refcount block */
	unsigned slice_bits;

	uint64_t *l1;
	bool *l1_dirty; /* a piece of 1 << slice_bits bytes each */
	bool any_l1_dirty;
	struct fiber_lock l1_lock; /* who puts new L2 tables into it */

	/* Writable images only. */
	uint64_t *reftable;
	bool *reftable_dirty;
	uint64_t reftable_entries;
	bool any_reftable_dirty, reftable_moved;
	struct qcow2_set metadata; /* clusters that no data may be in */
	uint64_t free_hint;        /* no cluster below is free */
	uint64_t fresh;            /* clusters from here on were never used and, where the file grew, read as zeros */
	uint8_t *head;             /* the header's first 1 << slice_bits bytes, as in the file */
	struct qcow2_frees frees;
	struct fiber_lock commit_lock;
	uint64_t commits_begun;
	int commit_result;

	struct qcow2_cache cache;
	struct fibers fibers;
	bool sync;    /* opening and closing: functions that wait block instead */
	bool corrupt; /* found while it is open: no more writes */
	char why[256];

	struct qcow2_ops ops; /* in the order of arrival */
	unsigned exclusive_ops;
	struct fiber_queue op_waiters;
	struct qcow2_direct *unused;
};

/* ---- qcow2_io.c ---- */

/* Requests that are waited for together. Zeroed but for q. */
struct qcow2_group {
	struct qcow2 *q;
	unsigned left;
	int result; /* the first error */
	struct fiber *waiter;
};

/* Bytes [at, at + size) of an I/O vector. */
struct qcow2_vec {
	const struct iovec *iov;
	unsigned iovs;
};

/* Starts one; its part of `vec` begins at byte `at` and is not looked at after (what it points to is). */
void qcow2_group_io(struct qcow2_group *group, struct block *block, enum block_op op, uint64_t offset, uint64_t size,
		    struct qcow2_vec vec, uint64_t at);
int qcow2_group_wait(struct qcow2_group *group); /* (waits) */
/* One request. (waits) */
int qcow2_io(struct qcow2 *q, struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size);

void qcow2_vec_zero(struct qcow2_vec vec, uint64_t at, uint64_t size);
void qcow2_vec_put(struct qcow2_vec vec, uint64_t at, const uint8_t *bytes, uint64_t size);

/* Two requests conflict when they share a cluster and one of them is exclusive: it may change where the cluster is. begin waits for
 * all earlier ones in conflict and makes later ones wait. (waits) */
void qcow2_op_begin(struct qcow2 *q, struct qcow2_op *op, uint64_t offset, uint64_t size, bool exclusive);
/* As begin for one that isn't exclusive, but false, with nothing done, where it would wait. */
bool qcow2_op_try(struct qcow2 *q, struct qcow2_op *op, uint64_t offset, uint64_t size);
void qcow2_op_end(struct qcow2 *q, struct qcow2_op *op);

/* Memory for I/O whose size the image chooses, within its limits; NULL when the host has none. Freed by free(). */
void *qcow2_buffer(uint64_t size);

/* ---- qcow2_cache.c ---- */

void qcow2_cache_init(struct qcow2 *q);
void qcow2_cache_fini(struct qcow2 *q);
/* The slice that has the byte at `offset`, or NULL if it isn't there. Valid until the next wait. */
struct qcow2_slice *qcow2_slice_peek(struct qcow2 *q, uint64_t offset);
/* Reads it if need be. (waits) */
int qcow2_slice_get(struct qcow2 *q, struct qcow2_slice **slice, uint64_t offset, bool refcounts);
/* All slices of a new, empty table: dirty, zeroed. */
void qcow2_slices_create(struct qcow2 *q, uint64_t table, bool refcounts);
void qcow2_slice_dirty(struct qcow2 *q, struct qcow2_slice *slice);
void qcow2_slice_clean(struct qcow2 *q, struct qcow2_slice *slice);
/* Forgets what is cached of a cluster that is no table any more. (waits) */
void qcow2_slices_drop(struct qcow2 *q, uint64_t cluster_offset);

/* ---- qcow2_map.c ---- */

enum qcow2_kind { QCOW2_KIND_NONE, QCOW2_KIND_ZERO, QCOW2_KIND_DATA, QCOW2_KIND_COMPRESSED };

/* What is at a run of the disk's bytes. */
struct qcow2_map {
	enum qcow2_kind kind;
	uint64_t length;
	uint64_t host;  /* DATA: where the first byte is in the file; COMPRESSED: the entry */
	bool exclusive; /* DATA: ours alone, may be written in place */
};

/* One entry of an L2 table, its parts in the host's order. */
struct qcow2_entry {
	uint64_t word, bitmap;
};

/* Maps the bytes from `offset` on, at most `size`, as far as they are of one kind and contiguous and one slice says so. -EAGAIN: the
 * slice is not in the cache. -EIO: the image is corrupt, q->why says how. */
int qcow2_map_peek(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_map *map);
/* As peek, reads the slice if need be, and reports corruption. (waits) */
int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_map *map);

/* The entry of the cluster that has `offset`, checked. An L2 table must be there. (waits) */
int qcow2_entry_get(struct qcow2 *q, uint64_t offset, struct qcow2_slice **slice, struct qcow2_entry *entry);
void qcow2_entry_put(struct qcow2 *q, struct qcow2_slice *slice, uint64_t offset, struct qcow2_entry entry);
/* How many clusters from that of `offset` on are in the same slice. */
uint64_t qcow2_entries_left(const struct qcow2 *q, uint64_t offset);
enum qcow2_kind qcow2_entry_kind(const struct qcow2 *q, struct qcow2_entry entry, unsigned sub);

/* The image is corrupt, as q->why says: tells the user once, refuses further writes and marks the image, if it is writable and has a
 * place for that. Returns -EIO. (waits) */
int qcow2_corrupt(struct qcow2 *q);
/* Sets q->why and returns -EIO. */
int qcow2_why(struct qcow2 *q, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- qcow2_read.c ---- */

/* Reads from the disk into `vec` from its byte `at` on. Whoever calls it has a qcow2_op there. (waits) */
int qcow2_read(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_vec vec, uint64_t at);
/* Do these bytes read as zeros, as far as the tables say? 1, 0 or -errno. (waits) */
int qcow2_reads_zero(struct qcow2 *q, uint64_t offset, uint64_t size);

/* ---- qcow2_write.c ---- (waits) */

int qcow2_write(struct qcow2 *q, const struct block_request *request);
int qcow2_write_zeroes(struct qcow2 *q, const struct block_request *request);
int qcow2_discard(struct qcow2 *q, const struct block_request *request);

/* ---- qcow2_refcount.c ---- */

struct qcow2_run {
	uint64_t cluster, count;
	bool zero; /* it reads as zeros */
};

/* Takes at least one and at most `count` free clusters, contiguous. (waits) */
int qcow2_alloc(struct qcow2 *q, uint64_t count, bool metadata, struct qcow2_run *run);
/* Gives back clusters that nothing in the file ever pointed to. (waits) */
void qcow2_alloc_undo(struct qcow2 *q, const struct qcow2_run *run);
/* Gives clusters back after the next commit, in which nothing points to them any more. */
void qcow2_free(struct qcow2 *q, uint64_t cluster, uint64_t count);
/* One reference less to each. (waits) */
int qcow2_release(struct qcow2 *q, const struct qcow2_frees *frees);

bool qcow2_is_metadata(const struct qcow2 *q, uint64_t cluster);
/* False when it was there already. -ENOMEM is what growing it may return. */
int qcow2_set_add(struct qcow2_set *set, uint64_t cluster, bool *added);
void qcow2_set_remove(struct qcow2_set *set, uint64_t cluster);

/* ---- qcow2_commit.c ---- (waits) */

/* Everything written before is on stable storage when it returns 0. */
int qcow2_commit(struct qcow2 *q);
bool qcow2_is_clean(const struct qcow2 *q);
/* Changes 8 bytes, or `size` of them, of the header. */
int qcow2_header_write(struct qcow2 *q, unsigned at, const void *bytes, unsigned size);

/* ---- qcow2_open.c ---- */

/* Reads and checks the header and tables; opens the backing file. q->file is there. */
int qcow2_load(struct qcow2 *q, const struct block_options *options, struct error *err);
void qcow2_unload(struct qcow2 *q);

#endif
