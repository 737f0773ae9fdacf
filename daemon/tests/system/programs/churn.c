/* A tree of processes that map, move, drop, rewrite and free memory all the time, and that notice if
 * a byte is not what it should be. Prints "ok N" every now and then; ends with 1 at a difference.
 *
 * churn PROCESSES MIB-OF-EACH
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define BLOCKS 24

struct block {
	unsigned char *at;
	size_t pages;
	uint32_t *seeds; /* of each page; 0: zeros */
};

static struct block blocks[BLOCKS];
static uint64_t state;

static uint64_t chance(uint64_t below)
{
	state += 0x9e3779b97f4a7c15ull;
	uint64_t z = state;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (z ^ (z >> 31)) % below;
}

static void fill(unsigned char *page, uint32_t seed)
{
	uint32_t *words = (uint32_t *)page;
	for (size_t i = 0; i < PAGE / 4; i++)
		words[i] = seed ? (uint32_t)(seed * 2654435761u + (i & 7) * i) : 0;
}

static void check(struct block *b, size_t page)
{
	uint32_t *words = (uint32_t *)(b->at + page * PAGE);
	uint32_t seed = b->seeds[page];
	for (size_t i = 0; i < PAGE / 4; i++)
		if (words[i] != (seed ? (uint32_t)(seed * 2654435761u + (i & 7) * i) : 0)) {
			printf("process %d: page %zu at %p is wrong\n", getpid(), page, (void *)words);
			fflush(stdout);
			_exit(1);
		}
}

static void fail(const char *what)
{
	printf("process %d: %s: %s\n", getpid(), what, strerror(errno));
	fflush(stdout);
	_exit(2);
}

static void make(struct block *b, size_t pages)
{
	b->at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b->seeds = calloc(pages, sizeof *b->seeds);
	b->pages = pages;
	if (b->at == MAP_FAILED || !b->seeds)
		fail("mmap");
	for (size_t i = 0; i < pages; i++)
		if (chance(4)) {
			b->seeds[i] = 1 + chance(1u << 30);
			fill(b->at + i * PAGE, b->seeds[i]);
		}
}

static void resize(struct block *b, size_t pages)
{
	unsigned char *at = mremap(b->at, b->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
	uint32_t *seeds = realloc(b->seeds, pages * sizeof *seeds);
	if (at == MAP_FAILED || !seeds)
		fail("mremap");
	if (pages > b->pages)
		memset(seeds + b->pages, 0, (pages - b->pages) * sizeof *seeds);
	*b = (struct block){ at, pages, seeds };
}

static void step(size_t pages)
{
	struct block *b = &blocks[chance(BLOCKS)];
	size_t first = chance(b->pages), some = 1 + chance(b->pages - first < 40 ? b->pages - first : 40);
	for (size_t i = first; i < first + some; i++)
		check(b, i);
	switch (chance(12)) {
	case 0:
		madvise(b->at + first * PAGE, some * PAGE, MADV_DONTNEED);
		memset(b->seeds + first, 0, some * sizeof *b->seeds);
		break;
	case 1:
		resize(b, pages / 2 + chance(pages));
		break;
	case 2:
		munmap(b->at, b->pages * PAGE);
		free(b->seeds);
		make(b, pages / 2 + chance(pages));
		break;
	case 3: /* Zeros that are written. */
		for (size_t i = first; i < first + some; i++)
			fill(b->at + i * PAGE, b->seeds[i] = 0);
		break;
	case 4:
	case 5: /* The same once more. */
		for (size_t i = first; i < first + some; i++)
			fill(b->at + i * PAGE, b->seeds[i]);
		break;
	case 6:
		if (!chance(5)) {
			/* A child with the same memory that changes some of it, and ends. */
			pid_t child = fork();
			if (!child) {
				for (size_t i = first; i < first + some; i++)
					fill(b->at + i * PAGE, b->seeds[i] = 7);
				for (size_t i = 0; i < b->pages; i++)
					check(b, i);
				_exit(0);
			}
			int status = 0;
			waitpid(child, &status, 0);
			if (status) {
				printf("a child of %d is wrong\n", getpid());
				fflush(stdout);
				_exit(1);
			}
		}
		break;
	default:
		for (size_t i = first; i < first + some; i++)
			fill(b->at + i * PAGE, b->seeds[i] = 1 + chance(1u << 30));
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int processes = atoi(argv[1]);
	size_t pages = (size_t)atoi(argv[2]) * 256 / BLOCKS;
	state = 1;
	for (int i = 0; i < BLOCKS; i++)
		make(&blocks[i], pages);
	int me = 0;
	for (int i = 1; i < processes; i++)
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			me = i;
			break;
		}
	state = 1000 + me;
	for (unsigned round = 0;; round++) {
		for (int i = 0; i < 3; i++)
			step(pages);
		struct timespec rest = { 0, 10000000 };
		nanosleep(&rest, NULL);
		int status;
		if (!me && waitpid(-1, &status, WNOHANG) > 0)
			return 1;
		if (!me && round % 10 == 0) {
			printf("ok %u\n", round / 10);
			fflush(stdout);
		}
	}
}
