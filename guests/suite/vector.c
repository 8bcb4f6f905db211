/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <cpuid.h>
#include <immintrin.h>

static void fill(void *to, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = rnd();
		memcpy((char *)to + i, &v, 8);
	}
}

/* Numbers of moderate size: infinities and NaN have a test of their own. */
static void fill_floats(float *to, int n)
{
	for (int i = 0; i < n; i++)
		to[i] = (float)((int64_t)rnd() >> 40) / 1024.0f;
}

__attribute__((target("sse2"))) static void sse2_work(void)
{
	for (int i = 0; i < 3000; i++) {
		__m128i a, b, r[16];
		fill(&a, 16);
		fill(&b, 16);
		r[0] = _mm_add_epi8(a, b);
		r[1] = _mm_subs_epu16(a, b);
		r[2] = _mm_mullo_epi16(a, b);
		r[3] = _mm_madd_epi16(a, b);
		r[4] = _mm_mul_epu32(a, b);
		r[5] = _mm_sad_epu8(a, b);
		r[6] = _mm_packs_epi32(a, b);
		r[7] = _mm_unpackhi_epi8(a, b);
		r[8] = _mm_cmpgt_epi16(a, b);
		r[9] = _mm_shuffle_epi32(a, 0x1b);
		r[10] = _mm_srai_epi32(a, 5);
		r[11] = _mm_sll_epi64(a, _mm_srli_epi64(b, 58));
		r[12] = _mm_avg_epu8(a, b);
		r[13] = _mm_andnot_si128(a, b);
		r[14] = _mm_set1_epi32(_mm_movemask_epi8(a));
		r[15] = _mm_slli_si128(a, 5);
		mix(r, sizeof(r));
		float x[4], y[4];
		fill_floats(x, 4);
		fill_floats(y, 4);
		__m128 f = _mm_loadu_ps(x), g = _mm_loadu_ps(y);
		__m128 s[6] = { _mm_add_ps(f, g),   _mm_mul_ps(f, g),
				_mm_div_ps(f, g),   _mm_sqrt_ps(_mm_max_ps(f, g)),
				_mm_cmplt_ps(f, g), _mm_shuffle_ps(f, g, 0x4e) };
		mix(s, sizeof(s));
		__m128d d = _mm_cvtps_pd(f), e = _mm_div_pd(d, _mm_cvtps_pd(g));
		__m128i t[3] = { _mm_cvtps_epi32(f), _mm_cvttpd_epi32(e),
				 _mm_castpd_si128(_mm_sqrt_pd(_mm_mul_pd(d, d))) };
		mix(t, sizeof(t));
	}
	printf("sse2 %016llx\n", (unsigned long long)mixed());
	/* Rounding modes and the status bits of MXCSR. */
	for (unsigned mode = 0; mode < 4; mode++) {
		_mm_setcsr(0x1f80 | mode << 13);
		volatile float third = 1.0f / 3.0f, one = 1.0f, three = 3.0f;
		__m128 q = _mm_div_ss(_mm_set_ss(one), _mm_set_ss(three));
		printf("rounding %u: %a, %d, mxcsr %04x\n", mode, (double)_mm_cvtss_f32(q),
		       _mm_cvtss_si32(_mm_set_ss(2.5f)), _mm_getcsr());
		(void)third;
	}
	_mm_setcsr(0x1f80);
	__m128 huge = _mm_mul_ss(_mm_set_ss(3e38f), _mm_set_ss(10.0f)), zero = _mm_setzero_ps();
	__m128 nan = _mm_div_ss(zero, zero), tiny = _mm_mul_ss(_mm_set_ss(1e-30f), _mm_set_ss(1e-10f));
	uint32_t v[3];
	memcpy(&v[0], &huge, 4);
	memcpy(&v[1], &nan, 4);
	memcpy(&v[2], &tiny, 4);
	printf("special %08x %08x %08x mxcsr %04x\n", v[0], v[1], v[2], _mm_getcsr());
	_mm_setcsr(0x1f80);
}

__attribute__((target("ssse3,sse4.1,sse4.2"))) static void sse4_work(void)
{
	for (int i = 0; i < 3000; i++) {
		__m128i a, b, r[10];
		fill(&a, 16);
		fill(&b, 16);
		r[0] = _mm_shuffle_epi8(a, b);
		r[1] = _mm_alignr_epi8(a, b, 7);
		r[2] = _mm_hadd_epi16(a, b);
		r[3] = _mm_mullo_epi32(a, b);
		r[4] = _mm_blendv_epi8(a, b, _mm_xor_si128(a, b));
		r[5] = _mm_minpos_epu16(a);
		r[6] = _mm_mpsadbw_epu8(a, b, 5);
		r[7] = _mm_cmpgt_epi64(a, b);
		r[8] = _mm_cvtepi8_epi16(a);
		r[9] = _mm_set1_epi32(_mm_cmpistri(a, b, _SIDD_CMP_RANGES) * 2 +
				      _mm_cmpestrc(a, 9, b, 13, _SIDD_CMP_EQUAL_ANY));
		mix(r, sizeof(r));
	}
	printf("sse4 %016llx\n", (unsigned long long)mixed());
}

