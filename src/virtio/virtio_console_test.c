/* SPDX-License-Identifier: Apache-2.0 */
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

#include "base/bytes.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"

enum { MULTIPORT = 1, CONTROL_BUFFERS = TEST_BUFFERS, OUT = TEST_BUFFERS + 0x10000, IN = TEST_BUFFERS + 0x20000 };

struct test {
	struct test_guest g;
	char dir[32], path[2][64];
};

static void make(struct test *t)
{
	char options[256];
	struct virtio *v;
	struct error err;

	strcpy(t->dir, "/tmp/plures-port-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	for (unsigned i = 0; i < 2; i++)
		snprintf(t->path[i], sizeof(t->path[i]), "%s/%u", t->dir, i);
	snprintf(options, sizeof(options), "%s,console\n%s,name=org.test", t->path[0], t->path[1]);
	test_guest_init(&t->g);
	if (virtio_console_create(&v, &t->g.env, options, &err))
		fail_msg("%s", err.text);
	test_guest_plug(&t->g, v);
}

static void end(struct test *t)
{
	test_guest_fini(&t->g);
	assert_int_equal(rmdir(t->dir), 0); /* the sockets are gone */
}

static void control(struct test *t, uint32_t id, uint16_t event, uint16_t value)
{
	uint8_t *m = t->g.ram + OUT;

	bytes_put_le32(m, id);
	bytes_put_le16(m + 4, event);
	bytes_put_le16(m + 6, value);
	test_send(&t->g, 3, OUT, 8, 0, 0);
	test_guest_settle(&t->g);
}

/* Gives `n` buffers to the control queue. */
static void control_buffers(struct test *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		test_send(&t->g, 2, 0, 0, CONTROL_BUFFERS + (t->g.next_desc[2] % TEST_QUEUE_SIZE) * 64, 64);
	test_guest_settle(&t->g);
}

/* The next control message: its event, or -1. */
static int told(struct test *t, uint32_t *id, uint16_t *value, char *name)
{
	uint32_t head, len;

	if (!test_used(&t->g, 2, &head, &len))
		return -1;
	const uint8_t *m = t->g.ram + CONTROL_BUFFERS + head * 64;
	*id = bytes_le32(m);
	*value = bytes_le16(m + 6);
	memcpy(name, m + 8, len - 8);
	name[len - 8] = '\0';
	return bytes_le16(m + 4);
}

static void expect(struct test *t, int event, uint32_t id, uint16_t value, const char *name)
{
	uint32_t told_id = 0;
	uint16_t told_value = 0;
	char told_name[64] = "";

	assert_int_equal(told(t, &told_id, &told_value, told_name), event);
	assert_int_equal(told_id, id);
	assert_int_equal(told_value, value);
	assert_string_equal(told_name, name);
}

static void start(struct test *t)
{
	make(t);
	test_driver_start(&t->g, VIRTIO_BIT(MULTIPORT));
	control_buffers(t, 14);
	control(t, 0, 0, 1);
	expect(t, 1, 0, 1, "");
	expect(t, 1, 1, 1, "");
	control(t, 0, 3, 1);
	expect(t, 4, 0, 1, "");
	expect(t, 6, 0, 0, "");
	control(t, 1, 3, 1);
	expect(t, 7, 1, 1, "org.test");
	expect(t, 6, 1, 0, "");
}

static int client(struct test *t, unsigned port)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	strcpy(address.sun_path, t->path[port]);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	test_guest_settle(&t->g);
	return fd;
}

static void test_talk(void **state)
{
	struct test t;
	char buffer[64];
	(void)state;
	start(&t);
	assert_int_equal(test_reg_read(&t.g, VIRTIO_PCI_CONFIG + 4, 4), 2);
	int fd = client(&t, 1);
	expect(&t, 6, 1, 1, "");
	/* Not before the guest has it open, nor before there is a buffer. */
	assert_int_equal(write(fd, "hello", 5), 5);
	test_guest_settle(&t.g);
	control(&t, 1, 6, 1);
	test_guest_settle(&t.g);
	assert_int_equal(test_used_index(&t.g, 4), 0);
	test_send(&t.g, 4, 0, 0, IN, 3);
	test_guest_settle(&t.g);
	test_send(&t.g, 4, 0, 0, IN + 3, 30);
	test_guest_settle(&t.g);
	assert_int_equal(test_used_index(&t.g, 4), 2);
	assert_memory_equal(t.g.ram + IN, "hello", 5);
	assert_int_equal(t.g.interrupts[5], 2);
	/* And back. */
	memcpy(t.g.ram + OUT + 100, "good bye", 8);
	test_send(&t.g, 5, OUT + 100, 8, 0, 0);
	test_guest_settle(&t.g);
	assert_true(test_used(&t.g, 5, NULL, NULL));
	assert_int_equal(read(fd, buffer, sizeof(buffer)), 8);
	assert_memory_equal(buffer, "good bye", 8);
	/* The client says a last word and goes: the guest still gets it. */
	assert_int_equal(write(fd, "last", 4), 4);
	close(fd);
	test_guest_settle(&t.g);
	test_send(&t.g, 4, 0, 0, IN, 30);
	test_guest_settle(&t.g);
	assert_int_equal(test_used_index(&t.g, 4), 3);
	assert_memory_equal(t.g.ram + IN, "last", 4);
	test_send(&t.g, 4, 0, 0, IN, 30);
	test_guest_settle(&t.g);
	expect(&t, 6, 1, 0, "");
	/* Without a client, what the guest says is lost. */
	test_send(&t.g, 5, OUT, 8, 0, 0);
	test_guest_settle(&t.g);
	assert_true(test_used(&t.g, 5, NULL, NULL));
	/* The next one. */
	fd = client(&t, 1);
	expect(&t, 6, 1, 1, "");
	assert_int_equal(write(fd, "again", 5), 5);
	test_guest_settle(&t.g);
	assert_int_equal(test_used_index(&t.g, 4), 4);
	close(fd);
	end(&t);
}

