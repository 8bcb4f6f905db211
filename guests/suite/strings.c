/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <ctype.h>
#include <regex.h>
#include <sys/mman.h>
#include <wchar.h>

/* String functions at each alignment and up to the last byte before a page that is not there: glibc's use vectors. */
SECTION(strings)
{
	size_t page = 4096;
	char *edge = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (edge == MAP_FAILED)
		die("mmap");
	if (mprotect(edge + 2 * page, page, PROT_NONE))
		die("mprotect");
	char *end = edge + 2 * page;
	unsigned wrong = 0;
	for (size_t n = 0; n < 300; n++) {
		char *s = end - n - 1;
		memset(s, 'a', n);
		s[n] = 0;
		wrong += strlen(s) != n;
		wrong += memchr(s, 'b', n) != NULL;
		wrong += strchr(s, 0) != s + n;
		wrong += strcmp(s, s) != 0;
		char copy[400];
		memset(copy, 'x', sizeof(copy));
		memcpy(copy + n % 33, s, n + 1);
		wrong += strcmp(copy + n % 33, s) != 0 || copy[n % 33 + n + 1] != 'x';
		wrong += n && strrchr(s, 'a') != s + n - 1;
		if (n > 2) {
			s[n - 2] = 'z';
			wrong += strchr(s, 'z') != s + n - 2;
			wrong += strstr(s, "za") != s + n - 2;
			wrong += strcspn(s, "zy") != n - 2;
			wrong += memcmp(s, copy + n % 33, n) <= 0;
		}
	}
	printf("strings wrong %u\n", wrong);
	for (size_t i = 0; i < 2000; i++) {
		size_t from = rnd() % 3000, to = rnd() % 3000, n = rnd() % 3000;
		memmove(edge + to, edge + from, n);
		edge[rnd() % 8192] = (char)rnd();
	}
	mix(edge, 2 * page);
	printf("memmove %016llx\n", (unsigned long long)mixed());
	char text[] = "The quick brown fox jumps over the lazy dog", *rest = text;
	for (char *word; (word = strsep(&rest, " "));) {
		for (char *c = word; *c; c++)
			*c = (char)toupper(*c);
		printf("%s:%zu ", word, strlen(word));
	}
	regex_t re;
	regmatch_t match[3];
	if (regcomp(&re, "([a-z]+)-([0-9]{2,})", REG_EXTENDED) == 0 &&
	    regexec(&re, "xx abc-1 def-234", 3, match, 0) == 0)
		printf("match %d %d %d\n", (int)match[0].rm_so, (int)match[1].rm_so, (int)match[2].rm_eo);
	regfree(&re);
	wchar_t wide[20];
	swprintf(wide, 20, L"%ls %d", L"wide", 77);
	printf("%ls %zu\n", wide, wcslen(wide));
	printf("%s %ld %lu %x\n", "numbers", strtol("-12345", NULL, 10), strtoul("ffffffff", NULL, 16),
	       (unsigned)strtol("0755", NULL, 0));
	munmap(edge, 3 * page);
}
