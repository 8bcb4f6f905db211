/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ap.S - where a secondary processor starts: real mode at AP_PAGE:0 after the start-up IPI, into 64-bit mode on the same
 * page tables, then ap_main(number) on a stack of its own. ap_start to ap_end is copied to AP_PAGE; addresses in it
 * are relative to that.
 */
#include "layout.h"
#define AT(label) (AP_PAGE + label - ap_start)

	.section .text
	.globl ap_start, ap_end
	.code16
ap_start:
	cli
	cld
	movw %cs, %ax
	movw %ax, %ds
	lgdtl ap_gdt_pointer - ap_start
	movl $0x11, %eax
	movl %eax, %cr0
	ljmpl $KERNEL_CS32, $AT(ap32)
	.code32
ap32:
	movw $KERNEL_DS, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $CR4_START, %eax
	movl %eax, %cr4
	movl $page_root, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax
	wrmsr
	movl $CR0_START, %eax
	movl %eax, %cr0
	ljmp $KERNEL_CS, $AT(ap64)
	.code64
ap64:
	movq $ap_enter, %rax
	jmp *%rax
	.balign 4
ap_gdt_pointer:
	.word 11 * 8 - 1
	.long gdt
ap_end:

ap_enter:
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	lidt idt_pointer
	movl $1, %edi
	lock xaddl %edi, ap_count
	movl %edi, %esp
	incl %esp
	shll $12, %esp
	addq $ap_stacks, %rsp
	incl %edi
	fninit
	call ap_main
1:	cli
	hlt
	jmp 1b

	.weak ap_main
	.data
	.globl idt_pointer, ap_count
	.balign 4
idt_pointer:
	.word 4095
	.quad idt
	.balign 4
ap_count: .long 0
	.bss
	.balign 4096
ap_stacks: .skip 4096 * 64
