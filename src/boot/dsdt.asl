/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dsdt.asl - the machine's fixed devices, with the numbers of vm/platform.h. CPUs are in the MADT; there is no PCI bus,
 * keyboard controller or display to describe.
 */
#include "vm/platform.h"

DefinitionBlock ("", "DSDT", 2, "PLURES", "PLURESVM", 1)
{
	Name (\_S5, Package () { PLATFORM_SLP_TYP_S5, PLATFORM_SLP_TYP_S5, 0, 0 })

	Scope (\_SB)
	{
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

		/* Ports that no driver may give to another device. The APICs' addresses are reserved in the memory map. */
		Device (MISC)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, PLATFORM_PORT61, PLATFORM_PORT61, 1, 1)
				IO (Decode16, PLATFORM_POST_PORT, PLATFORM_POST_PORT, 1, 1)
				IO (Decode16, PLATFORM_PORT92, PLATFORM_PORT92, 1, 1)
				IO (Decode16, PLATFORM_PM_BASE, PLATFORM_PM_BASE, 1, PLATFORM_PM_SIZE)
			})
		}
	}
}
