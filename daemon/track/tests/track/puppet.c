/*
 * A program that does to its memory what it is told, line by line, and answers each line with one
 * number.
 *
 * Usage: puppet, or puppet MODE to say that it was executed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static volatile uint64_t *busy;

static void *write_always(void *index)
{
	for (uint64_t n = 0;; n++)
		busy[((uintptr_t)index * 512 + n % 512)] = n;
	return NULL;
}

static long threads(long count)
{
	busy = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (long i = 0; i < count; i++) {
		pthread_t id;
		if (pthread_create(&id, NULL, write_always, (void *)i))
			return -1;
	}
	return (long)busy;
}

static long spawn(long children)
{
	pid_t parent = getpid();
	for (long i = 0; i < children; i++) {
		pid_t pid = fork();
		if (pid < 0)
			return -1;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parent)
				_exit(0);
			for (;;)
				pause();
		}
	}
	return children;
}

static long reap(void)
{
	long count = 0;
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	while (waitpid(-1, NULL, 0) > 0)
		count++;
	return count;
}

static long borrow(void)
{
	/* Shares memory until it executes, which it does when told so by a signal. */
	int ends[2];
	if (pipe(ends))
		return -1;
	pid_t pid = vfork();
	if (pid == 0) {
		(void)!write(1, "0\n", 2);
		pause();
		_exit(0);
	}
	return pid;
}

static long map(long at, long pages, long flags)
{
	flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	return (long)mmap((void *)at, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, (int)flags, -1, 0);
}

static long write_pages(long at, long pages, long step, long value)
{
	for (long page = 0; page < pages; page += step)
		*(volatile long *)(at + page * PAGE) = value;
	return 0;
}

static long read_pages(long at, long pages)
{
	long sum = 0;
	for (long page = 0; page < pages; page++)
		sum += *(volatile long *)(at + page * PAGE);
	return sum;
}

static long timed_write(long at, long pages)
{
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (long page = 0; page < pages; page++)
		*(volatile long *)(at + page * PAGE) = page;
	clock_gettime(CLOCK_MONOTONIC, &to);
	return (to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec);
}

static long open_direct(void)
{
	return open("/proc/self/exe", O_RDONLY | O_DIRECT);
}

int main(int argc, char **argv)
{
	char line[256], op;
	long a, b, c, d, e, result;
	(void)argv;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 1)
		puts("0");
	while (fgets(line, sizeof line, stdin)) {
		a = b = c = d = e = 0;
		if (sscanf(line, "%c %ld %ld %ld %ld %ld", &op, &a, &b, &c, &d, &e) < 1)
			return 2;
		switch (op) {
		case 'm': result = map(a, b, c); break;
		case 'u': result = munmap((void *)a, (size_t)b * PAGE); break;
		case 'v': result = (long)mremap((void *)a, (size_t)b * PAGE, (size_t)c * PAGE, (int)d, (void *)e); break;
		case 'a': result = madvise((void *)a, (size_t)b * PAGE, (int)c); break;
		case 'p': result = mprotect((void *)a, (size_t)b * PAGE, (int)c); break;
		case 'w': result = write_pages(a, b, c, d); break;
		case 'r': result = read_pages(a, b); break;
		case 'c': result = timed_write(a, b); break;
		case 'f': result = spawn(a); break;
		case 'k': result = reap(); break;
		case 'b': result = borrow(); break;
		case 't': result = threads(a); break;
		case 'o': result = open_direct(); break;
		case 'l': result = close((int)a); break;
		case 'h': result = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1); break;
		case 'x': execl("/proc/self/exe", "puppet", "executed", (char *)NULL); return 9;
		case 'q': return 0;
		default: return 3;
		}
		printf("%ld\n", result);
	}
	return 0;
}