static void test_slow_client(void **state)
{
	struct test t, other;
	static char buffer[0x10000];
	uint64_t sent = 0, got = 0;
	(void)state;
	start(&t);
	int fd = client(&t, 1);
	memset(t.g.ram + OUT, 'x', 0x10000);
	unsigned used = 0;
	while (test_used_index(&t.g, 5) == used) { /* until the socket is full */
		test_send(&t.g, 5, OUT, 0x10000, 0, 0);
		test_guest_settle(&t.g);
		sent += 0x10000;
		used++;
		assert_true(used < 1000);
	}
	/* A copy of the machine, with no client, is not held up. */
	make(&other);
	assert_int_equal(test_guest_move(&t.g, &other.g), 0);
	test_guest_settle(&other.g);
	assert_int_equal(test_used_index(&other.g, 5), used);
	end(&other);
	for (unsigned i = 0; i < 10000 && got < sent; i++) {
		ssize_t n = read(fd, buffer, sizeof(buffer));
		got += n > 0 ? (uint64_t)n : 0;
		test_guest_settle(&t.g);
	}
	assert_int_equal(got, sent);
	assert_int_equal(test_used_index(&t.g, 5), used);
	/* One who goes while we wait for it. */
	for (unsigned i = 0; i < 8; i++) {
		test_send(&t.g, 5, OUT, 0x10000, 0, 0);
		test_guest_settle(&t.g);
	}
	close(fd);
	test_guest_settle(&t.g);
	assert_int_equal(test_used_index(&t.g, 5), used + 8);
	end(&t);
}

static void test_reset(void **state)
{
	struct test t;
	(void)state;
	start(&t);
	int fd = client(&t, 1);
	control(&t, 1, 6, 1);
	for (unsigned i = 0; i < 8; i++) {
		test_send(&t.g, 5, OUT, 0x10000, 0, 0);
		test_guest_settle(&t.g);
	}
	test_reg_write(&t.g, 0x14, 1, 0);
	test_guest_settle(&t.g);
	assert_int_equal(test_reg_read(&t.g, 0x14, 1), 0);
	test_driver_start(&t.g, 0); /* one port now, and open */
	int second = client(&t, 0);
	assert_int_equal(write(second, "abc", 3), 3);
	test_send(&t.g, 0, 0, 0, IN, 10);
	test_guest_settle(&t.g);
	assert_memory_equal(t.g.ram + IN, "abc", 3);
	close(second);
	close(fd);
	end(&t);
}

static void test_hostile_control(void **state)
{
	struct test t;
	uint32_t id;
	uint16_t value;
	char name[64];
	(void)state;
	start(&t);
	while (told(&t, &id, &value, name) >= 0)
		;
	control(&t, 2, 3, 1); /* no such port */
	control(&t, 0xffffffff, 6, 1);
	control(&t, 0, 0xffff, 1);
	for (unsigned i = 0; i < 100; i++)
		control(&t, 1, 3, 1);     /* more than there are buffers for answers */
	test_send(&t.g, 3, OUT, 3, 0, 0); /* too short */
	test_guest_settle(&t.g);
	control_buffers(&t, 8);
	assert_int_equal(test_reg_read(&t.g, 0x14, 1), 15);
	/* A buffer of one byte. */
	control(&t, 1, 3, 1);
	test_send(&t.g, 2, 0, 0, CONTROL_BUFFERS, 1);
	test_guest_settle(&t.g);
	end(&t);
}

static void test_sockets(void **state)
{
	struct test t;
	struct virtio *v;
	struct error err = { "" };
	char options[128];
	struct stat st;
	(void)state;
	make(&t);
	assert_int_equal(stat(t.path[0], &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(virtio_console_create(&v, &t.g.env, t.path[0], &err), -98);
	assert_non_null(strstr(err.text, "another process does"));
	snprintf(options, sizeof(options), "%s/file", t.dir);
	fclose(fopen(options, "w"));
	assert_int_equal(virtio_console_create(&v, &t.g.env, options, &err), -17);
	unlink(options);
	/* One that a dead process has left is replaced. */
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/file", t.dir);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	assert_int_equal(virtio_console_create(&v, &t.g.env, options, &err), 0);
	v->ops->destroy(v);
	snprintf(options, sizeof(options), "%s/none/x", t.dir);
	assert_int_equal(virtio_console_create(&v, &t.g.env, options, &err), -2);
	end(&t);
}

static void test_options(void **state)
{
	struct error err;
	char many[1024] = "", name[200] = "a,name=";
	(void)state;
	assert_int_equal(virtio_console_check("", &err), -22);
	assert_int_equal(virtio_console_check("name=x", &err), -22);
	assert_int_equal(virtio_console_check("a,speed=9600", &err), -22);
	assert_int_equal(virtio_console_check("a,name=b,console=on\nb", &err), 0);
	memset(name + 7, 'n', 65);
	assert_int_equal(virtio_console_check(name, &err), -22);
	for (unsigned i = 0; i < 31; i++)
		strcat(many, "a\n");
	assert_int_equal(virtio_console_check(many, &err), 0);
	strcat(many, "a\n");
	assert_int_equal(virtio_console_check(many, &err), -22);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_talk),  cmocka_unit_test(test_slow_client),     cmocka_unit_test(test_sockets),
		cmocka_unit_test(test_reset), cmocka_unit_test(test_hostile_control), cmocka_unit_test(test_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
