/* SPDX-License-Identifier: Apache-2.0 */
/* Floating point: vectors, scalars, the mathematical library, x87. */
#include "speed.h"

#include <immintrin.h>
#include <math.h>

#define SIDE 96

static double (*a)[SIDE], (*b)[SIDE], (*c)[SIDE];

static void matrices_up(void)
{
	a = aligned_alloc(64, sizeof(double[SIDE][SIDE]));
	b = aligned_alloc(64, sizeof(double[SIDE][SIDE]));
	c = aligned_alloc(64, sizeof(double[SIDE][SIDE]));
	if (!a || !b || !c)
		die("aligned_alloc");
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j++) {
			a[i][j] = (i * 7 + j) % 13;
			b[i][j] = (i + j * 5) % 11;
		}
}

/* Small whole numbers: exact in any order. */
static uint64_t matrix_sum(void)
{
	uint64_t sum = 0;
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j++)
			sum = mix(sum, (uint64_t)c[i][j]);
	return sum;
}

PROGRAM(vectors, matmul_sse2, 0xf13e221143a3104d, .set_up = matrices_up)
{
	for (int repeat = 0; repeat < 10; repeat++)
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j += 4) {
				__m128d low = _mm_setzero_pd(), high = _mm_setzero_pd();
				for (int k = 0; k < SIDE; k++) {
					__m128d x = _mm_set1_pd(a[i][k]);
					low = _mm_add_pd(low, _mm_mul_pd(x, _mm_load_pd(&b[k][j])));
					high = _mm_add_pd(high, _mm_mul_pd(x, _mm_load_pd(&b[k][j + 2])));
				}
				_mm_store_pd(&c[i][j], low);
				_mm_store_pd(&c[i][j + 2], high);
			}
	return matrix_sum();
}

static bool has_avx2_fma(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

__attribute__((target("avx2,fma"))) static void multiply_avx2(void)
{
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j += 8) {
			__m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
			for (int k = 0; k < SIDE; k++) {
				__m256d x = _mm256_broadcast_sd(&a[i][k]);
				low = _mm256_fmadd_pd(x, _mm256_load_pd(&b[k][j]), low);
				high = _mm256_fmadd_pd(x, _mm256_load_pd(&b[k][j + 4]), high);
			}
			_mm256_store_pd(&c[i][j], low);
			_mm256_store_pd(&c[i][j + 4], high);
		}
}

PROGRAM(vectors, matmul_avx2, 0xf13e221143a3104d, .set_up = matrices_up, .present = has_avx2_fma)
{
	for (int repeat = 0; repeat < 12; repeat++)
		multiply_avx2();
	return matrix_sum();
}

PROGRAM(vectors, mandelbrot, 0x44f31)
{
	uint64_t sum = 0;
	for (int py = 0; py < 48; py++)
		for (int px = 0; px < 64; px++) {
			double x0 = px / 24.0 - 2, y0 = py / 24.0 - 1, x = 0, y = 0;
			unsigned n = 0;
			for (; n < 300 && x * x + y * y < 4; n++) {
				double t = x * x - y * y + x0;
				y = 2 * x * y + y0;
				x = t;
			}
			sum += n;
		}
	return sum;
}

/* The library has ways of its own for CPUs with FMA, whose last bits differ. */
PROGRAM(vectors, libm, 0x1c4acc4d)
{
	double sum = 0;
	for (int i = 1; i < 16000; i++) {
		double x = i * 0.001;
		sum += sin(x) + cos(x) * exp(-x) + log(x) + pow(x, 1.5) + atan2(x, 2) + tanh(x);
	}
	return (uint64_t)llround(sum * 1000);
}

PROGRAM(vectors, x87, 0xffffffffff518c97)
{
	volatile int start = 1;
	long double sum = 0, x = start;
	for (int i = 0; i < 60000; i++) {
		x = x * 1.0001L + 1 / (x + i);
		sum += sqrtl(x) - x / 3;
	}
	for (int i = 0; i < 4000; i++) {
		long double angle = i * 0.01L, sine, cosine;
		__asm__("fsincos" : "=t"(cosine), "=u"(sine) : "0"(angle));
		sum += sine * cosine;
	}
	return (uint64_t)llroundl(sum);
}
