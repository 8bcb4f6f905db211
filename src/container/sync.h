/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sync.h - what the runtime and the process that it made say to each other while a container comes to be: one message a
 * packet. The end of the file means that the other side is gone, and makes the child give up; or, after SYNC_GO, that it has
 * become the user's program.
 */
#ifndef PLURES_CONTAINER_SYNC_H
#define PLURES_CONTAINER_SYNC_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

enum sync_kind {
	/* To the child, in this order; each only if it is needed. */
	SYNC_MAPPED = 1, /* the user namespace has its maps */
	SYNC_CGROUP,     /* with descriptors: enter these */
	SYNC_FILTER,     /* with a system call filter's code */
	SYNC_HOOKED,     /* the hooks have run */
	SYNC_TAKEN,      /* the listener has been taken */
	SYNC_GO,         /* everything is on record: go on */
	/* From it. */
	SYNC_PROCESS, /* value: the process's number, from the one between when a user namespace is joined */
	SYNC_NETWORK, /* with descriptors: the network namespace that a user-mode network is for, and the user namespace */
	SYNC_HOOKS,    /* namespaces and mounts stand, the root is not changed yet */
	SYNC_LISTENER, /* value: which descriptor the filter's listener will be */
	SYNC_READY,    /* there is nothing left that could fail but execve */
	SYNC_FAILED,   /* value: -errno; the text says why */
};

enum { SYNC_DATA = 4096 * 8 }; /* the longest filter */

int sync_open(int *ours, int *theirs, struct error *err);

/* Send; -errno. */
int sync_send(int fd, enum sync_kind kind, int value, const void *data, size_t size);
int sync_send_fds(int fd, enum sync_kind kind, const int *fds, unsigned count);

/* A kind alone, by write and read: what a system call filter of the container's hardly refuses. sync_hear returns 0 when the
 * other side is gone. */
int sync_tell(int fd, enum sync_kind kind);
int sync_hear(int fd);

struct sync_message {
	int kind; /* 0: the other side is gone */
	int value;
	size_t size;
	int fds[16];
	unsigned fd_count;
	char data[SYNC_DATA];
};

/* Receives the next message. -errno only when the socket fails. */
int sync_receive(int fd, struct sync_message *message);

/* Receives and demands a kind. For the parent: what the child reports to have failed becomes the error. -EPIPE when the
 * other side is gone. */
int sync_expect(int fd, enum sync_kind kind, struct sync_message *message, struct error *err);

/* One descriptor, with a byte or some text, over any Unix socket. */
int sync_pass(int socket, int fd, const void *data, size_t size);

#endif
