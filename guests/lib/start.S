/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start.S - from the loader to main().
 *
 * The machine enters at start32 in 32-bit protected mode without paging, either by the PVH note or by the multiboot
 * header of the same file (the loader takes what it knows first). ebx: PVH's start info, or multiboot's information.
 * From there: identity-mapped 4 GiB by 2 MiB pages, long mode, an IDT whose 256 gates end in trap_entry, SSE, main().
 */
#include "layout.h"

	.section .note.pvh, "a", @note
	.long 4, 4, 18		/* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start32

	.section .start, "ax"
	.code32
	.globl start32
start32:
	cli
	cld
	movl %ebx, start_info
	movl %eax, start_magic
	movl $stack_top, %esp

	/* Page directories for 4 GiB, present, writable, user, 2 MiB pages. */
	movl $page_directories, %edi
	movl $0x87, %eax
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $8, %edi
	addl $0x200000, %eax
	jnc 1b
	movl $page_directories + 7, %eax
	movl $page_pointers, %edi
	movl $4, %ecx
1:	movl %eax, (%edi)
	addl $4096, %eax
	addl $8, %edi
	loop 1b
	movl $page_pointers + 7, page_root

	lgdt gdt_pointer
	movl $CR4_START, %eax
	movl %eax, %cr4
	movl $page_root, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax	/* NXE, LME, SCE */
	wrmsr
	movl $CR0_START, %eax
	movl %eax, %cr0
	ljmp $KERNEL_CS, $start64

	.code64
start64:
	movl $KERNEL_DS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $stack_top, %esp
	fninit
	call guest_init
	call main
	movl %eax, %edi
	call guest_exit

/* All gates: the CPU's frame, an error code (0 where there is none), the vector, then the general registers. */
	.text
	.globl trap_stubs
	.balign 16
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if (vector == 8) || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
	.else
	pushq $0
	.endif
	pushq $vector
	jmp trap_entry
	.set vector, vector + 1
	.endr

trap_entry:
	pushq %r15
	pushq %r14
	pushq %r13
	pushq %r12
	pushq %r11
	pushq %r10
	pushq %r9
	pushq %r8
	pushq %rdi
	pushq %rsi
	pushq %rbp
	pushq %rbx
	pushq %rdx
	pushq %rcx
	pushq %rax
	cld
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	call trap
	movq %rbp, %rsp
	popq %rax
	popq %rcx
	popq %rdx
	popq %rbx
	popq %rbp
	popq %rsi
	popq %rdi
	popq %r8
	popq %r9
	popq %r10
	popq %r11
	popq %r12
	popq %r13
	popq %r14
	popq %r15
	addq $16, %rsp
	iretq

/* int guest_save(struct guest_context *): as setjmp. void guest_restore(struct guest_context *, int): as longjmp. */
	.globl guest_save, guest_restore
guest_save:
	movq %rbx, (%rdi)
	movq %rbp, 8(%rdi)
	movq %r12, 16(%rdi)
	movq %r13, 24(%rdi)
	movq %r14, 32(%rdi)
	movq %r15, 40(%rdi)
	leaq 8(%rsp), %rax
	movq %rax, 48(%rdi)
	movq (%rsp), %rax
	movq %rax, 56(%rdi)
	xorl %eax, %eax
	ret
guest_restore:
	movl %esi, %eax
	movq (%rdi), %rbx
	movq 8(%rdi), %rbp
	movq 16(%rdi), %r12
	movq 24(%rdi), %r13
	movq 32(%rdi), %r14
	movq 40(%rdi), %r15
	movq 48(%rdi), %rsp
	movl $KERNEL_DS, %ecx
	movl %ecx, %ss
	jmp *56(%rdi)

/* void guest_user(void (*fn)(void), void *stack): calls fn in ring 3. Only a trap leads back. */
	.globl guest_user
guest_user:
	pushq $USER_DS
	pushq %rsi
	pushq $0x202
	pushq $USER_CS
	pushq %rdi
	iretq

	.data
	.balign 16
	.globl gdt
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* KERNEL_CS: 64-bit code */
	.quad 0x00cf93000000ffff	/* KERNEL_DS: flat data */
	.quad 0x00cf9b000000ffff	/* KERNEL_CS32: flat 32-bit code */
	.quad 0x00cff3000000ffff	/* USER_DS */
	.quad 0x00affb000000ffff	/* USER_CS: 64-bit code */
	.quad 0x00cffb000000ffff	/* USER_CS32 */
	.quad 0x00009b000000ffff	/* CODE16: 64 KiB of 16-bit code at 0 */
	.quad 0x000093000000ffff	/* DATA16 */
	.quad 0, 0			/* TSS_SELECTOR, filled in by guest_init */
	.globl gdt_free
gdt_free:
	.fill GDT_FREE, 8, 0
gdt_end:
	.globl gdt_pointer
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt

	.bss
	.balign 4096
	.globl page_root, page_pointers, page_directories, stack_top, start_info, start_magic, tss
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 4 * 4096
	.skip 32768
stack_top:
start_info: .skip 4
start_magic: .skip 4
	.balign 16
tss: .skip 104
