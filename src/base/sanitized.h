/* SPDX-License-Identifier: Apache-2.0 */
/* sanitized.h - whether this is a build with AddressSanitizer, which calls libc where the source does not. */
#ifndef PLURES_BASE_SANITIZED_H
#define PLURES_BASE_SANITIZED_H

#ifdef __has_feature
#define SANITIZED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#endif
