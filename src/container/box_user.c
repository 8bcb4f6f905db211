/* SPDX-License-Identifier: Apache-2.0 */
/* box_user.c - users and groups by the root's own files, which whoever made the root has written: see passwd(5), group(5). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/box_private.h"
#include "container/path.h"

enum { FILE_MAX_SIZE = 1 << 20 };

/* A file of the root's, if it is one and of a size that such a file has. From malloc, or NULL. */
static char *read_file(int root, const char *path)
{
	struct stat st;
	int fd = path_open_as(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	char *text = fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) ? malloc(FILE_MAX_SIZE + 1) : NULL;
	ssize_t size = text ? pread(fd, text, FILE_MAX_SIZE, 0) : -1;

	if (fd >= 0)
		close(fd);
	if (size < 0) {
		free(text);
		return NULL;
	}
	text[size] = 0;
	return text;
}

/* Field `n` of a line that ends at a newline: its size, or -1 when there are fewer. */
static int field(const char *line, unsigned n, const char **start)
{
	for (; n; n--) {
		line += strcspn(line, ":\n");
		if (*line++ != ':')
			return -1;
	}
	*start = line;
	return (int)strcspn(line, ":\n");
}

static bool field_is(const char *line, unsigned n, const char *text, size_t size)
{
	const char *start;

	return field(line, n, &start) == (int)size && !memcmp(start, text, size);
}

static bool field_number(const char *line, unsigned n, uint32_t *number)
{
	const char *start;
	char *end;
	int size = field(line, n, &start);

	if (size <= 0)
		return false;
	unsigned long value = strtoul(start, &end, 10);

	if (end != start + size || value >= UINT32_MAX)
		return false;
	*number = (uint32_t)value;
	return true;
}

/* The line whose name is `text` or, if that is a number and no name, whose field 2 is it. */
static const char *find(const char *lines, const char *text, size_t size, bool number)
{
	for (const char *line = lines; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		const char *start;
		uint32_t value;

		if (!number && field_is(line, 0, text, size))
			return line;
		if (number && field_number(line, 2, &value) && value == strtoul(text, NULL, 10) &&
		    field(line, 0, &start) >= 0)
			return line;
	}
	return NULL;
}

static bool is_number(const char *text, size_t size)
{
	return size && size < 10 && strspn(text, "0123456789") >= size;
}

static int take_user(const char *passwd, const char *text, size_t size, struct box_identity *to, const char **line,
		     struct error *err)
{
	const char *home;

	*line = find(passwd, text, size, false);
	if (!*line && is_number(text, size)) {
		*line = find(passwd, text, size, true);
		to->uid = (uint32_t)strtoul(text, NULL, 10);
	} else if (!*line || !field_number(*line, 2, &to->uid)) {
		return error_set(err, -EINVAL, "--user: \"%.60s\" is in no line of ROOTFS's /etc/passwd, nor a number",
				 text);
	}
	if (*line && !field_number(*line, 3, &to->gid))
		to->gid = 0;
	int length = *line ? field(*line, 5, &home) : -1;

	if (length > 0 && length < (int)sizeof(to->home) && home[0] == '/')
		memcpy(to->home, home, (size_t)length);
	return 0;
}

static int take_group(const char *group, const char *text, struct box_identity *to, struct error *err)
{
	size_t size = strlen(text);
	const char *line = find(group, text, size, false);

	if (line && field_number(line, 2, &to->gid))
		return 0;
	if (!is_number(text, size))
		return error_set(err, -EINVAL, "--user: \"%.60s\" is in no line of ROOTFS's /etc/group, nor a number",
				 text);
	to->gid = (uint32_t)strtoul(text, NULL, 10);
	return 0;
}

/* Whether "a,b,c" at the end of a line has a name in it. */
static bool has_member(const char *line, const char *name, size_t size)
{
	const char *list;
	int length = field(line, 3, &list);

	for (int at = 0; at < length;) {
		int word = (int)strcspn(list + at, ",:\n");

		if (word == (int)size && !memcmp(list + at, name, size))
			return true;
		at += word + 1;
	}
	return false;
}

static void take_groups(const char *group, const char *user_line, struct box_identity *to)
{
	const char *name;
	int size = field(user_line, 0, &name);

	for (const char *line = group; line && *line && size > 0;
	     line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		uint32_t gid;

		if (to->group_count < sizeof(to->groups) / sizeof(*to->groups) &&
		    has_member(line, name, (size_t)size) && field_number(line, 2, &gid))
			to->groups[to->group_count++] = gid;
	}
}

int box_identify_in(const char *passwd, const char *group, const char *user, struct box_identity *to, struct error *err)
{
	size_t size = strcspn(user, ":");
	const char *line;

	*to = (struct box_identity){ 0 };
	int rc = take_user(passwd, user, size, to, &line, err);

	if (!rc && user[size])
		return take_group(group, user + size + 1, to, err);
	if (!rc && line)
		take_groups(group, line, to);
	return rc;
}

int box_identify(const char *rootfs, const char *user, struct box_identity *to, struct error *err)
{
	*to = (struct box_identity){ 0 };
	if (!user)
		return 0;
	int root = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return error_errno(err, -errno, "%s", rootfs);
	char *passwd = read_file(root, "/etc/passwd"), *group = read_file(root, "/etc/group");
	int rc = box_identify_in(passwd, group, user, to, err);

	free(passwd);
	free(group);
	close(root);
	return rc;
}
