/* SPDX-License-Identifier: Apache-2.0 */
/* layout.h - what assembly and C of the tiny guests agree on. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define KERNEL_CS32 0x18
#define USER_DS 0x23
#define USER_CS 0x2b
#define USER_CS32 0x33
#define CODE16 0x38
#define DATA16 0x40
#define TSS_SELECTOR 0x48
#define FREE_SELECTOR 0x58 /* GDT_FREE entries for a guest's own use */
#define GDT_FREE 16
#define AP_PAGE 0x8000

#define CR0_START 0x80010033 /* PG, WP, NE, ET, MP, PE */
#define CR4_START 0x6b0      /* OSXMMEXCPT, OSFXSR, PGE, PAE, PSE */

#endif
