/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a saved machine holds, reading it gives values or a reason. */
#include <stdlib.h>

#include "vm/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state_reader *r;
	struct error err;
	if (state_reader_create(&r, data, size, &err) < 0)
		return 0;
	for (uint32_t instance = 0; instance < 2; instance++) {
		uint8_t u8;
		uint64_t u64, u64s[4];
		char bytes[16];
		size_t length;
		if (state_enter(r, "a", instance, 7, NULL, &err) < 0)
			continue;
		state_get_u8(r, "b", &u8);
		state_get_u64(r, "c", &u64);
		state_get_bytes(r, "d", bytes, sizeof(bytes));
		state_get_u64s(r, "e", u64s, 4);
		const uint8_t *blob = state_get_blob(r, "f", &length);
		if (blob && length && blob[0] == blob[length - 1] && state_failed(r, &err) && !err.text[0])
			abort();
	}
	state_reader_destroy(r);
	return 0;
}