SECTION(sse)
{
	if (!__builtin_cpu_supports("sse2")) {
		puts("sse2 absent");
		return;
	}
	sse2_work();
	if (__builtin_cpu_supports("sse4.2"))
		sse4_work();
	else
		puts("sse4 absent");
}

__attribute__((target("avx2"))) static void avx2_work(void)
{
	static int32_t table[256];
	fill(table, sizeof(table));
	for (int i = 0; i < 3000; i++) {
		__m256i a, b, r[12];
		fill(&a, 32);
		fill(&b, 32);
		r[0] = _mm256_add_epi64(a, b);
		r[1] = _mm256_mullo_epi32(a, b);
		r[2] = _mm256_shuffle_epi8(a, b);
		r[3] = _mm256_permutevar8x32_epi32(a, b);
		r[4] = _mm256_permute2x128_si256(a, b, 0x21);
		r[5] = _mm256_sllv_epi64(a, _mm256_srli_epi64(b, 58));
		r[6] = _mm256_blendv_epi8(a, b, _mm256_cmpgt_epi8(a, b));
		r[7] = _mm256_i32gather_epi32(table, _mm256_srli_epi32(b, 24), 4);
		r[8] = _mm256_sad_epu8(a, b);
		r[9] = _mm256_broadcastsi128_si256(_mm256_extracti128_si256(b, 1));
		r[10] = _mm256_packus_epi16(a, b);
		r[11] = _mm256_maskload_epi32(table + 16, a);
		_mm256_maskstore_epi32(table + 32, b, a);
		mix(r, sizeof(r));
	}
	mix(table, sizeof(table));
	printf("avx2 %016llx\n", (unsigned long long)mixed());
	/* The upper halves: cleared by 128-bit VEX forms, kept by legacy ones. */
	__m256i ones = _mm256_set1_epi32(-1), kept = ones;
	__asm__("paddb %x0, %x0" : "+x"(kept));
	mix(&kept, 32);
	__asm__("vpaddb %x0, %x0, %x0" : "+x"(kept));
	mix(&kept, 32);
	__asm__("vzeroupper" : : : "memory");
	printf("upper halves %016llx\n", (unsigned long long)mixed());
}

__attribute__((target("avx,fma"))) static void fma_work(void)
{
	float x[8], y[8], z[8];
	for (int i = 0; i < 3000; i++) {
		fill_floats(x, 8);
		fill_floats(y, 8);
		fill_floats(z, 8);
		__m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(y), c = _mm256_loadu_ps(z);
		__m256 r[5] = { _mm256_fmadd_ps(a, b, c), _mm256_fnmsub_ps(a, b, c), _mm256_fmaddsub_ps(a, b, c),
				_mm256_round_ps(a, 3), _mm256_dp_ps(a, b, 0xf1) };
		mix(r, sizeof(r));
	}
	_mm256_zeroupper();
	printf("fma %016llx\n", (unsigned long long)mixed());
}

SECTION(avx)
{
	if (__builtin_cpu_supports("avx2"))
		avx2_work();
	else
		puts("avx2 absent");
	if (__builtin_cpu_supports("fma"))
		fma_work();
	else
		puts("fma absent");
}

__attribute__((target("aes,pclmul,sse4.1"))) static void aes_work(void)
{
	__m128i state = _mm_setzero_si128(), key;
	fill(&key, 16);
	for (int i = 0; i < 5000; i++) {
		state = _mm_aesenc_si128(state, key);
		key = _mm_xor_si128(_mm_aeskeygenassist_si128(key, 0x1b), _mm_aesimc_si128(state));
		state = _mm_aesdeclast_si128(_mm_clmulepi64_si128(state, key, 0x10), key);
	}
	mix(&state, 16);
	printf("aes %016llx\n", (unsigned long long)mixed());
}

__attribute__((target("sha,sse4.1"))) static void sha_work(void)
{
	__m128i a, b, c;
	fill(&a, 16);
	fill(&b, 16);
	fill(&c, 16);
	for (int i = 0; i < 5000; i++) {
		a = _mm_sha256rnds2_epu32(a, b, c);
		b = _mm_sha256msg2_epu32(_mm_sha256msg1_epu32(b, a), c);
		c = _mm_sha1rnds4_epu32(_mm_sha1nexte_epu32(c, a), b, 2);
	}
	mix(&a, 16);
	mix(&c, 16);
	printf("sha %016llx\n", (unsigned long long)mixed());
}

SECTION(crypto)
{
	unsigned a, b = 0, c, d;
	if (__builtin_cpu_supports("aes"))
		aes_work();
	else
		puts("aes absent");
	__get_cpuid_count(7, 0, &a, &b, &c, &d);
	if (b & bit_SHA)
		sha_work();
	else
		puts("sha absent");
}

/* Vectors must survive a context switch and a signal; see kernel.c. Here: MMX and the x87 registers that it shares. */
SECTION(mmx)
{
	uint64_t r = 0, a = rnd(), b = rnd();
	__asm__ volatile(
	    "movq %1, %%mm0; movq %2, %%mm1; paddsw %%mm1, %%mm0; pmaddwd %%mm1, %%mm0; movq %%mm0, %0; emms"
	    : "=m"(r)
	    : "m"(a), "m"(b));
	printf("mmx %016llx\n", (unsigned long long)r);
}
