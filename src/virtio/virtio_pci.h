/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci.h - virtio over PCI, the modern transport (virtio 1.2, 4.1): one BAR with the common, ISR, device and notify
 * registers, another with MSI-X (a vector for the configuration and one for each queue), INTA for a guest without it.
 * No transitional device: guests that know only virtio 0.9 see nothing that they could drive.
 */
#ifndef PLURES_VIRTIO_VIRTIO_PCI_H
#define PLURES_VIRTIO_VIRTIO_PCI_H

#include "base/error.h"
#include "vm/device.h"
#include "vm/pci.h"

struct virtio;

/* Where the registers are in their BAR. */
enum {
	VIRTIO_PCI_BAR = 0,
	VIRTIO_PCI_MSIX_BAR = 4,
	VIRTIO_PCI_COMMON = 0x0000,
	VIRTIO_PCI_ISR = 0x1000,
	VIRTIO_PCI_CONFIG = 0x2000,
	VIRTIO_PCI_NOTIFY = 0x3000,
	VIRTIO_PCI_BAR_SIZE = 0x4000,
	VIRTIO_PCI_NOTIFY_STEP = 4, /* bytes from one queue's register to the next's */
};

/* Puts a device on the bus; takes v, which is destroyed with what is returned, or at once when this fails. Its saved
 * state's section has v's name. */
int virtio_pci_create(struct device **dev, struct pci *pci, struct virtio *v, struct error *err);

#endif
