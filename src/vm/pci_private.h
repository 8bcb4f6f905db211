/* SPDX-License-Identifier: Apache-2.0 */
/* pci_private.h - what pci.c, pci_function.c and pci_msix.c share; nobody else includes it. */
#ifndef PLURES_VM_PCI_PRIVATE_H
#define PLURES_VM_PCI_PRIVATE_H

#include "vm/pci.h"

struct pci {
	struct device dev;
	struct pci_config config;
	struct pci_function bridge;

	pthread_mutex_t lock; /* of what follows, and of all functions' configuration */
	struct pci_function *slot[PCI_SLOTS];
	uint32_t address;             /* port 0xcf8 */
	unsigned asserted[PCI_PIRQS]; /* how many functions hold each line */
};

enum { /* configuration space, 6.1 */
       PCI_VENDOR = 0x00,
       PCI_COMMAND = 0x04,
       PCI_STATUS = 0x06,
       PCI_REVISION = 0x08,
       PCI_CLASS = 0x09,
       PCI_BAR0 = 0x10,
       PCI_BARS_END = 0x28,
       PCI_SUBSYSTEM_VENDOR = 0x2c,
       PCI_CAPABILITIES = 0x34,
       PCI_INTERRUPT_LINE = 0x3c,
       PCI_INTERRUPT_PIN = 0x3d,
       PCI_FIRST_CAPABILITY = 0x40,
};
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4, PCI_COMMAND_NO_INTX = 0x400 };
enum { PCI_STATUS_INTX = 8, PCI_STATUS_CAPABILITIES = 0x10 };
enum { PCI_CAP_MSIX = 0x11 };

/* ---- pci_function.c ---- */

void pci_function_init(struct pci_function *fn, const struct pci_identity *id);
/* As pci_function_read. */
void pci_function_write(struct pci_function *fn, unsigned offset, unsigned size, uint32_t value);
/* Where the firmware that we stand in for puts the next BAR of each kind. */
struct pci_room {
	uint64_t io, mem32, mem64;
};
/* The state after a reset; with the lock. */
void pci_function_reset(struct pci_function *fn, struct pci_room *room);
/* Takes its BARs off the buses; with the lock. */
void pci_function_unmap(struct pci_function *fn);

/* ---- pci_msix.c ---- */

void pci_msix_destroy(struct pci_msix *msix);
void pci_msix_reset(struct pci_msix *msix);
/* The capability's message control word changed. */
void pci_msix_control(struct pci_function *fn);
/* The offset of that word in configuration space. */
unsigned pci_msix_control_offset(const struct pci_msix *msix);
void pci_msix_save(struct pci_msix *msix, struct state_writer *w);
/* The size of what load wants: the table, then the pending bits. */
size_t pci_msix_table_size(const struct pci_msix *msix);
size_t pci_msix_pending_count(const struct pci_msix *msix);
void pci_msix_apply(struct pci_function *fn, const uint8_t *table, const uint64_t *pending);

#endif
