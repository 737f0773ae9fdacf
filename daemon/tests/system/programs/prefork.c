/* A server that has forked its workers: they read what it has read, and write a little.
 *
 * usage: prefork MIB WORKERS
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static uint64_t word(size_t at)
{
	uint64_t x = at * 0x9e3779b97f4a7c15ull;
	return (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
}

int main(int argc, char **argv)
{
	struct timespec pause = { 0, 50000000 };
	size_t words = strtoul(argv[argc - 2], NULL, 10) * 1024 * 1024 / 8;
	int workers = atoi(argv[argc - 1]);
	uint64_t *memory = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t at = 0; at < words; at++)
		memory[at] = word(at);
	int me = 0;
	for (int worker = 1; worker <= workers && !me; worker++)
		if (fork() == 0) {
			me = worker;
			prctl(PR_SET_PDEATHSIG, SIGKILL);
		}
	/* One page of 64 is a worker's own. */
	for (size_t at = me * 512; me && at < words; at += 64 * 512)
		memory[at] = me;
	for (int count = 0;; count++) {
		for (size_t at = count % 16; at < words; at += 16 * 61)
			if (memory[at] != word(at) && !(me && at % (64 * 512) == (size_t)me * 512 && memory[at] == (uint64_t)me)) {
				printf("worker %d: word %zu is wrong\n", me, at);
				fflush(stdout);
			}
		if (!me) {
			printf("count %d\n", count);
			fflush(stdout);
		}
		nanosleep(&pause, NULL);
	}
}
