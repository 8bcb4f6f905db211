/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <complex.h>
#include <fenv.h>
#include <float.h>
#include <math.h>

static void x87(void)
{
	long double x = 0.5L, sum = 0;
	for (int i = 1; i < 2000; i++) {
		x = x * 1.0000001L + 1.0L / i;
		long double y = x;
		__asm__("fsin" : "+t"(y));
		sum += y;
		y = x;
		__asm__("fsqrt; fld1; fadd %%st, %%st(1); fyl2xp1" : "+t"(y));
		mix(&y, 10);
	}
	mix(&sum, 10);
	printf("x87 %016llx %.18Lg %.18Lg\n", (unsigned long long)mixed(), x, sum);
	/* Precision and rounding control, the stack, the status word, BCD, the environment. */
	uint16_t control, status, saved;
	__asm__("fnstcw %0" : "=m"(saved));
	for (int pc = 0; pc < 4; pc++) {
		if (pc == 1)
			continue;
		for (int rc = 0; rc < 4; rc++) {
			control = (uint16_t)(0x3f | 0x40 | pc << 8 | rc << 10);
			double q;
			__asm__ volatile("fnclex; fldcw %2; fld1; fldl %3; fdivrp; fstpl %0; fnstsw %1"
					 : "=m"(q), "=a"(status)
					 : "m"(control), "m"((const double){ 3.0 }));
			printf("precision %d rounding %d: %a status %04x\n", pc, rc, q, status & 0x7f);
		}
	}
	__asm__("fldcw %0" : : "m"(saved));
	uint8_t decimal[10];
	__asm__("fldl %1; fbstp %0" : "=m"(decimal) : "m"((const double){ -1234567890.0 }));
	mix(decimal, 10);
	uint8_t environment[28] = { 0 };
	__asm__("fnclex; fld1; fldpi; fnstenv %0; fldenv %0; fcompp; fnstsw %%ax" : "+m"(environment), "=a"(status));
	printf("decimal %016llx tags %04x compare %04x\n", (unsigned long long)mixed(),
	       environment[8] | environment[9] << 8, status & 0x4700);
	int integer;
	long double rest = 17.75L;
	__asm__("fxam; fnstsw %0" : "=a"(status) : "t"(rest));
	__asm__("fistl %0" : "=m"(integer) : "t"(rest));
	printf("fxam %04x fist %d\n", status & 0x4700, integer);
}

static void functions(void)
{
	static double (*const one[])(double) = { sin,  cos,    tan, atan,  exp,  log,   sqrt,
						 cbrt, tgamma, erf, floor, rint, log1p, sinh };
	for (size_t f = 0; f < sizeof(one) / sizeof(one[0]); f++) {
		for (int i = 0; i < 500; i++) {
			double r = one[f]((double)(rnd() >> 12) / 0x1p46 + 0.001);
			mix(&r, sizeof(r));
		}
		printf("function %zu %016llx\n", f, (unsigned long long)mixed());
	}
	for (int i = 0; i < 1000; i++) {
		double a = (double)(int64_t)rnd() / 0x1p50, b = (double)(rnd() >> 40) / 0x1p20;
		double r[5] = { pow(fabs(a), b), fmod(a, b + 0.1), atan2(a, b), hypot(a, b), fma(a, b, a) };
		float s[3] = { sinf((float)a), expf((float)b), powf((float)b, 0.3f) };
		mix(r, sizeof(r));
		mix(s, sizeof(s));
	}
	printf("functions of two %016llx\n", (unsigned long long)mixed());
	double complex z = cexp(1.0 + 2.0 * I) * csqrt(-3.0 + 0.5 * I);
	printf("complex %.17g %.17g\n", creal(z), cimag(z));
}

static void printing(void)
{
	static const double values[] = { 0,       -0.0,    1,   0.1, 1e300,   1e-300, 5e-324, 123456789.125,
					 1.0 / 3, DBL_MAX, 2.5, 3.5, INFINITY };
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		printf("%g %.0f %e %a %.20g\n", values[i], values[i] < 1e20 ? values[i] : 0, values[i], values[i],
		       values[i]);
	printf("%Lg %.25Lf %La\n", 1.1L, 1.1L, LDBL_MIN);
	printf("%.17g %.17g %.17g\n", strtod("0.1e-5", NULL), strtod("0x1.8p3", NULL),
	       strtod("179769313486231570e291", NULL));
	for (int i = 0; i < 2000; i++) {
		char text[64];
		uint64_t bits = rnd() & ~(1ull << 62);
		double v, back;
		memcpy(&v, &bits, 8);
		snprintf(text, sizeof(text), "%.17g", v);
		back = strtod(text, NULL);
		if (memcmp(&v, &back, 8) != 0)
			printf("%s is not itself\n", text);
		mix(text, strlen(text));
	}
	printf("round trips %016llx\n", (unsigned long long)mixed());
	for (int i = 0; i < 4; i++) {
		static const int modes[] = { FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO };
		fesetround(modes[i]);
		printf("%.3f %.0f %g\n", 2.0005, 2.5, nearbyint(-1.5));
	}
	fesetround(FE_TONEAREST);
}

SECTION(floats)
{
	x87();
	functions();
	printing();
	feclearexcept(FE_ALL_EXCEPT);
	volatile double zero = 0, big = DBL_MAX;
	volatile double r = 1 / zero;
	printf("raised %x", (unsigned)fetestexcept(FE_ALL_EXCEPT));
	r = big * big;
	r = 0 / zero;
	printf(" then %x\n", (unsigned)fetestexcept(FE_ALL_EXCEPT));
	(void)r;
}
