/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - the document itself: version, root, hooks, annotations (runtime-spec, config.md). */
#include "container/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SIZE = 16 << 20 }; /* of a document */

const char *oci_hook_name(enum oci_hook_kind kind)
{
	static const char *const names[HOOK_KINDS] = {
		"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
	};

	return names[kind];
}

/* "1.0.2-dev": a semantic version whose first number is 1. */
static void read_version(struct reader *r, const struct field *config, const char **to)
{
	struct field field = { .up = config, .name = "ociVersion" };
	const char *version = NULL;
	unsigned dots = 0;

	if (!reader_text(r, config, "ociVersion", REQUIRED, &version))
		return;
	for (const char *p = version; *p && *p != '-' && *p != '+'; p++) {
		if (*p == '.')
			dots++;
		else if (*p < '0' || *p > '9')
			dots = 9;
	}
	if (dots != 2)
		reader_fail(r, &field, "\"%.40s\" is no version like %s", version, OCI_VERSION);
	else if (strncmp(version, "1.", 2) != 0)
		reader_fail(r, &field, "\"%.40s\" is not supported, only 1.x is", version);
	*to = version;
}

static void read_hook(struct reader *r, const struct field *item, struct oci_hook *to)
{
	struct field field = { .up = item, .name = "path" };

	reader_text(r, item, "path", REQUIRED, &to->path);
	if (!r->rc && to->path[0] != '/')
		reader_fail(r, &field, "\"%.80s\" must be absolute", to->path);
	reader_texts(r, item, "args", OPTIONAL, &to->args);
	reader_texts(r, item, "env", OPTIONAL, &to->env);
	reader_number(r, item, "timeout", 1, 1 << 30, &to->timeout);
}

static void read_hooks(struct reader *r, const struct field *config, struct oci_hooks *to)
{
	struct field hooks, list, item;

	if (!reader_object(r, config, "hooks", OPTIONAL, &hooks))
		return;
	for (unsigned kind = 0; kind < HOOK_KINDS; kind++) {
		if (!reader_list(r, &hooks, oci_hook_name(kind), OPTIONAL, &list))
			continue;
		struct oci_hook *array = reader_room(r, &list, sizeof(*array));

		for (size_t i = 0; reader_element(r, &list, i, &item); i++)
			read_hook(r, &item, &array[i]);
		to[kind] = (struct oci_hooks){ array, reader_count(&list) };
	}
}

static void read_config(struct reader *r, const struct field *config, struct oci_config *to)
{
	struct field process, root;

	read_version(r, config, &to->version);
	if (reader_object(r, config, "root", REQUIRED, &root)) {
		reader_text(r, &root, "path", REQUIRED, &to->root_path);
		reader_flag(r, &root, "readonly", &to->root_readonly);
	}
	/* The specification lets create do without a process; start then fails, which says nothing to a person. */
	if (reader_object(r, config, "process", REQUIRED, &process))
		oci_read_process(r, &process, &to->process);
	reader_text(r, config, "hostname", OPTIONAL, &to->hostname);
	reader_text(r, config, "domainname", OPTIONAL, &to->domainname);
	oci_read_mounts(r, config, to);
	read_hooks(r, config, to->hooks);
	reader_pairs(r, config, "annotations", &to->annotations);
	oci_read_linux(r, config, to);
}

/* What must fit together. */
static void check(struct reader *r, const struct field *top, const struct oci_config *c)
{
	static const struct {
		const char *field;
		enum oci_namespace_type type;
		const char *name;
	} needs[] = { { "hostname", NS_UTS, "uts" }, { "domainname", NS_UTS, "uts" } };
	const char *const texts[] = { c->hostname, c->domainname };
	struct field linux_field = { .up = top, .name = "linux" },
		     namespaces = { .up = &linux_field, .name = "namespaces" };

	for (unsigned i = 0; i < 2; i++) {
		struct field field = { .up = top, .name = needs[i].field };

		if (texts[i] && texts[i][0] && !c->namespaces[needs[i].type].given)
			reader_fail(r, &field, "needs a \"%s\" namespace in linux.namespaces", needs[i].name);
	}
	if (!c->namespaces[NS_MOUNT].given)
		reader_fail(r, &namespaces, "a \"mount\" namespace is needed to change the root");
	if (c->time_offsets && !c->namespaces[NS_TIME].given)
		reader_fail(r, &namespaces, "linux.timeOffsets needs a \"time\" namespace");
	if (c->uids.count && !c->namespaces[NS_USER].given)
		reader_fail(r, &namespaces, "linux.uidMappings needs a \"user\" namespace");
	if (c->namespaces[NS_USER].given && !c->namespaces[NS_USER].path && (!c->uids.count || !c->gids.count))
		reader_fail(r, &namespaces, "a new \"user\" namespace needs linux.uidMappings and linux.gidMappings");
}

int oci_config_parse(struct oci_config *config, const char *text, size_t size, struct error *err)
{
	json_t *root = reader_parse(text, size, err);

	memset(config, 0, sizeof(*config));
	if (!root)
		return -EINVAL;
	struct reader r = { .arena = &config->arena, .err = err };
	struct field top = { .value = root };

	read_config(&r, &top, config);
	if (!r.rc)
		check(&r, &top, config);
	json_decref(root);
	if (r.rc)
		oci_config_fini(config);
	return r.rc;
}

int oci_process_parse(struct oci_process *process, struct arena *arena, const char *text, size_t size,
		      struct error *err)
{
	json_t *root = reader_parse(text, size, err);

	memset(process, 0, sizeof(*process));
	if (!root)
		return -EINVAL;
	struct reader r = { .arena = arena, .err = err };
	struct field top = { .value = root };

	oci_read_process(&r, &top, process);
	json_decref(root);
	return r.rc;
}

int oci_resources_parse(struct oci_resources *resources, struct arena *arena, const char *text, size_t size,
			struct error *err)
{
	json_t *root = reader_parse(text, size, err);

	memset(resources, 0, sizeof(*resources));
	if (!root)
		return -EINVAL;
	struct reader r = { .arena = arena, .err = err };
	struct field top = { .value = root };

	oci_read_resources(&r, &top, resources);
	json_decref(root);
	return r.rc;
}

int oci_file_read(int dir, const char *path, char **text, size_t *size, struct error *err)
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	size_t used = 0, room = 16384;
	char *buffer = NULL;
	ssize_t got = 1;

	if (fd < 0)
		return error_errno(err, -errno, "can't open %s", path);
	while (got > 0) {
		char *more = used + 1 < room && buffer ? buffer : realloc(buffer, room *= 2);

		if (!more) {
			errno = ENOMEM;
			got = -1;
			break;
		}
		buffer = more;
		got = read(fd, buffer + used, room - used - 1);
		if (got > 0)
			used += (size_t)got;
		if (used > MAX_SIZE) {
			errno = EFBIG;
			got = -1;
		}
	}
	int rc = got < 0 ? -errno : 0;

	close(fd);
	if (rc || !buffer) {
		free(buffer);
		return error_errno(err, rc ? rc : -ENOMEM, "can't read %s", path);
	}
	buffer[used] = 0;
	*text = buffer;
	*size = used;
	return 0;
}

void oci_config_fini(struct oci_config *config)
{
	arena_fini(&config->arena);
	memset(config, 0, sizeof(*config));
}
