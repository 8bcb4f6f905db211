/* SPDX-License-Identifier: Apache-2.0 */
#include "container/box.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/box_private.h"
#include "container/container.h"
#include "container/idmap.h"
#include "container/log.h"
#include "container/network.h"
#include "container/state.h"

enum { STATUS_ERROR = 125 };

int box_add(struct box_words *words, const char *word, struct error *err)
{
	if (words->count == BOX_LIST)
		return error_set(err, -E2BIG, "is given more than %d times", BOX_LIST);
	words->words[words->count++] = word;
	return 0;
}

const char *box_default_root(char *path, size_t room)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");

	if (!geteuid() && (!runtime || !runtime[0] || !idmap_rootless()))
		snprintf(path, room, "/run/plures-container");
	else if (runtime && runtime[0] == '/')
		snprintf(path, room, "%s/plures-container", runtime);
	else
		snprintf(path, room, "/tmp/plures-container-%u", geteuid());
	return path;
}

/* In /tmp anybody may have made a folder of that name. */
static int check_root(const char *root, struct error *err)
{
	struct stat st;

	if (mkdir(root, 0700) && errno != EEXIST && errno != ENOENT)
		return error_errno(err, -errno, "can't make %s", root);
	if (lstat(root, &st))
		return error_errno(err, -errno, "can't use %s", root);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
		return error_set(err, -EPERM, "can't use %s: it is not a folder of this user's alone", root);
	return 0;
}

/* ---- the keeper ---- */

struct run {
	const struct box *box;
	const char *root, *name;
	int keeper; /* as long as this end is open, the keeper waits; -1 */
	pid_t keeper_pid;
	int answer; /* of a call that detaches: where it is told how that went; -1 */
};

/* Waits until whoever holds the other end is gone. If the folder of the state is still there then, it was killed. */
static _Noreturn void be_keeper(const struct run *r, int end, int folder)
{
	int null = open("/dev/null", O_RDWR);
	struct stat st;
	char byte;

	setsid();
	/* What this one was given is whose it is to close; others wait for its end. */
	for (int fd = 0; fd <= 2; fd++)
		dup2(null, fd);
	unsigned low = (unsigned)(end < folder ? end : folder), high = (unsigned)(end < folder ? folder : end);

	if (low > 3)
		syscall(SYS_close_range, 3u, low - 1, 0u);
	if (high > low + 1)
		syscall(SYS_close_range, low + 1, high - 1, 0u);
	syscall(SYS_close_range, high + 1, ~0u, 0u);
	if (chdir("/"))
		_exit(1);
	while (read(end, &byte, 1) < 0 && errno == EINTR)
		;
	if (!fstat(folder, &st) && st.st_nlink)
		container_delete(r->root, r->name, true, NULL);
	_exit(0);
}

/* The lock says that somebody looks after the folder: both processes hold it. */
static int claimed(void *arg, int folder, struct error *err)
{
	struct run *r = arg;
	struct stat st;
	int ends[2];

	if (flock(folder, LOCK_EX) || fstat(folder, &st))
		return error_errno(err, -errno, "can't lock the container's state");
	if (!st.st_nlink) /* who sweeps was faster */
		return error_errno(err, -EAGAIN, "the container's state was removed");
	if (pipe2(ends, O_CLOEXEC))
		return error_errno(err, -errno, "pipe");
	r->keeper_pid = fork();
	if (!r->keeper_pid) {
		close(ends[1]);
		be_keeper(r, ends[0], folder);
	}
	close(ends[0]);
	r->keeper = ends[1];
	return r->keeper_pid < 0 ? error_errno(err, -errno, "fork") : 0;
}

static void dismiss_keeper(struct run *r)
{
	if (r->keeper >= 0)
		close(r->keeper);
	if (r->keeper_pid > 0)
		waitpid(r->keeper_pid, NULL, 0);
	r->keeper = -1;
	r->keeper_pid = 0;
}

/* Whether nobody looks after a container's folder any more; then it is removed. */
static bool sweep(const char *root, const char *name)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", root, name) >= (int)sizeof(path))
		return false;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	bool stale = fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB);

	if (stale)
		stale = !container_delete(root, name, true, NULL);
	if (fd >= 0)
		close(fd);
	return stale;
}

