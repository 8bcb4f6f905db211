/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/size.h"
#include "engine/kvm/private.h"

static int parse_one(const char *text, size_t size, struct kvm_options *o, struct error *err)
{
	static const char poll[] = "halt-poll=";
	char number[32];
	uint64_t us;

	if (size == strlen("slow") && !memcmp(text, "slow", size)) {
		o->slow = true;
		return 0;
	}
	size_t skip = sizeof(poll) - 1;
	if (size > skip && size - skip < sizeof(number) && !memcmp(text, poll, skip)) {
		memcpy(number, text + skip, size - skip);
		number[size - skip] = '\0';
		int rc = number_parse(number, "halt-poll", 0, 1000000, &us, err);
		o->halt_poll_ns = us * 1000;
		return rc;
	}
	return error_set(err, -EINVAL, "unknown option '%.*s' of the kvm engine (it has slow, halt-poll=MICROSECONDS)",
			 (int)(size < 40 ? size : 40), text);
}

int kvm_options_parse(const char *list, struct kvm_options *options, struct error *err)
{
	*options = (struct kvm_options){ .halt_poll_ns = UINT64_MAX };
	while (list && *list) {
		size_t size = strcspn(list, ",");
		int rc = parse_one(list, size, options, err);
		if (rc)
			return rc;
		list += size + (list[size] == ',');
	}
	return 0;
}
