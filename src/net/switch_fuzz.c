/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer of a private network may send: any messages, in any order, and its going at any time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/net.h"
#include "net/offload.h"
#include "net/switch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool on_receive(void *ctx, unsigned queue, const struct net_packet *packet)
{
	bool *refuse = ctx;

	if (queue || !net_packet_check(packet))
		abort();
	void *copy = malloc(packet->size); /* of the very size, for the sanitizer */
	if (!copy)
		abort();
	net_packet_copy(packet, copy);
	free(copy);
	return !*refuse;
}

static void on_queue(void *ctx, unsigned queue)
{
	(void)ctx;
	(void)queue;
}

static void on_link(void *ctx, bool up)
{
	(void)ctx;
	(void)up;
}

static int intrude(const char *folder)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/card-%d-0", folder, (int)getpid());
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		abort();
	return fd;
}

static void turn(struct event_loop *loop)
{
	for (unsigned i = 0; i < 3; i++)
		event_loop_turn(loop, 0, NULL);
}

/* Each step: a byte that says what, a length, a message. */
static void run(struct event_loop *loop, struct net *net, const char *folder, bool *refuse, const uint8_t *data,
		size_t size)
{
	int peer[2] = { intrude(folder), intrude(folder) };

	for (unsigned steps = 0; size >= 2 && steps < 100; steps++) {
		unsigned what = data[0], n = data[1], which = what >> 7;
		data += 2;
		size -= 2;
		if (n > size)
			n = (unsigned)size;
		struct iovec iov = { (void *)(uintptr_t)data, n };
		struct net_packet packet = { .iov = &iov, .iovs = 1, .size = n };
		switch (what & 7) {
		case 0:
			send(peer[which], SWITCH_HELLO, SWITCH_HELLO_SIZE, MSG_NOSIGNAL);
			break;
		case 1:
			close(peer[which]);
			peer[which] = intrude(folder);
			break;
		case 2:
			*refuse = n & 1;
			net_resume(net, 0);
			break;
		case 3:
			if (net_packet_check(&packet))
				net_send(net, 0, &packet);
			break;
		default:
			send(peer[which], data, n, MSG_NOSIGNAL);
			break;
		}
		data += n;
		size -= n;
		if (what & 0x40)
			turn(loop);
	}
	turn(loop);
	close(peer[0]);
	close(peer[1]);
	turn(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char folder[] = "/tmp/plures-fuzz-XXXXXX", text[64];
	bool refuse = false;
	struct net_card card = {
		.receive = on_receive, .received = on_queue, .writable = on_queue, .link = on_link, .ctx = &refuse
	};
	struct event_loop *loop;
	struct net *net;
	struct error err;

	if (!mkdtemp(folder) || event_loop_create(&loop, &err))
		abort();
	snprintf(text, sizeof(text), "switch,path=%s", folder);
	if (net_open(&net, text, loop, &card, &err))
		abort();
	net_run(net, 1);
	run(loop, net, folder, &refuse, data, size);
	net_close(net);
	event_loop_destroy(loop);
	snprintf(text, sizeof(text), "%s/lock", folder);
	unlink(text);
	if (rmdir(folder))
		abort();
	return 0;
}