/* ---- before anything is made ---- */

static int check_rootfs(const char *given, char path[PATH_MAX], struct stat *st, struct error *err)
{
	if (!realpath(given, path))
		return error_errno(err, -errno, "ROOTFS %.200s", given);
	if (stat(path, st))
		return error_errno(err, -errno, "ROOTFS %.200s", given);
	if (!S_ISDIR(st->st_mode))
		return error_set(err, -ENOTDIR, "ROOTFS %.200s is no folder: unpack the image first", given);
	if (access(path, R_OK | X_OK))
		return error_errno(err, -errno, "ROOTFS %.200s can't be read", given);
	return 0;
}

/* "debian-3fa90c" for /srv/debian. */
static int make_name(const char *rootfs, char *name, size_t room, struct error *err)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-";
	const char *base = strrchr(rootfs, '/') + 1;
	uint8_t random[3];
	size_t size = 0;

	for (; *base && size < 30; base++)
		name[size++] = strchr(allowed, *base) ? *base : '-';
	if (!size || name[0] == '-')
		size = (size_t)snprintf(name, room, "box");
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return error_errno(err, -errno, "getrandom");
	snprintf(name + size, room - size, "-%02x%02x%02x", random[0], random[1], random[2]);
	return 0;
}

static int check_user(const struct box_ids *ids, const struct box_identity *who, struct error *err)
{
	bool here = !ids->given || (box_has_id(ids->uids, ids->uid_count, who->uid) &&
				    box_has_id(ids->gids, ids->gid_count, who->gid));

	return here ? 0
		    : error_set(
			  err, -EINVAL,
			  "--user: the container has no user %u or no group %u: give this user ranges in /etc/subuid "
			  "and /etc/subgid, and install uidmap",
			  who->uid, who->gid);
}

static int check_options(const struct box *box, struct error *err)
{
	if (box->keep && box->in_place)
		return error_set(err, -EINVAL, "--keep and --in-place: changes go to one place or the other");
	if (box->workdir && box->workdir[0] != '/')
		return error_set(err, -EINVAL, "--workdir: %.80s is no absolute path", box->workdir);
	if (box->net == BOX_NET_USER && !network_program(err))
		return -ENOENT;
	return 0;
}

static int make_kept(const char *keep, struct error *err)
{
	struct stat st;

	if (mkdir(keep, 0755) && errno != EEXIST)
		return error_errno(err, -errno, "--keep: can't make %.200s", keep);
	if (stat(keep, &st))
		return error_errno(err, -errno, "--keep: %.200s", keep);
	return S_ISDIR(st.st_mode) ? 0 : error_set(err, -ENOTDIR, "--keep: %.200s is no folder", keep);
}

/* Of the root's files, those of users whom the container has no number for can't be changed, nor what is below. */
static void warn_of_owner(const struct box *box, const struct stat *st, const struct box_ids *ids)
{
	if (!ids->given || ids->idmap || st->st_uid == geteuid())
		return;
	for (size_t i = 0; i < ids->uid_count; i++)
		if (st->st_uid >= ids->uids[i].host && st->st_uid - ids->uids[i].host < ids->uids[i].size)
			return;
	log_warn("%.200s belongs to user %u, who is nobody in the container: what is in it can be read, not changed",
		 box->rootfs, st->st_uid);
}

/* ---- running ---- */

/* What the runtime calls by the specification's names is an option's here. */
static int explain(const struct box *box, int rc, int *status, struct error *err)
{
	static const char *const names[][2] = { { "process.args: ", "" },
						{ "process.cwd: ", "--workdir: " },
						{ "root.path: ", "ROOTFS: " },
						{ "hostname: ", "--hostname: " } };
	struct error old = *err;

	*status = STATUS_ERROR;
	if (!strncmp(old.text, names[0][0], strlen(names[0][0])))
		*status = container_exit_status(rc);
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strncmp(old.text, names[i][0], strlen(names[i][0])))
			return error_set(err, rc, "%s%s", names[i][1], old.text + strlen(names[i][0]));
	if (box && rc == -ENOTSUP && (box->memory || box->pids || box->cpu_quota) && idmap_rootless())
		return error_set(
		    err, rc,
		    "--%s: this user has no cgroup for it: try `systemd-run --user --scope -p Delegate=yes "
		    "plures container run ...`, or root",
		    box->memory      ? "memory"
		    : box->cpu_quota ? "cpus"
				     : "pids");
	return rc;
}

static void started(void *arg)
{
	struct run *r = arg;

	if (r->answer < 0)
		return;
	if (write(r->answer, "S", 1) != 1)
		log_debug("nobody waits for the start");
	close(r->answer);
	r->answer = -1;
}

static int launch(struct run *r, const struct container_box *options, const char *rootfs, int *status,
		  struct error *err)
{
	const struct container_launch launch = { .root = r->root, .id = r->name, .bundle = rootfs, .box = options };
	int rc = container_run(&launch, status, err);

	for (unsigned try = 0; try < 10 && (rc == -EAGAIN || (rc == -EEXIST && sweep(r->root, r->name))); try++) {
		dismiss_keeper(r);
		rc = container_run(&launch, status, err);
	}
	if (rc == -EEXIST)
		error_set(err, rc, "--name: there is a container \"%s\" already (plures container rm %s)", r->name,
			  r->name);
	dismiss_keeper(r);
	return rc ? explain(r->box, rc, status, err) : 0;
}

/* The process that stays with a container that was detached. It tells the one that was called how the start went, and ends. */
static _Noreturn void be_monitor(struct run *r, int log, const struct container_box *options, const char *rootfs)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), status = 0;
	struct error err = { "" };
	char text[sizeof(err.text) + 8];

	setsid();
	for (int fd = 0; fd <= 2; fd++)
		dup2(fd && log >= 0 ? log : null, fd);
	if (launch(r, options, rootfs, &status, &err) && r->answer >= 0) {
		int size = snprintf(text, sizeof(text), "%3d%s", status, err.text);

		if (write(r->answer, text, (size_t)size) != size)
			_exit(STATUS_ERROR);
	}
	_exit(status);
}

static int detach(struct run *r, const struct container_box *options, const char *rootfs, FILE *out, int *status,
		  struct error *err)
{
	char text[600] = "";
	size_t used = 0;
	ssize_t got;
	int ends[2], log = -1;

