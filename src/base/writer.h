/* SPDX-License-Identifier: Apache-2.0 */
/*
 * writer.h - a file that is written through stdio and keeps its first error: stdio remembers that there was one, not which.
 * Threads: any may print; opening, checking and closing are one thread's.
 */
#ifndef PLURES_BASE_WRITER_H
#define PLURES_BASE_WRITER_H

#include <stdio.h>

struct writer;

/* Creates or empties the file at path; a NULL path is standard error. NULL with errno when it can't be opened. */
struct writer *writer_open(const char *path);
/* What to print to. */
FILE *writer_file(struct writer *writer);
/* Writes out what has gathered: 0, or -errno of the first write that failed since it was opened. */
int writer_flush(struct writer *writer);
/* Closes the file, without writing a line about what writer_flush would have said. Takes NULL. */
void writer_close(struct writer *writer);

#endif
