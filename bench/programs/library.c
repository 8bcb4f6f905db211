/* SPDX-License-Identifier: Apache-2.0 */
/* What people run: compressors, a database, an interpreter, a compiler, from Debian's static libraries. */
#include "speed.h"

#include <libtcc.h>
#include <lua5.4/lauxlib.h>
#include <lua5.4/lua.h>
#include <lua5.4/lualib.h>
#include <lzma.h>
#include <sqlite3.h>
#include <zlib.h>
#include <zstd.h>

/* --- compression and back --- */

#define TEXT 65536

static char *text, *packed, *again;

static void text_up(void)
{
	text = space(TEXT);
	packed = space(2 * TEXT);
	again = space(TEXT);
	fill_text(text, TEXT);
}

/* The compressed form may differ between versions of a library; that it comes back does not. */
static uint64_t same(size_t size)
{
	return size == TEXT && memcmp(text, again, TEXT) == 0;
}

PROGRAM(integer, zlib, 1, .set_up = text_up)
{
	uLongf size = 2 * TEXT, back = TEXT;
	if (compress2((Bytef *)packed, &size, (Bytef *)text, TEXT, 6) != Z_OK ||
	    uncompress((Bytef *)again, &back, (Bytef *)packed, size) != Z_OK)
		return 0;
	return same(back);
}

PROGRAM(integer, zstd, 1, .set_up = text_up)
{
	size_t size = ZSTD_compress(packed, 2 * TEXT, text, TEXT, 6);
	return ZSTD_isError(size) ? 0 : same(ZSTD_decompress(again, TEXT, packed, size));
}

PROGRAM(integer, xz, 1, .set_up = text_up)
{
	size_t size = 0, from = 0, back = 0;
	uint64_t limit = UINT64_MAX;
	if (lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, (uint8_t *)text, TEXT / 2, (uint8_t *)packed, &size,
				    2 * TEXT) != LZMA_OK)
		return 0;
	if (lzma_stream_buffer_decode(&limit, 0, NULL, (uint8_t *)packed, &from, size, (uint8_t *)again, &back, TEXT) !=
	    LZMA_OK)
		return 0;
	return back == TEXT / 2 && memcmp(text, again, back) == 0;
}

/* --- SQLite, in memory --- */

static void sql(sqlite3 *db, const char *text, int (*row)(void *, int, char **, char **), void *sum)
{
	char *error = NULL;
	if (sqlite3_exec(db, text, row, sum, &error) != SQLITE_OK) {
		printf("failed: sqlite: %s\n", error);
		exit(1);
	}
}

static int add_row(void *sum, int columns, char **value, char **name)
{
	uint64_t *s = sum;
	(void)name;
	for (int i = 0; i < columns; i++)
		*s = mix_bytes(*s, value[i] ? value[i] : "", value[i] ? strlen(value[i]) : 0);
	return 0;
}

PROGRAM(integer, sqlite, 0x86b314391bfe587)
{
	uint64_t sum = 0, state = RND_START;
	sqlite3 *db;
	sqlite3_stmt *insert;
	if (sqlite3_open(":memory:", &db) != SQLITE_OK)
		die("sqlite3_open");
	sql(db,
	    "create table people (id integer primary key, name text, town int); create table towns (id integer primary "
	    "key, name text); begin",
	    NULL, NULL);
	if (sqlite3_prepare_v2(db, "insert into people values (?, ?, ?)", -1, &insert, NULL) != SQLITE_OK)
		die("sqlite3_prepare");
	for (int i = 0; i < 1000; i++) {
		char name[32];
		snprintf(name, sizeof(name), "person %lu", rnd(&state) % 100000);
		sqlite3_bind_int(insert, 1, i);
		sqlite3_bind_text(insert, 2, name, -1, SQLITE_TRANSIENT);
		sqlite3_bind_int(insert, 3, (int)(rnd(&state) % 20));
		if (sqlite3_step(insert) != SQLITE_DONE)
			die("insert");
		sqlite3_reset(insert);
	}
	sqlite3_finalize(insert);
	sql(db,
	    "with recursive n(i) as (select 0 union all select i + 1 from n where i < 19) insert into towns select i, "
	    "'town ' || i from n; commit",
	    NULL, NULL);
	sql(db, "create index by_name on people (name)", NULL, NULL);
	sql(db,
	    "select towns.name, count(*), min(people.name) from people join towns on people.town = towns.id group by "
	    "towns.id order by 2 desc, 1",
	    add_row, &sum);
	sql(db, "update people set town = (town + 7) % 20 where name like 'person 1%'", NULL, NULL);
	sql(db,
	    "select name from people where name between 'person 3' and 'person 5' and town < 10 order by name limit 50",
	    add_row, &sum);
	sqlite3_close(db);
	return sum;
}

