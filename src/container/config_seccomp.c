/* SPDX-License-Identifier: Apache-2.0 */
/* config_seccomp.c - "linux.seccomp" (runtime-spec, config-linux.md, "Seccomp"). */
#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <string.h>

#include "container/config.h"
#include "container/seccomp.h"

const struct oci_seccomp_word oci_seccomp_actions[] = {
	{ "SCMP_ACT_KILL", SCMP_ACT_KILL },
	{ "SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS },
	{ "SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD },
	{ "SCMP_ACT_TRAP", SCMP_ACT_TRAP },
	{ "SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0) },
	{ "SCMP_ACT_TRACE", SCMP_ACT_TRACE(0) },
	{ "SCMP_ACT_ALLOW", SCMP_ACT_ALLOW },
	{ "SCMP_ACT_LOG", SCMP_ACT_LOG },
	{ "SCMP_ACT_NOTIFY", SCMP_ACT_NOTIFY },
	{ NULL, 0 },
};

const struct oci_seccomp_word oci_seccomp_operators[] = {
	{ "SCMP_CMP_NE", SCMP_CMP_NE },
	{ "SCMP_CMP_LT", SCMP_CMP_LT },
	{ "SCMP_CMP_LE", SCMP_CMP_LE },
	{ "SCMP_CMP_EQ", SCMP_CMP_EQ },
	{ "SCMP_CMP_GE", SCMP_CMP_GE },
	{ "SCMP_CMP_GT", SCMP_CMP_GT },
	{ "SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ },
	{ NULL, 0 },
};

const struct oci_seccomp_word oci_seccomp_architectures[] = {
	{ "SCMP_ARCH_X86", SCMP_ARCH_X86 },
	{ "SCMP_ARCH_X86_64", SCMP_ARCH_X86_64 },
	{ "SCMP_ARCH_X32", SCMP_ARCH_X32 },
	{ "SCMP_ARCH_ARM", SCMP_ARCH_ARM },
	{ "SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64 },
	{ "SCMP_ARCH_MIPS", SCMP_ARCH_MIPS },
	{ "SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64 },
	{ "SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32 },
	{ "SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL },
	{ "SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64 },
	{ "SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32 },
	{ "SCMP_ARCH_PPC", SCMP_ARCH_PPC },
	{ "SCMP_ARCH_PPC64", SCMP_ARCH_PPC64 },
	{ "SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE },
	{ "SCMP_ARCH_S390", SCMP_ARCH_S390 },
	{ "SCMP_ARCH_S390X", SCMP_ARCH_S390X },
	{ "SCMP_ARCH_PARISC", SCMP_ARCH_PARISC },
	{ "SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64 },
	{ "SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64 },
	{ NULL, 0 },
};

/* TSYNC has no meaning for a process of one thread, but is legal. */
const struct oci_seccomp_word oci_seccomp_flags[] = {
	{ "SECCOMP_FILTER_FLAG_TSYNC", 0 },
	{ "SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG },
	{ "SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW },
	{ "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV },
	{ NULL, 0 },
};

static uint32_t find(struct reader *r, const struct field *field, const struct oci_seccomp_word *words,
		     const char *text)
{
	for (; words->name; words++)
		if (!strcmp(words->name, text))
			return words->value;
	reader_fail(r, field, "\"%.60s\" is unknown", text);
	return 0;
}

/* An action and the errno that goes with it ("errnoRet", "defaultErrnoRet"). */
static uint32_t read_action(struct reader *r, const struct field *in, const char *name, const char *errno_name)
{
	struct field field = { .up = in, .name = name }, errno_field = { .up = in, .name = errno_name };
	struct reader_number number = { false, EPERM };
	const char *text = NULL;

	if (!reader_text(r, in, name, REQUIRED, &text))
		return 0;
	uint32_t action = find(r, &field, oci_seccomp_actions, text);
	bool takes = action == SCMP_ACT_ERRNO(0) || action == SCMP_ACT_TRACE(0);

	if (reader_number(r, in, errno_name, 0, 0xffff, &number) && !takes)
		reader_fail(r, &errno_field, "%s takes none", text);
	return takes ? action | (uint32_t)number.value : action;
}

static void read_args(struct reader *r, const struct field *rule, struct oci_seccomp_rule *to)
{
	struct field list, item;

	if (!reader_list(r, rule, "args", OPTIONAL, &list))
		return;
	struct oci_seccomp_arg *args = reader_room(r, &list, sizeof(*args));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		struct field op = { .up = &item, .name = "op" };
		const char *text = NULL;
		int64_t index = 0;

		reader_int(r, &item, "index", REQUIRED, 0, 5, &index);
		reader_u64(r, &item, "value", REQUIRED, &args[i].value);
		reader_u64(r, &item, "valueTwo", OPTIONAL, &args[i].value_two);
		args[i].index = (unsigned)index;
		if (reader_text(r, &item, "op", REQUIRED, &text))
			args[i].op = find(r, &op, oci_seccomp_operators, text);
	}
	to->args = args;
	to->arg_count = reader_count(&list);
}

static void read_rules(struct reader *r, const struct field *seccomp, struct oci_seccomp *to)
{
	struct field list, item;

	if (!reader_list(r, seccomp, "syscalls", OPTIONAL, &list))
		return;
	struct oci_seccomp_rule *rules = reader_room(r, &list, sizeof(*rules));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		struct field names = { .up = &item, .name = "names" };

		reader_texts(r, &item, "names", REQUIRED, &rules[i].names);
		if (!r->rc && !rules[i].names[0])
			reader_fail(r, &names, "must have at least one entry");
		rules[i].action = read_action(r, &item, "action", "errnoRet");
		read_args(r, &item, &rules[i]);
	}
	to->rules = rules;
	to->rule_count = reader_count(&list);
}

void oci_read_seccomp(struct reader *r, const struct field *linux_field, struct oci_seccomp *to)
{
	struct field seccomp, list, flags = { .up = &seccomp, .name = "flags" };
	struct field listener = { .up = &seccomp, .name = "listenerPath" };
	const char *const *names = NULL;
	bool notify = false;

	if (!reader_object(r, linux_field, "seccomp", OPTIONAL, &seccomp))
		return;
	to->given = true;
	to->default_action = read_action(r, &seccomp, "defaultAction", "defaultErrnoRet");
	if (reader_texts(r, &seccomp, "architectures", OPTIONAL, &names)) {
		list = (struct field){ .up = &seccomp, .name = "architectures" };
		while (names[to->architecture_count])
			to->architecture_count++;
		uint32_t *architectures = arena_alloc(r->arena, to->architecture_count + 1, sizeof(*architectures));

		for (size_t i = 0; names[i] && architectures; i++)
			architectures[i] = find(r, &list, oci_seccomp_architectures, names[i]);
		to->architectures = architectures;
	}
	if (reader_texts(r, &seccomp, "flags", OPTIONAL, &names))
		for (; *names; names++)
			to->flags |= find(r, &flags, oci_seccomp_flags, *names);
	reader_text(r, &seccomp, "listenerPath", OPTIONAL, &to->listener_path);
	reader_text(r, &seccomp, "listenerMetadata", OPTIONAL, &to->listener_metadata);
	read_rules(r, &seccomp, to);
	for (size_t i = 0; i < to->rule_count && !r->rc; i++)
		notify |= to->rules[i].action == SCMP_ACT_NOTIFY;
	if (notify && !to->listener_path)
		reader_fail(r, &listener, "is missing: SCMP_ACT_NOTIFY needs one");
	if (to->default_action == SCMP_ACT_NOTIFY && !r->rc)
		reader_fail(r, &seccomp,
			    "defaultAction: SCMP_ACT_NOTIFY would stop the container itself from starting");
	if (!notify && to->listener_path && !r->rc)
		to->listener_path = NULL; /* nothing will ever be sent there */
}
