/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup_v2.c - limits on the v2 hierarchy (the kernel's Documentation/admin-guide/cgroup-v2.rst). The configuration is made
 * of v1's terms, so most values are converted. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container/cgroup.h"

struct setter {
	const struct cgroup_place *place;
	struct error *err;
	int rc;
};

static void put(struct setter *s, const char *file, const char *field, const char *value)
{
	char what[128];

	if (s->rc)
		return;
	snprintf(what, sizeof(what), "linux.resources.%s", field);
	s->rc = cgroup_write(s->place, file, what, s->err, "%s", value);
	if (s->rc == -ENOENT)
		s->rc = error_set(s->err, -ENOTSUP, "%s: this cgroup has no file %s (is its controller enabled above?)",
				  what, file);
}

static void put_number(struct setter *s, const char *file, const char *field, int64_t value)
{
	char text[24] = "max";

	if (value >= 0)
		snprintf(text, sizeof(text), "%lld", (long long)value);
	put(s, file, field, text);
}

static void limit_memory(struct setter *s, const struct oci_memory *m)
{
	char old[32];

	if (m->limit.set && m->limit.value)
		put_number(s, "memory.max", "memory.limit", m->limit.value);
	/* v1 counts memory and swap together, v2 swap alone. */
	if (m->swap.set && m->swap.value) {
		if (m->swap.value > 0 && (!m->limit.set || m->limit.value <= 0) && !s->rc)
			s->rc = error_set(s->err, -EINVAL,
					  "linux.resources.memory.swap: needs a limit, above which it counts");
		/* Unlimited is what a new cgroup is; hosts that don't account swap lack the file. */
		if (m->swap.value > 0 || cgroup_read(s->place, "memory.swap.max", old, sizeof(old)) >= 0)
			put_number(s, "memory.swap.max", "memory.swap",
				   m->swap.value < 0 ? -1 : m->swap.value - m->limit.value);
	}
	if (m->reservation.set && m->reservation.value)
		put_number(s, "memory.low", "memory.reservation", m->reservation.value);
	if (m->disable_oom_killer && !s->rc)
		s->rc =
		    error_set(s->err, -ENOTSUP, "linux.resources.memory.disableOOMKiller: cgroup v2 has no such thing");
	/* kernel, kernelTCP and swappiness have no file in v2; engines send them for v1's sake. */
}

int64_t cgroup_v2_weight(int64_t shares)
{
	return 1 + ((shares < 2 ? 2 : shares > 262144 ? 262144 : shares) - 2) * 9999 / 262142;
}

/* "$MAX $PERIOD" in one file: what is not given stays as it is. A burst is never more than the quota, old or new. */
static void limit_quota(struct setter *s, const struct oci_cpu *cpu)
{
	bool has_quota = cpu->quota.set && cpu->quota.value, has_period = cpu->period.set && cpu->period.value;
	bool has_burst = cpu->burst.set && cpu->burst.value;
	char text[64], quota[24] = "max", old[64];

	if (has_quota && cpu->quota.value > 0)
		snprintf(quota, sizeof(quota), "%lld", (long long)cpu->quota.value);
	if (!has_quota && cgroup_read(s->place, "cpu.max", old, sizeof(old)) > 0)
		snprintf(quota, sizeof(quota), "%.*s", (int)strcspn(old, " "), old);
	if (has_burst && has_quota)
		put_number(s, "cpu.max.burst", "cpu.burst", 0);
	if (has_period)
		snprintf(text, sizeof(text), "%s %lld", quota, (long long)cpu->period.value);
	if (has_period)
		put(s, "cpu.max", has_quota ? "cpu.quota" : "cpu.period", text);
	else if (has_quota)
		put(s, "cpu.max", "cpu.quota", quota);
	if (has_burst)
		put_number(s, "cpu.max.burst", "cpu.burst", cpu->burst.value);
}

static void limit_cpu(struct setter *s, const struct oci_cpu *cpu)
{
	bool busy = cpu->idle.set && !cpu->idle.value;

	/* Who is idle has no weight. */
	if (busy)
		put_number(s, "cpu.idle", "cpu.idle", 0);
	if (cpu->shares.set && cpu->shares.value)
		put_number(s, "cpu.weight", "cpu.shares", cgroup_v2_weight(cpu->shares.value));
	limit_quota(s, cpu);
	if (cpu->idle.set && !busy)
		put_number(s, "cpu.idle", "cpu.idle", cpu->idle.value);
	if (((cpu->rt_runtime.set && cpu->rt_runtime.value) || (cpu->rt_period.set && cpu->rt_period.value)) && !s->rc)
		s->rc = error_set(s->err, -ENOTSUP, "linux.resources.cpu.realtimeRuntime: cgroup v2 has no such thing");
	if (cpu->cpus && cpu->cpus[0])
		put(s, "cpuset.cpus", "cpu.cpus", cpu->cpus);
	if (cpu->mems && cpu->mems[0])
		put(s, "cpuset.mems", "cpu.mems", cpu->mems);
}

/* v1's weights are of [10, 1000], io.weight's of [1, 10000]; bfq's are v1's. */
static void put_weight(struct setter *s, const char *field, const char *device, int64_t weight)
{
	char text[128], old[256];

	if (cgroup_read(s->place, "io.bfq.weight", old, sizeof(old)) >= 0) {
		snprintf(text, sizeof(text), "%s%lld", device, (long long)weight);
		put(s, "io.bfq.weight", field, text);
		return;
	}
	snprintf(text, sizeof(text), "%s%lld", device, 1 + ((long long)weight - 10) * 9999 / 990);
	put(s, "io.weight", field, text);
}

static void limit_io(struct setter *s, const struct oci_block_io *io)
{
	static const struct {
		const char *key, *field;
	} throttle[THROTTLE_COUNT] = {
		[READ_BPS] = { "rbps", "blockIO.throttleReadBpsDevice" },
		[WRITE_BPS] = { "wbps", "blockIO.throttleWriteBpsDevice" },
		[READ_IOPS] = { "riops", "blockIO.throttleReadIOPSDevice" },
		[WRITE_IOPS] = { "wiops", "blockIO.throttleWriteIOPSDevice" },
	};
	char text[96];

	if (io->weight.set && io->weight.value)
		put_weight(s, "blockIO.weight", "", io->weight.value);
	for (size_t i = 0; i < io->weights.count; i++) {
		const struct oci_block_rate *rate = &io->weights.list[i];

		snprintf(text, sizeof(text), "%u:%u ", rate->major, rate->minor);
		if (rate->weight.set)
			put_weight(s, "blockIO.weightDevice", text, rate->weight.value);
	}
	for (unsigned kind = 0; kind < THROTTLE_COUNT; kind++)
		for (size_t i = 0; i < io->throttle[kind].count; i++) {
			const struct oci_block_rate *rate = &io->throttle[kind].list[i];
			char value[24] = "max";

			/* v1 unsets a rate by 0. */
			if (rate->rate)
				snprintf(value, sizeof(value), "%llu", (unsigned long long)rate->rate);
			snprintf(text, sizeof(text), "%u:%u %s=%s", rate->major, rate->minor, throttle[kind].key,
				 value);
			put(s, "io.max", throttle[kind].field, text);
		}
}

int cgroup_limit_v2(const struct cgroup *cgroup, const struct oci_resources *resources, struct error *err)
{
	struct setter s = { &cgroup->places[0], err, 0 };
	char file[64], text[128];

	limit_memory(&s, &resources->memory);
	limit_cpu(&s, &resources->cpu);
	if (resources->pids.set)
		put_number(&s, "pids.max", "pids.limit", resources->pids.value > 0 ? resources->pids.value : -1);
	limit_io(&s, &resources->block_io);
	for (size_t i = 0; i < resources->hugepage_count; i++) {
		snprintf(file, sizeof(file), "hugetlb.%s.max", resources->hugepages[i].size);
		put_number(&s, file, "hugepageLimits", (int64_t)resources->hugepages[i].limit);
		/* Reservations too, which are refused where a page fault kills. */
		snprintf(file, sizeof(file), "hugetlb.%s.rsvd.max", resources->hugepages[i].size);
		if (cgroup_read(s.place, file, text, sizeof(text)) >= 0)
			put_number(&s, file, "hugepageLimits", (int64_t)resources->hugepages[i].limit);
	}
	for (size_t i = 0; i < resources->rdma_count; i++) {
		const struct oci_rdma *rdma = &resources->rdma[i];
		int used = snprintf(text, sizeof(text), "%.60s", rdma->device);

		if (rdma->handles.set)
			used += snprintf(text + used, sizeof(text) - (size_t)used, " hca_handle=%lld",
					 (long long)rdma->handles.value);
		if (rdma->objects.set)
			snprintf(text + used, sizeof(text) - (size_t)used, " hca_object=%lld",
				 (long long)rdma->objects.value);
		put(&s, "rdma.max", "rdma", text);
	}
	/* Network classes and priorities are v1's; without v1 there is nothing that they could mean. */
	for (const char *const *pair = resources->unified; pair && *pair; pair += 2) {
		snprintf(text, sizeof(text), "unified[%.80s]", pair[0]);
		put(&s, pair[0], text, pair[1]);
	}
	return s.rc;
}
