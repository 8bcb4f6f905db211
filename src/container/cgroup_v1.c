/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup_v1.c - limits on v1 hierarchies (the kernel's Documentation/admin-guide/cgroup-v1). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container/cgroup.h"

/* A controller and what its limits belong to, so that a setting is one line. */
struct setter {
	const struct cgroup *cgroup;
	struct error *err;
	int rc; /* the first error sticks */
};

static void put(struct setter *s, enum cgroup_controller controller, const char *name, const char *file,
		const char *field, const char *value)
{
	const struct cgroup_place *place = cgroup_with(s->cgroup, controller);
	char what[128];

	if (s->rc)
		return;
	snprintf(what, sizeof(what), "linux.resources.%s", field);
	s->rc = place ? cgroup_write(place, file, what, s->err, "%s", value) : cgroup_missing(what, name, s->err);
}

static void put_number(struct setter *s, enum cgroup_controller controller, const char *name, const char *file,
		       const char *field, const struct reader_number *number)
{
	char value[24];

	if (!number->set)
		return;
	snprintf(value, sizeof(value), "%lld", (long long)number->value);
	put(s, controller, name, file, field, value);
}

/* ---- memory ---- */

static void put_memory(struct setter *s, const char *file, const char *field, const struct reader_number *number)
{
	put_number(s, CG_MEMORY, "memory", file, field, number);
}

/* The kernel keeps limit <= memsw.limit at every step. 0 for swap means unset, as engines send it. */
static void limit_memory(struct setter *s, const struct oci_memory *m, bool update)
{
	const struct cgroup_place *place = cgroup_with(s->cgroup, CG_MEMORY);
	struct reader_number limit = m->limit, swap = m->swap;
	char text[64];

	limit.set &= limit.value != 0;
	swap.set &= swap.value != 0;
	/* Without a word on swap, no limit on memory must mean none on both. */
	if (limit.set && limit.value == -1 && !swap.set && update)
		swap = limit;
	if (m->check_before_update && update && limit.set && limit.value > 0 && place &&
	    cgroup_read(place, "memory.usage_in_bytes", text, sizeof(text)) > 0 &&
	    strtoll(text, NULL, 10) > limit.value)
		s->rc = error_set(s->err, -EBUSY, "linux.resources.memory.limit: the container uses %lld already",
				  strtoll(text, NULL, 10));
	bool raise = update && swap.set && place &&
		     cgroup_read(place, "memory.memsw.limit_in_bytes", text, sizeof(text)) > 0 &&
		     (swap.value == -1 || strtoull(text, NULL, 10) < (unsigned long long)swap.value);

	if (raise)
		put_memory(s, "memory.memsw.limit_in_bytes", "memory.swap", &swap);
	put_memory(s, "memory.limit_in_bytes", "memory.limit", &limit);
	/* -1 is what a new cgroup has; hosts that don't account swap lack the file. */
	if (!raise && (update || swap.value != -1))
		put_memory(s, "memory.memsw.limit_in_bytes", "memory.swap", &swap);
	put_memory(s, "memory.soft_limit_in_bytes", "memory.reservation", &m->reservation);
	/* "kernel" is deprecated: kernels of today refuse or ignore it, so nothing is promised by writing it. */
	put_memory(s, "memory.kmem.tcp.limit_in_bytes", "memory.kernelTCP", &m->kernel_tcp);
	put_memory(s, "memory.swappiness", "memory.swappiness", &m->swappiness);
	if (m->disable_oom_killer)
		put(s, CG_MEMORY, "memory", "memory.oom_control", "memory.disableOOMKiller", "1");
}

/* ---- cpu ---- */

static void limit_cpu(struct setter *s, const struct oci_cpu *cpu, bool update)
{
	struct reader_number shares = cpu->shares, period = cpu->period, quota = cpu->quota;

	shares.set &= shares.value != 0;
	period.set &= period.value != 0;
	quota.set &= quota.value != 0;
	put_number(s, CG_CPU, "cpu", "cpu.shares", "cpu.shares", &shares);
	/* The kernel looks at quota / period after each write, against the parent's: on an update the order that it accepts
	 * depends on the old values, so a refused period is tried again after the quota. */
	int first = s->rc;
	put_number(s, CG_CPU, "cpu", "cpu.cfs_period_us", "cpu.period", &period);
	bool again = update && !first && s->rc == -EINVAL && quota.set;
	if (again)
		s->rc = 0;
	put_number(s, CG_CPU, "cpu", "cpu.cfs_quota_us", "cpu.quota", &quota);
	if (again)
		put_number(s, CG_CPU, "cpu", "cpu.cfs_period_us", "cpu.period", &period);
	put_number(s, CG_CPU, "cpu", "cpu.cfs_burst_us", "cpu.burst", &cpu->burst);
	struct reader_number rt_period = cpu->rt_period, rt_runtime = cpu->rt_runtime;

	rt_period.set &= rt_period.value != 0;
	rt_runtime.set &= rt_runtime.value != 0;
	put_number(s, CG_CPU, "cpu", "cpu.rt_period_us", "cpu.realtimePeriod", &rt_period);
	put_number(s, CG_CPU, "cpu", "cpu.rt_runtime_us", "cpu.realtimeRuntime", &rt_runtime);
	put_number(s, CG_CPU, "cpu", "cpu.idle", "cpu.idle", &cpu->idle);
	if (cpu->cpus && cpu->cpus[0])
		put(s, CG_CPUSET, "cpuset", "cpuset.cpus", "cpu.cpus", cpu->cpus);
	if (cpu->mems && cpu->mems[0])
		put(s, CG_CPUSET, "cpuset", "cpuset.mems", "cpu.mems", cpu->mems);
}

/* ---- block I/O ---- */

/* The weight belongs to a scheduler, whose name is in the file's. */
static const char *weight_file(const struct cgroup *cgroup, const char *plain, const char *bfq)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_BLKIO);
	char text[256];

	return place && cgroup_read(place, plain, text, sizeof(text)) < 0 ? bfq : plain;
}

