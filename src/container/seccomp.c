/* SPDX-License-Identifier: Apache-2.0 */
#include "container/seccomp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int add_rule(scmp_filter_ctx ctx, const struct oci_seccomp_rule *rule, const char *name, uint32_t action,
		    struct error *err)
{
	struct scmp_arg_cmp compare[6];
	int number = seccomp_syscall_resolve_name(name), rc = 0;
	bool twice = false;
	unsigned seen = 0;

	if (number == __NR_SCMP_ERROR)
		return 0;
	for (size_t i = 0; i < rule->arg_count; i++) {
		twice |= seen & (1u << rule->args[i].index);
		seen |= 1u << rule->args[i].index;
	}
	/* libseccomp takes each argument once a rule. Comparisons of the same one are alternatives, as runc has made them, which
	 * profiles rely on. */
	for (size_t i = 0; i < rule->arg_count; i++) {
		const struct oci_seccomp_arg *a = &rule->args[i];

		compare[twice ? 0 : i] =
		    (struct scmp_arg_cmp){ a->index, (enum scmp_compare)a->op, a->value, a->value_two };
		if (!twice)
			continue;
		rc = seccomp_rule_add_array(ctx, action, number, 1, compare);
		if (rc && rc != -EEXIST)
			break;
	}
	if (!twice)
		rc = seccomp_rule_add_array(ctx, action, number, (unsigned)rule->arg_count, compare);
	/* A rule that says what holds anyhow, or was there before; a call that the architecture has not. */
	if (rc == -EEXIST || rc == -EDOM)
		rc = 0;
	return rc ? error_errno(err, rc, "linux.seccomp.syscalls: \"%.60s\"", name) : 0;
}

static int fill(scmp_filter_ctx ctx, const struct oci_seccomp *s, struct error *err)
{
	/* Architectures that a kernel of this kind can't have do no harm. */
	for (size_t i = 0; i < s->architecture_count; i++) {
		int rc = seccomp_arch_add(ctx, s->architectures[i]);

		if (rc && rc != -EEXIST && rc != -EDOM)
			return error_errno(err, rc, "linux.seccomp.architectures[%zu]", i);
	}
	/* The process sets no_new_privs itself, where it is asked to. */
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0);
	for (size_t i = 0; i < s->rule_count; i++) {
		/* A rule that does what happens without it: libseccomp refuses those. */
		if (s->rules[i].action == s->default_action)
			continue;
		for (const char *const *name = s->rules[i].names; *name; name++) {
			int rc = add_rule(ctx, &s->rules[i], *name, s->rules[i].action, err);

			if (rc)
				return rc;
		}
	}
	return 0;
}

static int export(scmp_filter_ctx ctx, struct oci_filter *filter, struct error *err)
{
	int fd = memfd_create("seccomp", MFD_CLOEXEC);
	struct stat st;
	int rc = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);

	if (!rc && fstat(fd, &st))
		rc = -errno;
	if (!rc) {
		filter->size = (size_t)st.st_size;
		filter->code = malloc(filter->size);
		if (!filter->code)
			rc = -ENOMEM;
		else if (pread(fd, filter->code, filter->size, 0) != st.st_size)
			rc = -EIO;
	}
	if (fd >= 0)
		close(fd);
	return rc ? error_errno(err, rc, "linux.seccomp: can't make the filter") : 0;
}

int oci_filter_compile(const struct oci_seccomp *seccomp, struct oci_filter *filter, struct error *err)
{
	scmp_filter_ctx ctx = seccomp_init(seccomp->default_action);

	*filter = (struct oci_filter){ 0 };
	if (!ctx)
		return error_set(err, -EINVAL, "linux.seccomp.defaultAction: libseccomp refuses it");
	int rc = fill(ctx, seccomp, err);

	if (!rc)
		rc = export(ctx, filter, err);
	seccomp_release(ctx);
	return rc;
}

void oci_filter_fini(struct oci_filter *filter)
{
	free(filter->code);
	*filter = (struct oci_filter){ 0 };
}

int oci_filter_install(const struct oci_filter *filter, uint64_t flags, bool listener, struct error *err)
{
	struct sock_fprog program = { .len = (unsigned short)(filter->size / sizeof(struct sock_filter)),
				      .filter = filter->code };

	if (listener)
		flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
	long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);

	if (rc < 0)
		return error_errno(err, -errno, "linux.seccomp: the kernel refuses the filter");
	return (int)rc;
}
