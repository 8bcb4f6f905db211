/* SPDX-License-Identifier: Apache-2.0 */
/* Cards of a private network, in one process: who gets what, and what becomes of those that leave, stop or lie. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/net_testlib.h"
#include "net/offload.h"
#include "net/switch.h"

enum { CARDS = 4 };

struct card {
	struct net *net;
	unsigned packets, batches, writable, warnings;
	bool refuse;
	uint8_t last[NET_FRAME_MAX];
	struct net_header header;
	size_t size;
};

struct test {
	struct event_loop *loop;
	char folder[64];
	struct card card[CARDS];
};

static bool on_receive(void *ctx, unsigned queue, const struct net_packet *packet)
{
	struct card *card = ctx;

	assert_int_equal(queue, 0);
	if (card->refuse)
		return false;
	assert_true(net_packet_check(packet));
	net_packet_copy(packet, card->last);
	card->header = packet->header;
	card->size = packet->size;
	card->packets++;
	return true;
}

static void on_received(void *ctx, unsigned queue)
{
	(void)queue;
	((struct card *)ctx)->batches++;
}

static void on_writable(void *ctx, unsigned queue)
{
	(void)queue;
	((struct card *)ctx)->writable++;
}

static void on_link(void *ctx, bool up)
{
	(void)ctx;
	assert_true(up);
}

static void on_warn(void *ctx, const char *what)
{
	assert_non_null(strstr(what, "--name"));
	((struct card *)ctx)->warnings++;
}

static void settle(struct test *t)
{
	for (unsigned i = 0; i < 20; i++)
		event_loop_turn(t->loop, 0, NULL);
}

static void join(struct test *t, unsigned i)
{
	char options[128];
	struct error err;
	struct net_card card = { .receive = on_receive,
				 .received = on_received,
				 .writable = on_writable,
				 .link = on_link,
				 .warn = on_warn,
				 .ctx = &t->card[i] };

	snprintf(options, sizeof(options), "switch,path=%s", t->folder);
	if (net_open(&t->card[i].net, options, t->loop, &card, &err))
		fail_msg("%s", err.text);
	net_run(t->card[i].net, 1);
	settle(t);
}

static void leave(struct test *t, unsigned i)
{
	net_close(t->card[i].net);
	t->card[i].net = NULL;
	settle(t);
}

static void begin(struct test *t, unsigned cards)
{
	struct error err;

	memset(t, 0, sizeof(*t));
	strcpy(t->folder, "/tmp/plures-switch-XXXXXX");
	assert_non_null(mkdtemp(t->folder));
	assert_int_equal(event_loop_create(&t->loop, &err), 0);
	for (unsigned i = 0; i < cards; i++)
		join(t, i);
}

static unsigned sockets_in(const struct test *t)
{
	DIR *dir = opendir(t->folder);
	unsigned n = 0;

	assert_non_null(dir);
	for (struct dirent *e; (e = readdir(dir));)
		n += !strncmp(e->d_name, "card-", 5);
	closedir(dir);
	return n;
}

static void end(struct test *t)
{
	char lock[128];

	for (unsigned i = 0; i < CARDS; i++)
		net_close(t->card[i].net);
	event_loop_destroy(t->loop);
	assert_int_equal(sockets_in(t), 0);
	snprintf(lock, sizeof(lock), "%s/lock", t->folder);
	unlink(lock);
	assert_int_equal(rmdir(t->folder), 0);
}

static bool send_from(struct test *t, unsigned from, unsigned to_mac, size_t size)
{
	static uint8_t frame[NET_FRAME_MAX];
	struct iovec iov[2] = { { frame, 7 }, { frame + 7, size - 7 } };
	struct net_packet packet = { .iov = iov, .iovs = 2, .size = size };

	memset(frame, to_mac == 0xff ? 0xff : 0, 6);
	if (to_mac != 0xff)
		frame[0] = 2;
	frame[5] = (uint8_t)to_mac;
	memcpy(frame + 6, (const uint8_t[]){ 2, 0, 0, 0, 0, (uint8_t)from }, 6);
	memset(frame + 12, (int)(from + 1), size - 12);
	bool sent = net_send(t->card[from].net, 0, &packet);
	net_sent(t->card[from].net, 0);
	settle(t);
	return sent;
}

static void expect(struct test *t, unsigned a, unsigned b, unsigned c, unsigned d)
{
	const unsigned want[CARDS] = { a, b, c, d };

	for (unsigned i = 0; i < CARDS; i++) {
		assert_int_equal(t->card[i].packets, want[i]);
		t->card[i].packets = 0;
	}
}

static struct test test;

static void test_switching(void **state)
{
	struct test *t = &test;
	(void)state;
	begin(t, 4);
	assert_int_equal(sockets_in(t), 4);
	assert_true(send_from(t, 0, 0xff, 60)); /* to all */
	expect(t, 0, 1, 1, 1);
	assert_true(send_from(t, 1, 3, 60)); /* to one that is not known yet: to all */
	expect(t, 1, 0, 1, 1);
	assert_true(send_from(t, 2, 1, 1000)); /* known since then */
	expect(t, 0, 1, 0, 0);
	assert_int_equal(t->card[1].size, 1000);
	assert_int_equal(t->card[1].last[999], 3);
	assert_true(send_from(t, 1, 2, 60));
	expect(t, 0, 0, 1, 0);
	/* The first to have come goes, and nobody else notices; another comes. */
	leave(t, 0);
	assert_true(send_from(t, 1, 2, 60));
	assert_true(send_from(t, 1, 0, 60)); /* its address is forgotten */
	expect(t, 0, 0, 2, 1);
	join(t, 0);
	assert_true(send_from(t, 0, 0xff, 60));
	expect(t, 0, 1, 1, 1);
	assert_true(send_from(t, 2, 0, 60));
	expect(t, 1, 0, 0, 0);
	/* The largest there is, with its header. */
	assert_true(send_from(t, 2, 0, NET_FRAME_MAX));
	assert_int_equal(t->card[0].size, NET_FRAME_MAX);
	end(t);
}

