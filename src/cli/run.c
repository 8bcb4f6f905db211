/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - `plures run`: a machine on this terminal. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/memory.h"
#include "base/size.h"
#include "cli/cli.h"
#include "host/tty.h"
#include "vm/vm.h"

extern const struct cli_verb verb_run;

struct options {
	struct vm_config config;
	bool reboot;
	bool rng;
	char *ports; /* of --console-port and --guest-agent, one a line; or NULL */
	bool verbose;
	struct {
		const char *engine;
		uint64_t after; /* ns since the machine was made or moved */
	} move[VM_MOVES_MAX];
	unsigned moves;
};

/* ENGINE[,MS] */
static int add_move(void *options, const char *value, struct error *err)
{
	struct options *o = options;
	const char *comma = strchr(value, ',');
	size_t size = comma ? (size_t)(comma - value) : strlen(value);
	uint64_t ms = 1000;
	int rc = comma ? number_parse(comma + 1, "MILLISECONDS", 0, 1000000000, &ms, err) : 0;

	if (rc)
		return rc;
	if (o->moves == VM_MOVES_MAX)
		return error_set(err, -EINVAL, "a machine moves %d times at most", VM_MOVES_MAX);
	for (unsigned i = 0; engines[i]; i++)
		if (strlen(engines[i]->name) == size && !memcmp(engines[i]->name, value, size)) {
			o->move[o->moves].engine = engines[i]->name;
			o->move[o->moves++].after = ms * 1000000 + 1;
			return 0;
		}
	return error_set(err, -EINVAL, "no engine is called '%.*s'", (int)(size < 40 ? size : 40), value);
}

static int set_trace(void *options, const char *value, struct error *err)
{
	struct options *o = options;

	return vm_trace_parse(value, &o->config.trace, err);
}

static int add_device(void *options, const char *kind, const char *value, struct error *err)
{
	struct options *o = options;

	return vm_config_add_device(&o->config, kind, value, err);
}

static int add_balloon(void *options, const char *value, struct error *err)
{
	return add_device(options, "balloon", value, err);
}

static int add_share(void *options, const char *value, struct error *err)
{
	return add_device(options, "share", value, err);
}

static int add_vhost_user(void *options, const char *value, struct error *err)
{
	return add_device(options, "vhost_user", value, err);
}

static int add_disk(void *options, const char *value, struct error *err)
{
	return add_device(options, "blk", value, err);
}

static int add_net(void *options, const char *value, struct error *err)
{
	return add_device(options, "net", value, err);
}

static int add_vsock(void *options, const char *value, struct error *err)
{
	return add_device(options, "vsock", value, err);
}

/* Ports are all of one device, which takes them one a line. */
static int add_port(struct options *o, const char *before, const char *value)
{
	size_t size = o->ports ? strlen(o->ports) : 0;

	o->ports = memory_resize(o->ports, size + strlen(before) + strlen(value) + 2, 1);
	sprintf(o->ports + size, "%s%s%s", size ? "\n" : "", before, value);
	return 0;
}

static int add_console_port(void *options, const char *value, struct error *err)
{
	(void)err; /* said when all are known */
	return add_port(options, "", value);
}

static int add_guest_agent(void *options, const char *value, struct error *err)
{
	(void)err;
	return add_port(options, "name=org.qemu.guest_agent.0,socket=", value);
}

/* ---- signals ---- */

/* A thread that waits for the signals which end a machine, or begin a profile anew. They are blocked everywhere else. */
struct watcher {
	pthread_t thread;
	sigset_t set;
	atomic_bool done;
	struct vm *vm;
};

static void *watch(void *arg)
{
	struct watcher *w = arg;
	char reason[64];
	int number;

	while (!sigwait(&w->set, &number) && !atomic_load(&w->done)) {
		if (number == SIGUSR1) {
			vm_profile_anew(w->vm);
			continue;
		}
		snprintf(reason, sizeof(reason), "ended by SIG%s", sigabbrev_np(number));
		vm_kill(w->vm, reason);
	}
	return NULL;
}

static void block_signals(sigset_t *set, bool profile)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGQUIT);
	if (profile)
		sigaddset(set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, set, NULL);
}

static int start_watcher(struct watcher *w, struct vm *vm)
{
	w->vm = vm;
	atomic_init(&w->done, false);
	return pthread_create(&w->thread, NULL, watch, w);
}

static void stop_watcher(struct watcher *w)
{
	atomic_store(&w->done, true);
	pthread_kill(w->thread, SIGINT); /* it waits for that, like for the others, and looks at `done` */
	pthread_join(w->thread, NULL);
}

/* ---- the machine ---- */

static int report(const struct vm_result *result)
{
	switch (result->end) {
	case VM_POWER_OFF:
	case VM_RESET:
	case VM_LEFT:
	case VM_STOPPED:
		return CLI_OK;
	case VM_DEBUG_EXIT:
		return (int)(result->code & 0xff);
	case VM_KILLED:
		return cli_fail(CLI_KILLED, "the machine was stopped: %s", result->reason);
	case VM_ERROR:
		return cli_fail(CLI_ERROR, "%s", result->reason);
	}
	return CLI_ERROR;
}

static void say_what(const struct options *o, const struct vm *vm)
{
	char size[32];

	fprintf(stderr, "plures: %s of memory, %u CPU%s, engine %s%s\n",
		size_format(o->config.memory, size, sizeof(size)), o->config.cpus, o->config.cpus == 1 ? "" : "s",
		vm_engine_name(vm), o->config.console_escape ? "; Ctrl-] leaves" : "");
	fprintf(stderr, "plures: engine %s: %s\n", vm_engine_name(vm), vm_engine_why(vm));
}

/* Runs a machine until it ends or is to move. */
static int run_watched(const struct options *o, struct vm *vm, struct watcher *watcher, struct vm_result *result)
{
	struct error err;
	bool terminal = o->config.console_escape;

	int r = start_watcher(watcher, vm);
	if (r)
		return cli_fail(CLI_ERROR, "can't start a thread: %s", strerror(r));
	if (o->verbose)
		say_what(o, vm);
	if (terminal && tty_raw(o->config.console_in, &err)) {
		stop_watcher(watcher);
		return cli_fail(CLI_ERROR, "%s", err.text);
	}
	vm_run(vm, result);
	tty_restore();
	stop_watcher(watcher);
	if (terminal)
		fputc('\n', stderr);
	return CLI_OK;
}

/* The same for a machine that others can find. */
static int run_once(const struct options *o, struct vm *vm, struct watcher *watcher, struct vm_result *result)
{
	struct error err = { "" };
	struct api *api;
	int rc = api_create(&api, vm, o->config.name, &err);

	if (rc == -EINVAL)
		return cli_usage(&verb_run, &err);
	if (rc && o->config.name) /* else nobody has asked for it: there may be no place to put it */
		return cli_fail(CLI_ERROR, "%s", err.text);
	int status = run_watched(o, vm, watcher, result);
	api_destroy(api);
	return status;
}

/* Has a machine that has stopped go on, on the engine of its next move: in another machine, or, where it has devices whose
 * other end can't be left, in this one. *vm may be NULL when that fails. */
static int move(struct options *o, struct vm **vm, unsigned n)
{
	struct vm_saved *saved;
	struct error err;

	o->config.engine = o->move[n].engine;
	o->config.stop_after = n + 1 < o->moves ? o->move[n + 1].after : 0;
	int rc = vm_save(*vm, &saved, &err);
	if (rc == -ENOTSUP) {
		rc = vm_change_engine(*vm, o->config.engine, o->config.stop_after, &err);
	} else {
		vm_destroy(*vm);
		*vm = NULL;
		if (!rc)
			rc = vm_restore(vm, &o->config, saved, &err);
	}
	return rc ? cli_fail(CLI_ERROR, "moving the machine to engine %s: %s", o->move[n].engine, err.text) : CLI_OK;
}

static int run_machine(struct options *o, struct vm **vm, struct watcher *watcher)
{
	struct vm_result result = { .end = VM_ERROR };
	int status = run_once(o, *vm, watcher, &result);

	for (unsigned n = 0; !status && result.end == VM_STOPPED; n++) {
		status = move(o, vm, n);
		if (!status)
			status = run_once(o, *vm, watcher, &result);
	}
	return status ? status : report(&result);
}

static bool is_closed(int fd)
{
	return fcntl(fd, F_GETFL) & O_PATH; /* see command.c */
}

/* A closed stdout is found out now and not when the guest first speaks. */
static int attach_console(struct options *o)
{
	if (is_closed(STDOUT_FILENO))
		return cli_fail(CLI_ERROR, "standard output is closed, and the guest's console goes there: "
					   "redirect it to a file or /dev/null");
	o->config.console_out = STDOUT_FILENO;
	if (!is_closed(STDIN_FILENO))
		o->config.console_in = STDIN_FILENO;
	o->config.console_escape = isatty(STDIN_FILENO);
	return CLI_OK;
}

/* A terminal in raw mode wants its carriage returns. */
static void warn(void *ctx, const char *what)
{
	const struct options *o = ctx;

	fprintf(stderr, "plures: warning: %s%s\n", what, o->config.console_escape ? "\r" : "");
}

/* A machine that moves shows its guest what all of its engines can carry. */
static int check_moves(struct options *o, struct error *err)
{
	const struct engine_ops *first = engine_find(o->config.engine);
	unsigned n = 0;

	if (!o->moves)
		return 0;
	if (!first)
		return error_set(err, -EINVAL, "--move-to needs an --engine to move from");
	o->config.movable[n++] = first;
	for (unsigned i = 0; i < o->moves; i++)
		o->config.movable[n++] = engine_find(o->move[i].engine);
	o->config.stop_after = o->move[0].after;
	return 0;
}

/* What the options together come to. */
static int check_options(struct options *o, struct error *err)
{
	int rc = 0;

	o->config.no_reboot = !o->reboot;
	o->config.warn = warn;
	o->config.warn_ctx = o;
	if (o->rng)
		rc = add_device(o, "rng", "", err);
	if (!rc && o->ports) {
		rc = add_device(o, "console", o->ports, err);
		if (rc)
			error_prefix(err, rc, "--console-port");
	}
	if (!rc)
		rc = vm_config_check(&o->config, err);
	return rc ? rc : check_moves(o, err);
}

static int run_options(struct options *o)
{
	struct watcher watcher;
	struct error err = { "" };
	struct vm *vm;
	int rc = check_options(o, &err);

	if (rc == -EINVAL)
		return cli_usage(&verb_run, &err);
	if (rc)
		return cli_fail(CLI_ERROR, "%s", err.text);
	int status = attach_console(o);
	if (status)
		return status;

	block_signals(&watcher.set, o->config.profile);
	if (vm_create(&vm, &o->config, &err))
		return cli_fail(CLI_ERROR, "%s", err.text);
	status = run_machine(o, &vm, &watcher);
	vm_destroy(vm);
	return status;
}

static int run(int argc, char **argv)
{
	struct options o = { .reboot = true };
	struct error err = { "" };
	int status;

	vm_config_init(&o.config);
	int rc = cli_parse(&verb_run, argc, argv, &o, &err);
	if (rc == CLI_HELP) {
		cli_verb_help(&verb_run, stdout);
		status = cli_flush();
	} else {
		status = rc ? cli_usage(&verb_run, &err) : run_options(&o);
	}
	free(o.ports);
	return status;
}

/* ---- the table ---- */

#define CONFIG(field) offsetof(struct options, config.field)

static const struct cli_option options[] = {
	{ .name = "kernel",
	  .kind = CLI_STRING,
	  .offset = CONFIG(kernel),
	  .value = "FILE",
	  .help = "The kernel: a Linux bzImage, an ELF file with a PVH note, or a multiboot 1 ELF file. Needed." },
	{ .name = "initrd",
	  .kind = CLI_STRING,
	  .offset = CONFIG(initrd),
	  .value = "FILE",
	  .help = "The initial RAM disk." },
	{ .name = "append",
	  .kind = CLI_STRING,
	  .offset = CONFIG(append),
	  .value = "TEXT",
	  .help = "The kernel's command line. console=ttyS0 makes a Linux kernel talk to the terminal." },
	{ .name = "memory",
	  .letter = 'm',
	  .kind = CLI_SIZE,
	  .offset = CONFIG(memory),
	  .value = "SIZE",
	  .help =
	      "The guest's memory, with K, M or G after the number; 512M unless given. The host gives a page when the "
	      "guest first touches it." },
	{ .name = "cpus",
	  .kind = CLI_NUMBER,
	  .offset = CONFIG(cpus),
	  .value = "N",
	  .help = "How many CPUs the guest has, 1 to 64; each is a thread. 1 unless given." },
	{ .name = "cpu",
	  .kind = CLI_STRING,
	  .offset = CONFIG(cpu),
	  .value = "MODEL[,+FEATURE|,-FEATURE]...",
	  .help = "What the guest's CPU can do: host (the same is max), all that this host and the engine have, which "
		  "is it unless given; or a level "
		  "of x86-64, x86-64-v1 to x86-64-v4. +FEATURE adds a feature and what it rests on, -FEATURE takes one "
		  "away and what rests on it. "
		  "Asking for what there is none of is an error. plures info lists what there is." },
	{ .name = "disk",
	  .kind = CLI_CALL,
	  .value = "FILE[,KEY=VALUE]...",
	  .call = add_disk,
	  .help =
	      "Adds a disk: an image in a file, or a block device. The first is /dev/vda in the guest, the next "
	      "/dev/vdb. "
	      "Keys: format=raw or qcow2, found out by looking unless given; readonly; serial=TEXT; cache=writeback "
	      "(the "
	      "host's page cache, unless given), none (around it) or unsafe (nothing is ever flushed); iops=N and "
	      "bps=SIZE "
	      "limit requests and bytes a second; queues=N, one for each CPU unless given; aio=threads does without "
	      "io_uring." },
	{ .name = "rng",
	  .kind = CLI_FLAG,
	  .offset = offsetof(struct options, rng),
	  .help = "Adds a source of entropy: a virtio device that gives the guest the host's random numbers." },
	{ .name = "balloon",
	  .kind = CLI_CALL,
	  .value = "SIZE[,KEY=VALUE]...",
	  .call = add_balloon,
	  .help =
	      "Adds a balloon, a virtio device by which the guest gives memory back to the host: SIZE at once (0 for "
	      "none), and by itself what it has no use for (unless reporting=off). With deflate-on-oom=off it keeps "
	      "what it took even when the guest runs out; stats=N asks for statistics each N seconds." },
	{ .name = "share",
	  .kind = CLI_CALL,
	  .value = "DIR:TAG[,readonly]",
	  .call = add_share,
	  .help =
	      "Shares a folder of the host's with the guest, which mounts it with mount -t virtiofs TAG /WHERE. Needs "
	      "virtiofsd (Debian: qemu-system-common), which is started for it. May be given several times." },
	{ .name = "vhost-user",
	  .kind = CLI_CALL,
	  .value = "TYPE,socket=PATH[,KEY=VALUE]...",
	  .call = add_vhost_user,
	  .help =
	      "Adds a device that another program serves, which listens at the Unix socket PATH: a disk (blk; "
	      "queues=N), "
	      "a network card (net; mac=ADDRESS) or a file system (fs; tag=NAME, by which the guest mounts it). May be "
	      "given several times." },
	{ .name = "net",
	  .kind = CLI_CALL,
	  .value = "TYPE[,KEY=VALUE]...",
	  .call = add_net,
	  .help =
	      "Adds a network card. TYPE user gives the guest the host's network without any privilege: an address by "
	      "DHCP, the host's name server, the host itself at 10.0.2.2; forward=tcp:[ADDRESS:]PORT:GUESTPORT (or "
	      "udp:...), as often as wanted, lets the host's programs connect to the guest; restrict keeps the guest "
	      "from reaching anything by itself. TYPE tap is an interface of the host's, name=tap0 with queues=N pairs "
	      "of queues. TYPE switch is a private network of the user's own machines, one for each name=. TYPE none "
	      "is a card without a cable. mac=, mtu= and bps=SIZE (bytes a second each way) work "
	      "with each. May be given several times." },
	{ .name = "vsock",
	  .kind = CLI_CALL,
	  .value = "cid=N,path=PATH",
	  .call = add_vsock,
	  .help = "Adds sockets between the guest, whose number is N (3 or more), and the host, whose number is 2. A "
		  "client "
		  "that connects to the Unix socket PATH and writes \"CONNECT port\" reaches that port of the guest; "
		  "what the "
		  "guest connects to at a port of the host is who listens at PATH_port." },
	{ .name = "console-port",
	  .kind = CLI_CALL,
	  .value = "PATH[,name=NAME][,console]",
	  .call = add_console_port,
	  .help =
	      "Adds a channel between the guest and the Unix socket PATH, where one client at a time can connect: in "
	      "the guest it is /dev/virtio-ports/NAME or, with console, one of /dev/hvc0 and so on. May be given "
	      "several "
	      "times." },
	{ .name = "guest-agent",
	  .kind = CLI_CALL,
	  .value = "PATH",
	  .call = add_guest_agent,
	  .help = "Adds the channel that qemu-guest-agent in the guest listens to, as --console-port "
		  "PATH,name=org.qemu.guest_agent.0." },
	{ .name = "name",
	  .kind = CLI_STRING,
	  .offset = CONFIG(name),
	  .value = "NAME",
	  .help = "What the machine is called, by which other verbs find it. Its network cards' addresses are made of "
		  "it; without it, of its first "
		  "disk or "
		  "its kernel." },
	{ .name = "engine",
	  .kind = CLI_STRING,
	  .offset = CONFIG(engine),
	  .value = "NAME",
	  .help = "What executes the guest: kvm, soft, or auto, the first of these that works when it is tried (plures "
		  "info tells)." },
	{ .name = "engine-options",
	  .kind = CLI_STRING,
	  .offset = CONFIG(engine_options),
	  .value = "LIST",
	  .help = "Settings of the engine's own, with commas between; for kvm: halt-poll=MICROSECONDS, slow; for soft, "
		  "what to "
		  "translate without, should it be suspected: no-groups, no-interleave, no-loops, no-revive, no-slots, "
		  "no-traces, "
		  "no-guesses, no-rename, "
		  "one-insn; or "
		  "in another "
		  "way: all-hot, "
		  "small-cache, perf-map." },
	{ .name = "soft-opt",
	  .kind = CLI_STRING,
	  .offset = CONFIG(engine_options),
	  .value = "LIST",
	  .help = "The same as --engine-options." },
	{ .name = "move-to",
	  .kind = CLI_CALL,
	  .value = "ENGINE[,MILLISECONDS]",
	  .call = add_move,
	  .help =
	      "Stops the machine so long after its start or its last move, 1000 unless given, and lets it go on with "
	      "all of its state on that engine. May be given several times. Its disks, networks and sockets stay "
	      "connected. To test engines with." },
	{ .name = "debug-exit",
	  .kind = CLI_FLAG,
	  .offset = CONFIG(debug_exit),
	  .help =
	      "Adds the I/O port 0xf4: a guest that writes V there ends the machine with exit status (V << 1) | 1." },
	{ .name = "reboot",
	  .kind = CLI_FLAG,
	  .default_on = true,
	  .offset = offsetof(struct options, reboot),
	  .help = "Ends the machine with status 0 when the guest resets it, instead of booting again." },
	{ .name = "trace",
	  .kind = CLI_CALL,
	  .value = "WHAT[,WHAT]...",
	  .call = set_trace,
	  .help = "Writes a line for each event: asm (code when it is translated, disassembled), int (exceptions and "
		  "interrupts), exec (each block entered; slow), pio (port I/O), mmio (memory-mapped I/O)." },
	{ .name = "trace-file",
	  .kind = CLI_STRING,
	  .offset = CONFIG(trace_file),
	  .value = "FILE",
	  .help = "Where the trace goes; standard error unless given." },
	{ .name = "profile",
	  .kind = CLI_STRING,
	  .offset = CONFIG(profile),
	  .value = "FILE",
	  .help = "Writes at the machine's end what took its time: the guest's hottest code, and the engine's own "
		  "work. As JSON "
		  "if FILE ends in .json. SIGUSR1 makes it begin anew. For the engine soft." },
	{ .name = "profile-symbols",
	  .kind = CLI_STRING,
	  .offset = CONFIG(profile_symbols),
	  .value = "FILE",
	  .help =
	      "Names in the profile what FILE, in the format of System.map, /proc/kallsyms or nm, has symbols for." },
	{ .name = "verbose",
	  .letter = 'v',
	  .kind = CLI_FLAG,
	  .offset = offsetof(struct options, verbose),
	  .help = "Says on standard error what machine it is and why it has that engine." },
	{ .name = NULL },
};

const struct cli_verb verb_run = {
	.name = "run",
	.summary = "create a machine, boot a kernel in it, and be its console",
	.synopsis = "--kernel FILE [OPTION]...",
	.description =
	    "Creates a machine, loads a kernel into it and runs it until the guest powers off. The guest's first "
	    "serial port is the terminal, in raw mode: all keys are the guest's but Ctrl-], which ends the "
	    "machine. Where standard input is not a terminal, it is fed to the guest as fast as the guest takes "
	    "it, and its end is not the machine's.",
	.notes = "\nEXIT STATUS\n"
		 "       0    The guest powered off, reset under --no-reboot, or was left with\n"
		 "            Ctrl-].\n"
		 "       1    An error of the host, or in a file.\n"
		 "       2    Wrong usage.\n"
		 "       3    The guest was stopped: a triple fault, or a signal. The reason is\n"
		 "            printed.\n"
		 "\nEXAMPLE\n"
		 "       plures run --kernel /boot/vmlinuz --initrd initrd.img \\\n"
		 "           --append console=ttyS0 --memory 1G --cpus 2\n",
	.options = options,
	.run = run,
};