/* --- Lua --- */

static const char lua_text[] = "local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end\n"
			       "local words, seen = {}, {}\n"
			       "for i = 1, 1500 do words[i] = string.format('w%d', (i * 7919) % 701) end\n"
			       "for _, w in ipairs(words) do seen[w] = (seen[w] or 0) + 1 end\n"
			       "local keys = {}\n"
			       "for k, v in pairs(seen) do keys[#keys + 1] = k .. '=' .. v end\n"
			       "table.sort(keys)\n"
			       "local point = {}; point.__index = point\n"
			       "function point.new(x, y) return setmetatable({ x = x, y = y }, point) end\n"
			       "function point:add(o) return point.new(self.x + o.x, self.y + o.y) end\n"
			       "local p = point.new(0, 0)\n"
			       "for i = 1, 5000 do p = p:add(point.new(i, i / 2)) end\n"
			       "local joined = table.concat(keys, ','):gsub('w(%d)', '%1')\n"
			       "return string.format('%d %d %s %s', fib(17), #joined, joined:sub(1, 40), p.x + p.y)\n";

PROGRAM(integer, lua, 0x4e86cea77663dd7f)
{
	lua_State *lua = luaL_newstate();
	if (!lua)
		die("luaL_newstate");
	luaL_openlibs(lua);
	if (luaL_dostring(lua, lua_text) != LUA_OK) {
		printf("failed: lua: %s\n", lua_tostring(lua, -1));
		exit(1);
	}
	const char *result = lua_tostring(lua, -1);
	uint64_t sum = mix_bytes(0, result, strlen(result));
	lua_close(lua);
	return sum;
}

/* --- a C compiler, and one run of what it made --- */

static char *source;

static void tcc_up(void)
{
	size_t size = 1 << 16, at = 0;
	source = space(size);
	for (int i = 0; i < 100; i++)
		at += (size_t)snprintf(
		    source + at, size - at,
		    "struct s%d { int a, b[%d]; struct s%d *next; };\n"
		    "static unsigned f%d(unsigned x, struct s%d *s)\n{\n\tunsigned sum = %d;\n"
		    "\tfor (int i = 0; i < %d; i++) {\n\t\ts->b[i] = x * i + %d;\n"
		    "\t\tswitch (s->b[i] %% 3) {\n\t\tcase 0: sum += s->b[i]; break;\n\t\tcase 1: sum ^= x << 3; "
		    "break;\n"
		    "\t\tdefault: sum = sum * 31 + (i > 2 ? s->b[i / 2] : x);\n\t\t}\n\t}\n\treturn sum;\n}\n",
		    i, i % 7 + 3, i, i, i, i * 17, i % 7 + 3, i);
	at += (size_t)snprintf(source + at, size - at, "unsigned compiled(unsigned x)\n{\n\tunsigned sum = 0;\n");
	for (int i = 0; i < 100; i++)
		at +=
		    (size_t)snprintf(source + at, size - at, "\t{ struct s%d s; sum = sum * 5 + f%d(x, &s); }\n", i, i);
	snprintf(source + at, size - at, "\treturn sum;\n}\n");
}

PROGRAM(integer, tcc, 0x320cd680, .set_up = tcc_up)
{
	TCCState *tcc = tcc_new();
	if (!tcc)
		die("tcc_new");
	tcc_set_options(tcc, "-nostdlib");
	tcc_set_output_type(tcc, TCC_OUTPUT_MEMORY);
	if (tcc_compile_string(tcc, source) || tcc_relocate(tcc, TCC_RELOCATE_AUTO) < 0)
		die("tcc");
	unsigned (*compiled)(unsigned);
	void *symbol = tcc_get_symbol(tcc, "compiled");
	if (!symbol)
		die("tcc_get_symbol");
	memcpy(&compiled, &symbol, sizeof(symbol));
	uint64_t sum = compiled(12345);
	tcc_delete(tcc);
	return sum;
}