static void test_offloads(void **state)
{
	static struct test_tcp tcp;
	struct test *t = &test;
	(void)state;
	begin(t, 2);
	tcp.payload = 40000;
	size_t size = test_tcp_make(&tcp);
	struct iovec iov = { tcp.frame, size };
	struct net_packet packet = { .header = tcp.header, .iov = &iov, .iovs = 1, .size = size };
	assert_true(net_send(t->card[0].net, 0, &packet));
	settle(t);
	assert_int_equal(t->card[1].size, size);
	assert_memory_equal(&t->card[1].header, &tcp.header, NET_HEADER_SIZE);
	assert_memory_equal(t->card[1].last, tcp.frame, size);
	end(t);
}

static void test_pressure(void **state)
{
	struct test *t = &test;
	unsigned sent = 0;
	(void)state;
	begin(t, 3);
	send_from(t, 1, 0xff, 60);
	send_from(t, 2, 0xff, 60);
	expect(t, 2, 1, 1, 0);
	t->card[1].refuse = true;
	while (send_from(t, 0, 1, 30000)) /* until the way is full */
		assert_true(++sent < 1000);
	assert_true(send_from(t, 0, 2, 60)); /* to others it is not */
	expect(t, 0, 0, 1, 0);
	/* The one that was slow gets all of it, and the sender goes on. */
	t->card[0].writable = 0;
	t->card[1].refuse = false;
	net_resume(t->card[1].net, 0);
	settle(t);
	assert_int_equal(t->card[1].packets, sent);
	assert_true(t->card[0].writable >= 1);
	assert_true(send_from(t, 0, 1, 30000));
	/* One that takes nothing for long holds nobody up. */
	t->card[1].refuse = true;
	while (send_from(t, 0, 1, 30000))
		;
	t->card[0].writable = 0;
	usleep(150000);
	settle(t);
	assert_int_equal(t->card[0].writable, 1);
	for (unsigned i = 0; i < 100; i++)
		assert_true(send_from(t, 0, 1, 30000));
	/* And nobody waits for one that goes. */
	leave(t, 1);
	assert_true(send_from(t, 0, 2, 60));
	end(t);
}

/* ---- who is no card ---- */

static int intrude(const struct test *t)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/card-%d-0", t->folder, (int)getpid());
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static bool is_closed(struct test *t, int fd)
{
	char buffer[256];
	ssize_t n;

	settle(t);
	while ((n = recv(fd, buffer, sizeof(buffer), 0)) > 0)
		;
	return !n;
}

