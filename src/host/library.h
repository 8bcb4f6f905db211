/* SPDX-License-Identifier: Apache-2.0 */
/*
 * library.h - shared libraries that few machines need: loaded when one does, so that the others neither wait for them nor
 * hold their memory (docs/design/start.md).
 *
 * A user of such a library lists the functions that it calls, once, and makes of the list a structure of pointers to them:
 *
 *	#define NBD(F) F(nbd_create) F(nbd_close)
 *	struct nbd_library { NBD(LIBRARY_POINTER) };
 *	static const char *const nbd_names[] = { NBD(LIBRARY_NAME) };
 *
 *	struct nbd_library nbd;
 *	int rc = library_load(LIBRARY_NBD, nbd_names, LIBRARY_COUNT(nbd_names), &nbd, err);
 *
 * The types are those of the library's own header, and the file's name (LIBRARY_NBD) is the one that linking with the library
 * would have written into the program: meson.build asks the linker for it.
 */
#ifndef PLURES_HOST_LIBRARY_H
#define PLURES_HOST_LIBRARY_H

#include "base/error.h"

#define LIBRARY_POINTER(name) __typeof__(name) *name;
#define LIBRARY_NAME(name) #name,
#define LIBRARY_COUNT(names) (sizeof(names) / sizeof(*(names)))

/* Loads the library, if it is not loaded yet, and finds the functions: `functions` is a structure of as many pointers as there are
 * names, in their order. A loaded library stays until the process ends, so that doing it again costs a microsecond or two.
 * -ELIBACC when it or a function is missing; err says what to install. From any thread. */
int library_load(const char *file, const char *const *names, size_t count, void *functions, struct error *err);

#endif
