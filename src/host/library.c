/* SPDX-License-Identifier: Apache-2.0 */
#include "host/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int library_load(const char *file, const char *const *names, size_t count, void *functions, struct error *err)
{
	/* NODELETE: libraries start threads and register what runs at exit, so closing one is not safe. */
	void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);

	if (!library)
		return error_set(err, -ELIBACC, "this needs the library %s, which can't be loaded (%s): install it",
				 file, dlerror());
	for (size_t i = 0; i < count; i++) {
		void *function = dlsym(library, names[i]);
		if (!function)
			return error_set(err, -ELIBACC,
					 "the library %s has no %s: install the version that plures was built with",
					 file, names[i]);
		memcpy((char *)functions + i * sizeof(function), &function, sizeof(function));
	}
	return 0;
}