static void test_hostile_peers(void **state)
{
	struct test *t = &test;
	char message[100] = SWITCH_HELLO;
	static char large[NET_FRAME_MAX + 100];
	(void)state;
	begin(t, 1);
	/* No hello, half of one, another version. */
	static const char *const wrong[] = { "hello", "plures switch 1", "plures switch 2\n", "plures switch 1\n\n" };
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		int fd = intrude(t);
		assert_int_equal(send(fd, wrong[i], strlen(wrong[i]), 0), strlen(wrong[i]));
		assert_true(is_closed(t, fd));
		close(fd);
	}
	/* One that is polite at first: packets that are none are dropped, a message that is too long ends it. */
	int fd = intrude(t);
	assert_int_equal(send(fd, message, SWITCH_HELLO_SIZE, 0), SWITCH_HELLO_SIZE);
	memset(message, 0xff, sizeof(message));
	for (unsigned size = 1; size < sizeof(message); size++)
		assert_int_equal(send(fd, message, size, 0), size);
	assert_false(is_closed(t, fd));
	assert_int_equal(t->card[0].packets, 0);
	memset(message, 0, sizeof(message));
	assert_int_equal(send(fd, message, sizeof(message), 0), sizeof(message));
	settle(t);
	assert_int_equal(t->card[0].packets, 1);
	assert_int_equal(send(fd, large, sizeof(large), 0), sizeof(large));
	assert_true(is_closed(t, fd));
	close(fd);
	/* More than there is room for. */
	int many[80];
	for (unsigned i = 0; i < 80; i++) {
		many[i] = intrude(t);
		settle(t);
	}
	assert_true(is_closed(t, many[79]));
	assert_false(is_closed(t, many[0]));
	for (unsigned i = 0; i < 80; i++)
		close(many[i]);
	settle(t);
	join(t, 1);
	send_from(t, 1, 0xff, 60);
	assert_int_equal(t->card[0].packets, 2);
	end(t);
}

static void test_same_address(void **state)
{
	struct test *t = &test;
	(void)state;
	begin(t, 3);
	send_from(t, 0, 0xff, 60);
	send_from(t, 1, 0xff, 60);
	uint8_t frame[60] = { 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 0 }; /* from 1, with 0's address */
	struct iovec iov = { frame, sizeof(frame) };
	struct net_packet packet = { .iov = &iov, .iovs = 1, .size = sizeof(frame) };
	for (unsigned i = 0; i < 3; i++) {
		net_send(t->card[1].net, 0, &packet);
		settle(t);
	}
	assert_int_equal(t->card[0].warnings, 1);
	end(t);
}

/* ---- the folder ---- */

static int try_open(struct test *t, const char *options, struct error *err)
{
	struct net_card card = {
		.receive = on_receive, .received = on_received, .writable = on_writable, .link = on_link
	};
	struct net *net;
	int rc = net_open(&net, options, t->loop, &card, err);

	net_close(net);
	return rc;
}

static void test_folders(void **state)
{
	struct test *t = &test;
	struct error err;
	char text[256], path[128];
	(void)state;
	begin(t, 1);
	/* What a dead one left goes; what is no socket stays, and is nobody. */
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/card-1-0", t->folder);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	snprintf(path, sizeof(path), "%s/notes", t->folder);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	join(t, 1);
	assert_int_equal(sockets_in(t), 2);
	assert_int_equal(unlink(path), 0);
	/* Open to others. */
	chmod(t->folder, 0750);
	snprintf(text, sizeof(text), "switch,path=%s", t->folder);
	assert_int_equal(try_open(t, text, &err), -1);
	assert_non_null(strstr(err.text, "open to other users"));
	chmod(t->folder, 0700);
	assert_int_equal(try_open(t, "switch,path=/etc/passwd", &err), -20);
	assert_int_equal(try_open(t, "switch,path=/nowhere/at/all", &err), -2);
	memset(text, 'x', sizeof(text));
	memcpy(text, "switch,path=/tmp/", 17);
	text[150] = '\0';
	assert_int_equal(try_open(t, text, &err), -36);
	assert_int_equal(net_check("switch,name=a,path=b", &err), -22);
	assert_int_equal(net_check("switch,name=a/b", &err), -22);
	assert_int_equal(net_check("switch,name=..", &err), -22);
	assert_int_equal(net_check("switch,name=lab", &err), 0);
	/* By name, below the user's runtime directory. */
	setenv("XDG_RUNTIME_DIR", t->folder, 1);
	assert_int_equal(try_open(t, "switch,name=lab", &err), 0);
	snprintf(path, sizeof(path), "%s/plures/switch-lab/lock", t->folder);
	assert_int_equal(unlink(path), 0);
	*strrchr(path, '/') = '\0';
	assert_int_equal(rmdir(path), 0);
	*strrchr(path, '/') = '\0';
	assert_int_equal(rmdir(path), 0);
	end(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_switching),    cmocka_unit_test(test_offloads),
		cmocka_unit_test(test_pressure),     cmocka_unit_test(test_hostile_peers),
		cmocka_unit_test(test_same_address), cmocka_unit_test(test_folders),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
