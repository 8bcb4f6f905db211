/* SPDX-License-Identifier: Apache-2.0 */
/* A multiboot 1 kernel (Multiboot Specification 0.6.96, 3.1-3.3): prints the command line and what the loader promised,
 * in 32-bit protected mode, with no library at all. */
#define MAGIC 0x1badb002
#define FLAGS 3 /* page-aligned modules, memory map */

	.section .multiboot, "a"
	.balign 4
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)

	.section .start, "ax"
	.globl start32
start32:
	movl $stack, %esp
	movl %ebx, %ebp
	cmpl $0x2badb002, %eax
	jne wrong
	movl $hello, %esi
	call puts
	testl $4, (%ebp)
	jz wrong
	movl 16(%ebp), %esi
	call puts
	movl $newline, %esi
	call puts

	/* Memory from 1 MiB, in KiB: at least what this guest stands on. */
	testl $1, (%ebp)
	jz wrong
	cmpl $1024, 8(%ebp)
	jb wrong
	movl $memory, %esi
	call puts

	/* The memory map: some entry of type 1 begins at 1 MiB or below and reaches beyond. */
	testl $0x40, (%ebp)
	jz wrong
	movl 48(%ebp), %esi
	movl 44(%ebp), %ecx
	addl %esi, %ecx
1:	cmpl %ecx, %esi
	jae wrong
	cmpl $1, 20(%esi)
	jne 2f
	movl 4(%esi), %eax
	addl 12(%esi), %eax
	cmpl $0x100000, 4(%esi)
	ja 2f
	cmpl $0x200000, %eax
	jae 3f
2:	addl (%esi), %esi
	addl $4, %esi
	jmp 1b
3:	movl $map, %esi
	call puts
	movb $0x10, %al
	jmp out

wrong:
	movl $failed, %esi
	call puts
	movb $0x11, %al
out:	outb %al, $0xf4
1:	hlt
	jmp 1b

puts:
	movw $0x3f8, %dx
1:	lodsb
	testb %al, %al
	jz 2f
	outb %al, %dx
	jmp 1b
2:	ret

	.section .rodata, "a"
hello: .asciz "hello from multiboot\ncommand line: "
memory: .asciz "ok: memory size\n"
map: .asciz "ok: memory map\n"
newline: .asciz "\n"
failed: .asciz "FAILED\n"

	.bss
	.skip 4096
stack:
