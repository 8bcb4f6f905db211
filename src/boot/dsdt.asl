/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dsdt.asl - the machine's fixed devices, with the numbers of vm/platform.h. CPUs are in the MADT; there is no keyboard
 * controller or display to describe.
 */
#include "vm/platform.h"

DefinitionBlock ("", "DSDT", 2, "PLURES", "PLURESVM", 1)
{
	Name (\_S5, Package () { PLATFORM_SLP_TYP_S5, PLATFORM_SLP_TYP_S5, 0, 0 })

	/* How interrupts are delivered: 0, by the 8259s, until the guest says that it uses the I/O APIC. */
	Name (PICM, 0)
	Method (\_PIC, 1) { Store (Arg0, PICM) }

	Scope (\_SB)
	{
		/* The PCI host bridge: one bus, whose slots' INTA go round four lines. */
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A03"))
			Name (_UID, 0)
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_CRS, ResourceTemplate () {
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
				IO (Decode16, PLATFORM_PCI_ADDRESS_PORT, PLATFORM_PCI_ADDRESS_PORT, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, PLATFORM_PCI_IO_BASE, PLATFORM_PCI_IO_LAST, 0, PLATFORM_PCI_IO_SIZE)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, PLATFORM_PCI_MMIO32_BASE, PLATFORM_PCI_MMIO32_LAST, 0, PLATFORM_PCI_MMIO32_SIZE)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, PLATFORM_PCI_MMIO64_BASE, PLATFORM_PCI_MMIO64_LAST, 0, PLATFORM_PCI_MMIO64_SIZE)
			})

			/* A package for each of the slots 1 to 31. */
			Method (_PRT, 0, Serialized)
			{
				Name (TABL, Package (31) {})
				Store (1, Local0)
				While (LLess (Local0, 32))
				{
					Store (Package (4) { 0xFFFF, 0, 0, 0 }, Local1)
					Store (Or (ShiftLeft (Local0, 16), 0xFFFF), Index (Local1, 0))
					If (PICM) { Store (Add (PLATFORM_GSI_PCI, And (Local0, 3)), Index (Local1, 3)) }
					Else { Store (Add (PLATFORM_IRQ_PCI, And (Local0, 1)), Index (Local1, 3)) }
					Store (Local1, Index (TABL, Subtract (Local0, 1)))
					Increment (Local0)
				}
				Return (TABL)
			}
		}

		Device (PIC)
		{
			Name (_HID, EisaId ("PNP0000"))
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_PIC1_PORT, PLATFORM_PIC1_PORT, 1, 2)
				IO (Decode16, PLATFORM_PIC2_PORT, PLATFORM_PIC2_PORT, 1, 2)
				IO (Decode16, PLATFORM_ELCR_PORT, PLATFORM_ELCR_PORT, 1, 2)
				IRQNoFlags () { PLATFORM_IRQ_CASCADE }
			})
		}

		Device (TIMR)
		{
			Name (_HID, EisaId ("PNP0100"))
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_PIT_PORT, PLATFORM_PIT_PORT, 1, 4)
				IRQNoFlags () { PLATFORM_IRQ_TIMER }
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_RTC_PORT, PLATFORM_RTC_PORT, 1, 2)
				IRQNoFlags () { PLATFORM_IRQ_RTC }
			})
		}

		/* A serial port is there if something answers: modem control reads as ones where no chip is. */
		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			OperationRegion (UART, SystemIO, PLATFORM_COM1_PORT, 8)
			Field (UART, ByteAcc, NoLock, Preserve) { Offset (4), MCR, 8 }
			Method (_STA) { If (LEqual (MCR, 0xFF)) { Return (0) } Return (0x0F) }
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_COM1_PORT, PLATFORM_COM1_PORT, 1, 8)
				IRQNoFlags () { PLATFORM_IRQ_COM1 }
			})
		}

		Device (COM2)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 2)
			OperationRegion (UART, SystemIO, PLATFORM_COM2_PORT, 8)
			Field (UART, ByteAcc, NoLock, Preserve) { Offset (4), MCR, 8 }
			Method (_STA) { If (LEqual (MCR, 0xFF)) { Return (0) } Return (0x0F) }
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_COM2_PORT, PLATFORM_COM2_PORT, 1, 8)
				IRQNoFlags () { PLATFORM_IRQ_COM2 }
			})
		}

		Device (COM3)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 3)
			OperationRegion (UART, SystemIO, PLATFORM_COM3_PORT, 8)
			Field (UART, ByteAcc, NoLock, Preserve) { Offset (4), MCR, 8 }
			Method (_STA) { If (LEqual (MCR, 0xFF)) { Return (0) } Return (0x0F) }
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_COM3_PORT, PLATFORM_COM3_PORT, 1, 8)
				IRQNoFlags () { PLATFORM_IRQ_COM1 }
			})
		}

		Device (COM4)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 4)
			OperationRegion (UART, SystemIO, PLATFORM_COM4_PORT, 8)
			Field (UART, ByteAcc, NoLock, Preserve) { Offset (4), MCR, 8 }
			Method (_STA) { If (LEqual (MCR, 0xFF)) { Return (0) } Return (0x0F) }
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_COM4_PORT, PLATFORM_COM4_PORT, 1, 8)
				IRQNoFlags () { PLATFORM_IRQ_COM2 }
			})
		}

		/* Ports and memory that no driver may give to another device. The APICs' addresses are reserved in the memory map. */
		Device (MISC)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_PORT61, PLATFORM_PORT61, 1, 1)
				IO (Decode16, PLATFORM_POST_PORT, PLATFORM_POST_PORT, 1, 1)
				IO (Decode16, PLATFORM_PORT92, PLATFORM_PORT92, 1, 1)
				IO (Decode16, PLATFORM_PM_BASE, PLATFORM_PM_BASE, 1, PLATFORM_PM_SIZE)
				Memory32Fixed (ReadWrite, PLATFORM_PCI_ECAM_BASE, PLATFORM_PCI_ECAM_SIZE)
			})
		}
	}
}