	if (r->box->log && (log = open(r->box->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
		return error_errno(err, -errno, "--log: can't open %.200s", r->box->log);
	if (pipe2(ends, O_CLOEXEC)) {
		if (log >= 0)
			close(log);
		return error_errno(err, -errno, "pipe");
	}
	fflush(out);
	pid_t pid = fork();

	if (!pid) {
		close(ends[0]);
		r->answer = ends[1];
		be_monitor(r, log, options, rootfs);
	}
	close(ends[1]);
	if (log >= 0)
		close(log);
	while (pid > 0 && used + 1 < sizeof(text) && text[0] != 'S' &&
	       (got = read(ends[0], text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)got;
	close(ends[0]);
	*status = 0;
	if (text[0] == 'S') {
		fprintf(out, "%s\n", r->name);
		return 0;
	}
	*status = STATUS_ERROR;
	if (used > 3 && sscanf(text, "%3d", status) == 1)
		return error_set(err, -EIO, "%s", text + 3);
	return error_set(err, -EIO, "the process that looks after the container ended");
}

/* What the host asks is what the container may ask where it has the host's network. */
static char *read_resolver(const struct box *box)
{
	char *text = NULL;
	size_t size;

	if (box->net == BOX_NET_USER)
		return strdup(NETWORK_RESOLVER);
	if (box->net == BOX_NET_HOST && !oci_file_read(AT_FDCWD, "/etc/resolv.conf", &text, &size, NULL))
		return text;
	return NULL;
}

static int make_plan(const struct box *box, const char *name, struct box_plan *plan, struct box_ids *ids,
		     struct box_identity *who, char path[PATH_MAX], struct error *err)
{
	struct stat st = { 0 };
	int rc = check_rootfs(box->rootfs, path, &st, err);

	if (!rc)
		rc = check_options(box, err);
	if (!rc)
		rc = box_choose_ids(box->users, name, st.st_uid, ids, err);
	if (!rc)
		rc = box_identify(path, box->user, who, err);
	if (!rc)
		rc = check_user(ids, who, err);
	if (!rc && box->keep)
		rc = make_kept(box->keep, err);
	if (!rc)
		warn_of_owner(box, &st, ids);
	*plan = (struct box_plan){ .box = box,
				   .rootfs = path,
				   .hostname = box->hostname ? box->hostname : name,
				   .ids = ids,
				   .identity = who,
				   .terminal = !box->detach && box->terminal,
				   .cgroups = !idmap_rootless() };
	return rc;
}

int box_run(const struct box *box, const char *root, FILE *out, int *status, struct error *err)
{
	struct run r = { .box = box, .root = root, .name = box->name, .keeper = -1, .answer = -1 };
	char name[64] = "", path[PATH_MAX];
	struct box_identity who;
	struct box_plan plan;
	struct box_ids ids;
	struct stat st;

	*status = STATUS_ERROR;
	int rc = check_root(root, err);

	if (!rc && !box->name)
		rc = check_rootfs(box->rootfs, path, &st, err);
	if (!rc && !box->name)
		rc = make_name(path, name, sizeof(name), err);
	r.name = box->name ? box->name : name;
	if (!rc && state_check_id(r.name, err))
		rc = error_prefix(err, -EINVAL, "--name");
	if (!rc)
		rc = make_plan(box, r.name, &plan, &ids, &who, path, err);
	if (rc)
		return rc;
	char *config = box_config(&plan, err), *resolver = read_resolver(box);
	const struct container_box options = { .config = config,
					       .overlay = !box->in_place,
					       .upper = box->keep,
					       .idmap = ids.idmap,
					       .init = !box->no_init,
					       .network = box->net == BOX_NET_USER,
					       .resolver = resolver,
					       .claimed = claimed,
					       .started = started,
					       .arg = &r };

	if (!config)
		rc = -EINVAL;
	else
		rc = box->detach ? detach(&r, &options, path, out, status, err)
				 : launch(&r, &options, path, status, err);
	free(config);
	free(resolver);
	return rc;
}

/* ---- containers that are there ---- */

int box_list(const char *root, bool json, FILE *out, struct error *err)
{
	DIR *dir = opendir(root);
	const struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			sweep(root, entry->d_name);
	if (dir)
		closedir(dir);
	return container_list(root, json ? LIST_JSON : LIST_TABLE, out, err);
}

/* Where a container's users are: its own root as it is now, or if this user may not look there, as it was. */
static int identify(const char *root, const char *name, const char *user, struct box_identity *who, struct error *err)
{
	struct state state;
	char path[64];
	int rc = state_load(&state, root, name, NULL, err);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "/proc/%d/root", state.pid);
	if (!state.pid || box_identify(path, user, who, err))
		rc = box_identify(state.rootfs, user, who, err);
	state_fini(&state);
	return rc;
}

int box_exec(const struct box_exec *exec, const char *root, int *status, struct error *err)
{
	struct box_identity who = { 0 };
	const char *env[BOX_LIST + 3], *groups[65] = { NULL }, *term = getenv("TERM");
	char user[32], home[300], numbers[64][12], term_text[128];
	size_t count = 0;
	int rc = exec->user ? identify(root, exec->name, exec->user, &who, err) : 0;

	*status = STATUS_ERROR;
	if (rc)
		return rc;
	snprintf(user, sizeof(user), "%u:%u", who.uid, who.gid);
	snprintf(home, sizeof(home), "HOME=%s", who.home[0] ? who.home : "/");
	snprintf(term_text, sizeof(term_text), "TERM=%.100s", term ? term : "");
	if (exec->user)
		env[count++] = home;
	if (exec->terminal && term)
		env[count++] = term_text;
	for (size_t i = 0; i < exec->env.count; i++)
		env[count++] = exec->env.words[i];
	env[count] = NULL;
	for (size_t i = 0; i < who.group_count; i++) {
		snprintf(numbers[i], sizeof(numbers[i]), "%u", who.groups[i]);
		groups[i] = numbers[i];
		groups[i + 1] = NULL;
	}
	const struct container_launch launch = { .root = root,
						 .id = exec->name,
						 .args = exec->args,
						 .cwd = exec->workdir,
						 .user = exec->user ? user : NULL,
						 .env = env,
						 .groups = groups,
						 .terminal = exec->terminal };

	rc = container_exec(&launch, status, err);
	return rc ? explain(NULL, rc, status, err) : 0;
}
