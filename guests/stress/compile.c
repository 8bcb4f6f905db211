/* SPDX-License-Identifier: Apache-2.0 */
/* Random C programs, compiled in memory and run: what a compiler does to caches of translated code, and calls into code
 * that lies where other code lay before. */
#include "stress.h"

#include <libtcc.h>
#include <stdarg.h>

enum { SIZE = 1 << 16, VARIABLES = 6 };

struct text {
	struct job *j;
	char *at;
	size_t left;
	unsigned function; /* under way: may call those before it */
	unsigned calls;    /* that it may still make */
};

static void say(struct text *t, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	int n = vsnprintf(t->at, t->left, format, ap);
	va_end(ap);
	must(n >= 0 && (size_t)n < t->left, "the program is too long");
	t->at += n;
	t->left -= (size_t)n;
}

/* Unsigned throughout: nothing is undefined. */
static void expression(struct text *t, unsigned depth)
{
	static const char *const operators[] = { "+", "-", "*", "&", "|", "^", "<", "==" };
	switch (depth ? pick(t->j, 7) : pick(t->j, 2)) {
	case 0:
		say(t, "%uu", (unsigned)rnd(t->j) >> pick(t->j, 31));
		return;
	case 1:
		say(t, "v[%u]", pick(t->j, VARIABLES));
		return;
	case 2:
		say(t, "(");
		expression(t, depth - 1);
		say(t, " %s %u)", pick(t->j, 2) ? "<<" : ">>", pick(t->j, 32));
		return;
	case 3:
		say(t, "(");
		expression(t, depth - 1);
		say(t, " %s (", pick(t->j, 2) ? "/" : "%");
		expression(t, depth - 1);
		say(t, " | 1))");
		return;
	default:
		say(t, "(");
		expression(t, depth - 1);
		say(t, " %s ", operators[pick(t->j, 8)]);
		expression(t, depth - 1);
		say(t, ")");
	}
}

static void statement(struct text *t, unsigned depth, bool in_loop)
{
	unsigned variable = pick(t->j, VARIABLES);
	switch (depth ? pick(t->j, 7) : 0) {
	case 1:
		say(t, "if (");
		expression(t, 2);
		say(t, ") {\n");
		statement(t, depth - 1, in_loop);
		say(t, "} else {\n");
		statement(t, depth - 1, in_loop);
		say(t, "}\n");
		return;
	case 2:
		say(t, "for (unsigned i%u = 0; i%u < %u; i%u++) {\n", depth, depth, pick(t->j, 20) + 1, depth);
		statement(t, depth - 1, true);
		say(t, "v[%u] += i%u; }\n", variable, depth);
		return;
	case 3:
		say(t, "switch (v[%u] %% 5) {\n", variable);
		for (unsigned i = 0; i < 4; i++) {
			say(t, "case %u:\n", i);
			statement(t, depth - 1, in_loop);
			say(t, "%s\n", pick(t->j, 3) ? "break;" : "");
		}
		say(t, "default: v[%u]++; }\n", variable);
		return;
	case 4:
		say(t, "*d = *d * 0.75 + (int)(v[%u] %% 1000) / 8.0;\n", variable);
		return;
	case 5:
		if (!in_loop && t->calls && t->function) {
			t->calls--;
			say(t, "v[%u] ^= f%u(v[%u], d);\n", variable, pick(t->j, t->function), pick(t->j, VARIABLES));
			return;
		}
		/* fall through */
	default:
		say(t, "v[%u] = ", variable);
		expression(t, 3);
		say(t, ";\n");
	}
}

static void write_program(struct job *j, char *source)
{
	struct text t = { .j = j, .at = source, .left = SIZE };
	unsigned functions = pick(j, 6) + 3;
	for (; t.function < functions; t.function++) {
		t.calls = 2;
		say(&t, "static unsigned f%u(unsigned a, double *d)\n{\nunsigned v[%u] = { a, 1, 2, 3 };\n", t.function,
		    VARIABLES);
		for (unsigned i = pick(j, 5) + 2; i; i--)
			statement(&t, 2, false);
		say(&t, "return v[0] ^ v[1] + v[%u];\n}\n", pick(j, VARIABLES));
	}
	say(&t, "unsigned compiled(unsigned a, double *d) { return f%u(a, d) + f%u(a + 1, d); }\n", functions - 1,
	    functions / 2);
}

static void on_error(void *opaque, const char *message)
{
	(void)opaque;
	wrong(message);
}

void job_compile(struct job *j)
{
	char *source = malloc(SIZE);
	must(source, "malloc");
	for (int programs = 0; programs < 4; programs++) {
		write_program(j, source);
		mix_bytes(j, source, strlen(source));
		TCCState *tcc = tcc_new();
		must(tcc, "tcc_new");
		tcc_set_error_func(tcc, NULL, on_error);
		tcc_set_options(tcc, "-nostdlib");
		tcc_set_output_type(tcc, TCC_OUTPUT_MEMORY);
		tcc_add_symbol(tcc, "memset", memset); /* that is how it initialises arrays */
		must(!tcc_compile_string(tcc, source) && tcc_relocate(tcc, TCC_RELOCATE_AUTO) >= 0, "tcc");
		void *symbol = tcc_get_symbol(tcc, "compiled");
		unsigned (*compiled)(unsigned, double *);
		must(symbol, "tcc_get_symbol");
		memcpy(&compiled, &symbol, sizeof(symbol));
		double d = 1;
		for (unsigned i = 0; i < 10; i++)
			mix(j, compiled(i * 1234567, &d));
		mix_bytes(j, &d, sizeof(d));
		tcc_delete(tcc);
	}
	free(source);
}
