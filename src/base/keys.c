/* SPDX-License-Identifier: Apache-2.0 */
#include "base/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/size.h"

enum { KEYS_MAX = 64 /* in a table */ };

/* Copies the item at *text, with double commas made single, and moves on behind its comma; *more when there was one. */
static char *take_item(const char **text, bool *more)
{
	char *item = memory_zalloc(strlen(*text) + 1);
	size_t n = 0;
	const char *p = *text;

	for (; *p && (*p != ',' || p[1] == ','); p++) {
		item[n++] = *p;
		p += *p == ',';
	}
	*more = *p == ',';
	*text = p + *more;
	return item;
}

static int list_names(const struct keys_item *items, const char *key, struct error *err)
{
	char names[256] = "";

	for (const struct keys_item *i = items; i->name; i++) {
		strncat(names, i == items ? "" : ", ", sizeof(names) - strlen(names) - 1);
		strncat(names, i->name, sizeof(names) - strlen(names) - 1);
	}
	return error_set(err, -EINVAL, "'%.40s' is not among what can be set: %s", key, *names ? names : "nothing");
}

static int set_flag(const struct keys_item *item, const char *value, bool *flag, struct error *err)
{
	bool on = !value || !strcmp(value, "on"), off = value && !strcmp(value, "off");

	if (!on && !off)
		return error_set(err, -EINVAL, "%s is on or off, not '%.40s'", item->name, value);
	*flag = on;
	return 0;
}

static void append(struct keys_list *list, const char *value)
{
	list->value = memory_resize(list->value, list->count + 1, sizeof(*list->value));
	list->value[list->count++] = memory_strdup(value);
}

static int set(const struct keys_item *item, const char *value, void *to, struct error *err)
{
	void *variable = (char *)to + item->offset;
	int rc = 0;

	if (item->kind == KEYS_FLAG)
		return set_flag(item, value, variable, err);
	if (!value || !*value)
		return error_set(err, -EINVAL, "%s needs a value: %s=...", item->name, item->name);
	switch (item->kind) {
	case KEYS_STRING:
		free(*(char **)variable);
		*(char **)variable = memory_strdup(value);
		break;
	case KEYS_LIST:
		append(variable, value);
		break;
	case KEYS_SIZE:
		rc = size_parse(value, variable, err);
		break;
	default:
		return number_parse(value, item->name, item->min, item->max, variable, err);
	}
	return rc ? error_prefix(err, rc, "%s", item->name) : 0;
}

/* The item of the table that `text` sets, and where its value begins (NULL: it has none). */
static const struct keys_item *find(const struct keys_item *items, char *text, bool at_start, char **value)
{
	size_t size = strcspn(text, "=");
	const struct keys_item *first = NULL;

	*value = text[size] ? text + size + 1 : NULL;
	for (const struct keys_item *i = items; i->name; i++) {
		if (strlen(i->name) == size && !memcmp(i->name, text, size))
			return i;
		if (i->first)
			first = i;
	}
	if (!at_start || !first)
		return NULL;
	*value = text; /* a file's name may hold a '=' */
	return first;
}

static int parse(const char *text, const struct keys_item *items, void *to, struct error *err)
{
	bool more = true, seen[KEYS_MAX] = { false };

	for (bool at_start = true; more; at_start = false) {
		char *item = take_item(&text, &more), *value;
		const struct keys_item *found = find(items, item, at_start, &value);
		int rc = 0;
		if (!found) {
			item[strcspn(item, "=")] = '\0';
			rc = list_names(items, item, err);
		} else if (seen[found - items] && found->kind != KEYS_LIST) {
			rc = error_set(err, -EINVAL, "%s is set twice", found->name);
		} else {
			seen[found - items] = true;
			rc = set(found, value, to, err);
		}
		free(item);
		if (rc)
			return rc;
	}
	return 0;
}

int keys_parse(const char *text, const struct keys_item *items, void *to, struct error *err)
{
	return *text && parse(text, items, to, err) ? -EINVAL : 0;
}

static void free_list(struct keys_list *list)
{
	for (unsigned i = 0; i < list->count; i++)
		free(list->value[i]);
	free(list->value);
	*list = (struct keys_list){ 0 };
}

void keys_free(const struct keys_item *items, void *to)
{
	for (const struct keys_item *i = items; i->name; i++) {
		void *variable = (char *)to + i->offset;
		if (i->kind == KEYS_LIST)
			free_list(variable);
		if (i->kind != KEYS_STRING)
			continue;
		free(*(char **)variable);
		*(char **)variable = NULL;
	}
}