static void limit_block_io(struct setter *s, const struct oci_block_io *io)
{
	static const struct {
		const char *file, *field;
	} throttle[THROTTLE_COUNT] = {
		[READ_BPS] = { "blkio.throttle.read_bps_device", "blockIO.throttleReadBpsDevice" },
		[WRITE_BPS] = { "blkio.throttle.write_bps_device", "blockIO.throttleWriteBpsDevice" },
		[READ_IOPS] = { "blkio.throttle.read_iops_device", "blockIO.throttleReadIOPSDevice" },
		[WRITE_IOPS] = { "blkio.throttle.write_iops_device", "blockIO.throttleWriteIOPSDevice" },
	};
	struct reader_number weight = io->weight;
	char value[64];

	weight.set &= weight.value != 0;
	if (weight.set)
		put_number(s, CG_BLKIO, "blkio", weight_file(s->cgroup, "blkio.weight", "blkio.bfq.weight"),
			   "blockIO.weight", &weight);
	put_number(s, CG_BLKIO, "blkio", "blkio.leaf_weight", "blockIO.leafWeight", &io->leaf_weight);
	for (size_t i = 0; i < io->weights.count; i++) {
		const struct oci_block_rate *rate = &io->weights.list[i];

		snprintf(value, sizeof(value), "%u:%u %lld", rate->major, rate->minor, (long long)rate->weight.value);
		if (rate->weight.set)
			put(s, CG_BLKIO, "blkio",
			    weight_file(s->cgroup, "blkio.weight_device", "blkio.bfq.weight_device"),
			    "blockIO.weightDevice", value);
	}
	for (unsigned kind = 0; kind < THROTTLE_COUNT; kind++)
		for (size_t i = 0; i < io->throttle[kind].count; i++) {
			const struct oci_block_rate *rate = &io->throttle[kind].list[i];

			snprintf(value, sizeof(value), "%u:%u %llu", rate->major, rate->minor,
				 (unsigned long long)rate->rate);
			put(s, CG_BLKIO, "blkio", throttle[kind].file, throttle[kind].field, value);
		}
}

/* ---- the rest ---- */

static void limit_pids(struct setter *s, const struct reader_number *pids)
{
	char value[24] = "max";

	if (!pids->set || (!pids->value && !cgroup_with(s->cgroup, CG_PIDS)))
		return;
	/* 0 and less mean unlimited, as engines use it. */
	if (pids->value > 0)
		snprintf(value, sizeof(value), "%lld", (long long)pids->value);
	put(s, CG_PIDS, "pids", "pids.max", "pids.limit", value);
}

static void limit_others(struct setter *s, const struct oci_resources *r)
{
	char file[64], value[128];

	for (size_t i = 0; i < r->hugepage_count; i++) {
		snprintf(file, sizeof(file), "hugetlb.%s.limit_in_bytes", r->hugepages[i].size);
		snprintf(value, sizeof(value), "%llu", (unsigned long long)r->hugepages[i].limit);
		put(s, CG_HUGETLB, "hugetlb", file, "hugepageLimits", value);
		/* Reservations too, which are refused where a page fault kills (Linux 5.7). */
		const struct cgroup_place *place = cgroup_with(s->cgroup, CG_HUGETLB);
		char old[32];

		snprintf(file, sizeof(file), "hugetlb.%s.rsvd.limit_in_bytes", r->hugepages[i].size);
		if (place && cgroup_read(place, file, old, sizeof(old)) >= 0)
			put(s, CG_HUGETLB, "hugetlb", file, "hugepageLimits", value);
	}
	put_number(s, CG_NET_CLS, "net_cls", "net_cls.classid", "network.classID", &r->net_class);
	for (size_t i = 0; i < r->net_priority_count; i++) {
		snprintf(value, sizeof(value), "%.100s %u", r->net_priorities[i].name, r->net_priorities[i].priority);
		put(s, CG_NET_PRIO, "net_prio", "net_prio.ifpriomap", "network.priorities", value);
	}
	for (size_t i = 0; i < r->rdma_count; i++) {
		const struct oci_rdma *rdma = &r->rdma[i];

		snprintf(value, sizeof(value), "%.60s hca_handle=%lld hca_object=%lld", rdma->device,
			 rdma->handles.set ? (long long)rdma->handles.value : (long long)INT32_MAX,
			 rdma->objects.set ? (long long)rdma->objects.value : (long long)INT32_MAX);
		put(s, CG_RDMA, "rdma", "rdma.max", "rdma", value);
	}
	if (r->unified && r->unified[0] && !s->rc)
		s->rc =
		    error_set(s->err, -ENOTSUP, "linux.resources.unified: this host's controllers are on cgroup v1");
}

int cgroup_limit_v1(const struct cgroup *cgroup, const struct oci_resources *resources, bool update, struct error *err)
{
	struct setter s = { cgroup, err, 0 };

	limit_memory(&s, &resources->memory, update);
	limit_cpu(&s, &resources->cpu, update);
	limit_pids(&s, &resources->pids);
	limit_block_io(&s, &resources->block_io);
	limit_others(&s, resources);
	return s.rc;
}
