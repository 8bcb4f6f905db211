/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tty.h - the user's terminal: raw mode that is always undone, and the window's size.
 *
 * A terminal is the process's, so exit and signal handlers must find it: tty_raw keeps the old settings in the one
 * place at file scope that has to be there, and restores them at exit(3), on the signals that end a process, and on
 * abort and crashes. Ctrl-Z is the guest's while raw.
 */
#ifndef PLURES_HOST_TTY_H
#define PLURES_HOST_TTY_H

#include <stdbool.h>

#include "base/error.h"

/* Puts the terminal at fd into raw mode: no echo, no line editing, no signals from keys, 8 bits; output processing is
 * off too. -ENOTTY when fd is no terminal, -EBUSY when another one is raw already. One thread at a time. */
int tty_raw(int fd, struct error *err);

/* Restores what tty_raw changed; nothing when it changed nothing. Async-signal-safe. */
void tty_restore(void);

/* The size of the window of the terminal at fd: false when there is none. */
bool tty_size(int fd, unsigned *columns, unsigned *rows);

#endif
