/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock.c - sockets between guest and host from the shell:
 *
 *	vsock cid                   prints the guest's number
 *	vsock connect PORT          standard input to the host's port, and what it answers to standard output
 *	vsock many PORT N           N connections at once, each of which must echo a line of its own
 *	vsock serve PORT CMD...     runs the command for each connection, on it
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int stream(unsigned cid, const char *port, struct sockaddr_vm *address)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0)
		die("socket");
	*address = (struct sockaddr_vm){
		.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = (unsigned)strtoul(port, NULL, 10)
	};
	return fd;
}

static int connect_to(const char *port)
{
	struct sockaddr_vm address;
	int fd = stream(VMADDR_CID_HOST, port, &address);

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		die("connect");
	return fd;
}

static void write_all(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t n = write(fd, bytes, size);
		if (n <= 0)
			die("write");
		bytes += n;
		size -= (size_t)n;
	}
}

/* Both ways at once; the end of the input is the end of what is sent, not of what is received. */
static int relay(int fd)
{
	static char buffer[65536];
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };

	for (;;) {
		if (poll(p, 2, -1) < 0)
			die("poll");
		if (p[0].revents) {
			ssize_t n = read(fd, buffer, sizeof(buffer));
			if (n < 0)
				die("read");
			if (!n)
				return 0;
			write_all(1, buffer, (size_t)n);
		}
		if (p[1].revents) {
			ssize_t n = read(0, buffer, sizeof(buffer));
			if (n <= 0) {
				shutdown(fd, SHUT_WR);
				p[1].fd = -1;
			} else {
				write_all(fd, buffer, (size_t)n);
			}
		}
	}
}

static int many(const char *port, int n)
{
	int *fd = calloc((size_t)n, sizeof(*fd));
	char line[32], back[32];

	for (int i = 0; i < n; i++)
		fd[i] = connect_to(port);
	for (int i = 0; i < n; i++) {
		int size = snprintf(line, sizeof(line), "line %08d\n", i);
		write_all(fd[i], line, (size_t)size);
	}
	for (int i = 0; i < n; i++) {
		int size = snprintf(line, sizeof(line), "line %08d\n", i);
		if (recv(fd[i], back, (size_t)size, MSG_WAITALL) != size || memcmp(line, back, (size_t)size)) {
			printf("connection %d does not echo\n", i);
			return 1;
		}
	}
	printf("%d connections echo\n", n);
	return 0;
}

static int serve(const char *port, char **argv)
{
	struct sockaddr_vm address;
	int fd = stream(VMADDR_CID_ANY, port, &address);

	signal(SIGCHLD, SIG_IGN);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 128))
		die("listen");
	for (;;) {
		int client = accept(fd, NULL, NULL);
		if (client < 0)
			die("accept");
		if (!fork()) {
			dup2(client, 0);
			dup2(client, 1);
			close(client);
			close(fd);
			signal(SIGCHLD, SIG_DFL);
			execvp(argv[0], argv);
			die(argv[0]);
		}
		close(client);
	}
}

static int cid(void)
{
	unsigned number = 0;
	int fd = open("/dev/vsock", O_RDONLY);

	if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &number))
		die("/dev/vsock");
	printf("%u\n", number);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "cid"))
		return cid();
	if (argc == 3 && !strcmp(argv[1], "connect"))
		return relay(connect_to(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "many"))
		return many(argv[2], atoi(argv[3]));
	if (argc >= 4 && !strcmp(argv[1], "serve"))
		return serve(argv[2], argv + 3);
	fputs("usage: vsock cid|connect PORT|many PORT N|serve PORT CMD...\n", stderr);
	return 2;
}
