/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci.h - PCI: one segment with one bus, a host bridge at slot 0, and functions that devices put into the other slots.
 *
 * A device embeds struct pci_function, gives it BARs, capabilities and perhaps MSI-X while it is made, and raises its
 * interrupts through it. Configuration space is here: a byte a register and a byte that says which bits a guest can
 * write, so sizing a BAR and most of the specification need no code. Section numbers are of PCI Local Bus 3.0.
 *
 * BARs: the guest puts them where it likes. They are decoded only inside the windows that the host bridge forwards
 * (platform.h), so that none can cover a chip or memory; of two that overlap the first stays. A BAR moves while other
 * vCPUs use it: its handler may still be called for the old place for a moment, always with an offset inside the BAR.
 *
 * Threads: functions are added and removed while no vCPU runs. Configuration accesses come on vCPU threads; the
 * segment's lock guards all configuration bytes and is never held while a device is called. Interrupts may be raised
 * on any thread, with a device's own locks held.
 */
#ifndef PLURES_VM_PCI_H
#define PLURES_VM_PCI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/device.h"

enum { PCI_SLOTS = 32, PCI_BARS = 6, PCI_CONFIG_SIZE = 256, PCI_MSIX_MAX = 2048, PCI_PIRQS = 4 };

struct pci;
struct pci_msix; /* pci_msix.c's */

/* ---- the segment, for who builds a machine ---- */

struct pci_config {
	struct bus *pio, *mmio;
	/* Where port 0xcf9 is claimed, the reset control that lies within the address register; or NULL. */
	struct bus *reset_bus;
	/* A write of data to addr by a device: an interrupt message. Any thread. */
	void (*msi)(void *ctx, uint64_t addr, uint32_t data);
	void *msi_ctx;
	/* engine_ops.vm_doorbell, with msi_ctx; or NULL: every write is a call. */
	int (*doorbell)(void *ctx, uint64_t addr, int fd, bool on);
	/* Level-triggered lines. INTA of slot s is on pirq[s % 4], as dsdt.asl says. */
	struct irq_line pirq[PCI_PIRQS];
};

/* Never NULL. Its device comes before those of its functions in the machine's list: a reset puts all of configuration
 * space into the state that firmware would leave, with BARs placed and decoded. */
struct pci *pci_create(const struct pci_config *config);
struct device *pci_device(struct pci *pci);

/* ---- a function, for the device that embeds it ---- */

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
	enum pci_bar_kind kind;
	uint64_t size;
	const struct io_ops *ops;
	void *dev;
	const char *name;
	uint64_t at; /* where it is on the bus, while mapped */
	bool mapped;
	/* Doorbells, one each `step` bytes from `bell` on: eventfds of the device's. */
	uint64_t bell, step;
	const int *fd;
	unsigned bells;
};

struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* class, subclass, interface: 0x020000 */
	uint8_t revision;
	bool intx; /* has INTA */
};

/* Registers that are more than memory: accesses that lie wholly in [start, start + size) of configuration space are
 * given to these instead, `offset` counting from start. With no lock held. */
struct pci_registers {
	uint8_t start, size;
	uint32_t (*read)(void *dev, unsigned offset, unsigned size);
	void (*write)(void *dev, unsigned offset, unsigned size, uint32_t value);
	void *dev;
};

struct pci_function {
	struct pci *pci;
	unsigned slot;
	/* All of what follows is guarded by the segment's lock. */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* the bits of each byte that a guest can change */
	struct pci_bar bar[PCI_BARS];
	struct pci_registers registers;
	unsigned next_capability, last_capability;
	bool intx, intx_driven; /* as the device wants it, as it is on the line */
	struct pci_msix *msix;  /* its own lock */
};

/* Puts a zeroed function into the next free slot: -ENOSPC when there is none. */
int pci_add(struct pci *pci, struct pci_function *fn, const struct pci_identity *id, struct error *err);
/* Before the machine's first reset; a PCI_BAR_MEM64 takes index + 1 too. size is a power of two, at least 16 (4 for
 * I/O). */
void pci_add_bar(struct pci_function *fn, unsigned index, enum pci_bar_kind kind, uint64_t size,
		 const struct io_ops *ops, void *dev, const char *name);
/* Whether a write to a place in a BAR can become an event on a descriptor, without a thread of ours in between. */
bool pci_has_doorbells(const struct pci *pci);
/* Has that done for `bells` places of a memory BAR: a write to the n-th, at offset bell + n * step, may add 1 to fd[n] in
 * place of a call of `write`, wherever the BAR is. The descriptors must outlive the function's place on the bus. */
void pci_set_doorbells(struct pci_function *fn, unsigned bar, uint64_t bell, uint64_t step, const int *fd,
		       unsigned bells);
/* Adds a capability of `size` bytes with its 2-byte header, whose bytes from the third on are `body`; returns its offset. */
unsigned pci_add_capability(struct pci_function *fn, uint8_t id, const void *body, unsigned size);
void pci_set_registers(struct pci_function *fn, const struct pci_registers *registers);
/* Gives it MSI-X with 1 to PCI_MSIX_MAX vectors, in a BAR of its own. */
void pci_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors);
/* Takes it off the bus. Nothing for one that was not added. */
void pci_remove(struct pci_function *fn);

/* Reads or writes a BAR of the function as a CPU would; false when [offset, offset + size) is not in it. */
bool pci_bar_access(struct pci_function *fn, unsigned bar, uint64_t offset, unsigned size, uint64_t *value, bool write);

/* A register as the guest would read it; an access stays within four aligned bytes. Any thread. */
uint32_t pci_function_read(struct pci_function *fn, unsigned offset, unsigned size);

/* The level of INTA. Any thread. */
void pci_intx_set(struct pci_function *fn, bool level);
/* Whether the guest has switched MSI-X on; then INTA is not used. Any thread. */
bool pci_msix_enabled(const struct pci_function *fn);
/* Sends vector's message, or marks it pending while it is masked; nothing when MSI-X is off or there is no such vector.
 * Any thread. */
void pci_msix_raise(struct pci_function *fn, unsigned vector);

/* As part of the device's own section: call from its save and load. Load needs the same BARs and capabilities. */
void pci_function_save(struct pci_function *fn, struct state_writer *w);
/* Reads fields first and applies them in pci_function_apply, once the device has found no fault in its own. */
struct pci_saved;
int pci_function_load(struct pci_function *fn, struct state_reader *r, struct pci_saved **saved, struct error *err);
void pci_function_apply(struct pci_function *fn, struct pci_saved *saved); /* frees saved, which may be NULL */
void pci_saved_free(struct pci_saved *saved);                              /* where it is not applied */

#endif
