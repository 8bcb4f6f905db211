/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seccomp.h - system call filters: from the configuration to BPF, which takes libseccomp milliseconds for an engine's default
 * profile and is therefore done by the parent while the child sets up its mounts; then into the kernel.
 */
#ifndef PLURES_CONTAINER_SECCOMP_H
#define PLURES_CONTAINER_SECCOMP_H

#include "container/config.h"

struct oci_seccomp_word {
	const char *name;
	uint32_t value;
};

/* The specification's words; each ends with a NULL name. */
extern const struct oci_seccomp_word oci_seccomp_actions[], oci_seccomp_operators[], oci_seccomp_architectures[],
    oci_seccomp_flags[];

/* A filter as the kernel takes it; instructions are from malloc. */
struct oci_filter {
	void *code;  /* struct sock_filter[] */
	size_t size; /* bytes */
};

/* Names of system calls that libseccomp does not know are passed over: profiles list those of all kernels. */
int oci_filter_compile(const struct oci_seccomp *seccomp, struct oci_filter *filter, struct error *err);
void oci_filter_fini(struct oci_filter *filter);

/* Installs a filter in the calling thread. Returns 0, or with a listener its descriptor, or -errno. */
int oci_filter_install(const struct oci_filter *filter, uint64_t flags, bool listener, struct error *err);

#endif
