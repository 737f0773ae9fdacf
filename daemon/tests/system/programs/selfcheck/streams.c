/* Pipes, FIFOs and sockets with unread data. */
#include "selfcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define UNREAD 3000
#define CAPACITY (256 << 10)

static int pipe_ends[2], full[2], fifo, stream[2], datagram[2], half[2], listener, client, served;

static void pattern(uint8_t *bytes, unsigned round)
{
	for (size_t at = 0; at < UNREAD; at++)
		bytes[at] = (uint8_t)(at * 13 + round);
}

static void leave(int to, unsigned round)
{
	uint8_t bytes[UNREAD];
	pattern(bytes, round);
	must(write(to, bytes, UNREAD));
}

static void find(const char *what, int from, unsigned round)
{
	uint8_t bytes[UNREAD + 1], expected[UNREAD];
	pattern(expected, round);
	ssize_t got = read(from, bytes, sizeof bytes);
	expect(got == UNREAD && !memcmp(bytes, expected, UNREAD),
	       "%s: %zd bytes (error %d), %s", what, got, got < 0 ? errno : 0,
	       got == UNREAD ? "other ones" : "not as many as were written");
}

static void leave_datagrams(unsigned round)
{
	must(send(datagram[0], &round, sizeof round, 0));
	must(send(datagram[0], "second", 6, 0));
}

static void find_datagrams(unsigned round)
{
	char text[16];
	unsigned said = ~0u;
	ssize_t got = recv(datagram[1], &said, sizeof said, MSG_DONTWAIT);
	expect(got == sizeof said && said == round, "first datagram: %zd bytes, %u", got, said);
	got = recv(datagram[1], text, sizeof text, MSG_DONTWAIT);
	expect(got == 6 && !memcmp(text, "second", 6), "second datagram: %zd bytes", got);
	got = recv(datagram[1], text, sizeof text, MSG_DONTWAIT);
	expect(got == -1 && errno == EAGAIN, "a third datagram of %zd bytes", got);
}

static void start_unix(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	snprintf(name.sun_path, sizeof name.sun_path, "%s", in_folder("socket"));
	listener = must(socket(AF_UNIX, SOCK_STREAM, 0));
	unlink(name.sun_path);
	must(bind(listener, (struct sockaddr *)&name, sizeof name));
	must(listen(listener, 7));
	client = must(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	must(connect(client, (struct sockaddr *)&name, sizeof name));
	served = must(accept(listener, NULL, NULL));
}

static void start(void)
{
	must(pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC));
	must(fcntl(pipe_ends[0], F_SETPIPE_SZ, CAPACITY));
	must(pipe2(full, O_NONBLOCK));
	uint8_t page[4096] = { 7 };
	while (write(full[1], page, sizeof page) > 0)
		;
	unlink(in_folder("fifo"));
	must(mkfifo(in_folder("fifo"), 0600));
	fifo = must(open(in_folder("fifo"), O_RDWR | O_NONBLOCK));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, stream));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, datagram));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
	must(shutdown(half[0], SHUT_WR));
	start_unix();
}

static void check(unsigned round)
{
	if (round > 0) {
		find("pipe", pipe_ends[0], round - 1);
		find("fifo", fifo, round - 1);
		find("stream", stream[1], round - 1);
		find("the other direction of the stream", stream[0], round - 1);
		find("accepted connection", served, round - 1);
		find_datagrams(round - 1);
	}
	leave(pipe_ends[1], round);
	leave(fifo, round);
	leave(stream[0], round);
	leave(stream[1], round);
	leave(client, round);
	leave_datagrams(round);

	expect(fcntl(pipe_ends[0], F_GETPIPE_SZ) == CAPACITY, "the pipe's capacity is %d",
	       fcntl(pipe_ends[0], F_GETPIPE_SZ));
	expect(fcntl(pipe_ends[0], F_GETFL) & O_NONBLOCK, "the pipe blocks");
	expect(fcntl(pipe_ends[0], F_GETFD) & FD_CLOEXEC, "the pipe survives an exec");
	expect(!(fcntl(full[0], F_GETFD) & FD_CLOEXEC), "the full pipe does not survive an exec");
	expect(write(full[1], "x", 1) == -1 && errno == EAGAIN, "the full pipe has room");
	char byte;
	expect(recv(half[1], &byte, 1, MSG_DONTWAIT) == 0, "the half-closed stream is open");
	must(send(half[1], "y", 1, 0));
	expect(recv(half[0], &byte, 1, MSG_DONTWAIT) == 1 && byte == 'y',
	       "the half-closed stream does not carry the other way");
	int type = 0, listening = 0;
	socklen_t size = sizeof type;
	must(getsockopt(datagram[0], SOL_SOCKET, SO_TYPE, &type, &size));
	must(getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size));
	expect(type == SOCK_SEQPACKET && listening, "type %d, listening %d", type, listening);
}

const struct part streams = { "streams", start, check };
