/* SPDX-License-Identifier: Apache-2.0 */
/* config_testlib.h - a configuration with every field in it, for tests and the fuzz target. */
#ifndef PLURES_CONTAINER_CONFIG_TESTLIB_H
#define PLURES_CONTAINER_CONFIG_TESTLIB_H

extern const char config_full[];

#endif
