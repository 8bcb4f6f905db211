/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform.h - the ports, interrupts and addresses that chips, ACPI tables and boot code must agree on.
 *
 * Plain #defines of plain numbers only: iasl reads this file too, from src/boot/dsdt.asl. Physical addresses are
 * guest-physical; IRQ_* are ISA interrupt numbers, which are I/O APIC pins (GSIs) of the same number but for the timer.
 */
#ifndef PLURES_VM_PLATFORM_H
#define PLURES_VM_PLATFORM_H

/* Guest-physical addresses. RAM is one region from 0 to at most RAM_LOW_END, and the rest from RAM_HIGH_BASE. */
#define PLATFORM_EBDA_BASE 0x9FC00
#define PLATFORM_VGA_BASE 0xA0000
#define PLATFORM_ACPI_BASE 0xE0000 /* ACPI tables, RSDP first */
#define PLATFORM_ACPI_SIZE 0x10000
#define PLATFORM_SMBIOS_BASE 0xF0000 /* SMBIOS 3 entry point, then its structures */
#define PLATFORM_SMBIOS_SIZE 0x8000
#define PLATFORM_MPTABLE_BASE 0xF8000 /* MP floating pointer, then its table */
#define PLATFORM_MPTABLE_SIZE 0x8000
#define PLATFORM_RAM_LOW_END 0xC0000000
#define PLATFORM_RAM_HIGH_BASE 0x100000000
/* PCI: one bus. Functions' BARs may lie in these windows, which is what the host bridge decodes. */
#define PLATFORM_PCI_MMIO32_BASE 0xC0000000
#define PLATFORM_PCI_MMIO32_SIZE 0x20000000
#define PLATFORM_PCI_MMIO32_LAST 0xDFFFFFFF
#define PLATFORM_PCI_ECAM_BASE 0xE0000000
#define PLATFORM_PCI_ECAM_SIZE 0x100000
#define PLATFORM_PCI_MMIO64_BASE 0x4000000000 /* also the end of what can be RAM */
#define PLATFORM_PCI_MMIO64_SIZE 0x4000000000
#define PLATFORM_PCI_MMIO64_LAST 0x7FFFFFFFFF
#define PLATFORM_IOAPIC_BASE 0xFEC00000
#define PLATFORM_IOAPIC_SIZE 0x1000
#define PLATFORM_LAPIC_BASE 0xFEE00000
#define PLATFORM_LAPIC_SIZE 0x1000

/* Interrupt wiring. */
#define PLATFORM_IOAPIC_PINS 24
#define PLATFORM_GSI_TIMER 2 /* IRQ 0 arrives at this I/O APIC pin (MADT interrupt source override) */
#define PLATFORM_IRQ_TIMER 0
#define PLATFORM_IRQ_KEYBOARD 1
#define PLATFORM_IRQ_CASCADE 2
#define PLATFORM_IRQ_COM2 3 /* COM4 too */
#define PLATFORM_IRQ_COM1 4 /* COM3 too */
#define PLATFORM_IRQ_RTC 8
#define PLATFORM_IRQ_SCI 9 /* level, active high */
/* INTA of PCI slot s: pin 16 + s % 4 of the I/O APIC, and ISA interrupt 10 or 11 of the 8259s. */
#define PLATFORM_GSI_PCI 16
#define PLATFORM_IRQ_PCI 10

/* Ports. */
#define PLATFORM_PIC1_PORT 0x20
#define PLATFORM_PIC2_PORT 0xA0
#define PLATFORM_ELCR_PORT 0x4D0 /* two bytes */
#define PLATFORM_PIT_PORT 0x40   /* four bytes */
#define PLATFORM_PORT61 0x61
#define PLATFORM_I8042_DATA 0x60
#define PLATFORM_I8042_COMMAND 0x64
#define PLATFORM_RTC_PORT 0x70    /* two bytes */
#define PLATFORM_RTC_CENTURY 0x32 /* the CMOS byte with the century in BCD */
#define PLATFORM_POST_PORT 0x80
#define PLATFORM_PORT92 0x92
#define PLATFORM_DEBUG_EXIT_PORT 0xF4
#define PLATFORM_COM1_PORT 0x3F8
#define PLATFORM_COM2_PORT 0x2F8
#define PLATFORM_COM3_PORT 0x3E8
#define PLATFORM_COM4_PORT 0x2E8
#define PLATFORM_COM_CLOCK 1843200 /* Hz; 115200 baud at a divisor of 1 */

/* ACPI power management: the fixed register blocks that the FADT names. */
#define PLATFORM_PM_BASE 0x600
#define PLATFORM_PM_SIZE 0x10
#define PLATFORM_PM1_EVENT_PORT 0x600 /* status 2 bytes, enable 2 bytes */
#define PLATFORM_PM1_CONTROL_PORT 0x604
#define PLATFORM_PM_TIMER_PORT 0x608 /* 32 bits at 3.579545 MHz */
#define PLATFORM_GPE0_PORT 0x60C     /* status 2 bytes, enable 2 bytes */
#define PLATFORM_PM_TIMER_HZ 3579545
#define PLATFORM_SLP_TYP_S5 5           /* \_S5's value; SLP_TYP in PM1 control bits 10-12, SLP_EN bit 13 */
#define PLATFORM_PCI_ADDRESS_PORT 0xCF8 /* four bytes, then the data's four; the reset port is within */
#define PLATFORM_PCI_IO_BASE 0x1000
#define PLATFORM_PCI_IO_SIZE 0xF000
#define PLATFORM_PCI_IO_LAST 0xFFFF
#define PLATFORM_RESET_PORT 0xCF9
#define PLATFORM_RESET_VALUE 6

#endif
