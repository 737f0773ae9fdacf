/*
 * Changes its address space all the time, and knows what every byte must be.
 *
 * usage: restless MIB
 *
 * Its memory is blocks of pages. A page of a block holds what its number and its version say; version
 * 0 is a page of zeros. It prints "step N ok"; whatever is wrong is printed, and ends it.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / 8)
#define BLOCK_PAGES 64

struct block {
	uint64_t *memory;
	uint32_t version[BLOCK_PAGES];
};

static struct block *blocks;
static size_t count;
static uint64_t state = 88172645463325252ull;
static long step;

static uint64_t draw(uint64_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % limit;
}

static uint64_t word(size_t block, size_t page, size_t at)
{
	uint32_t version = blocks[block].version[page];
	if (!version)
		return 0;
	return (((uint64_t)version << 40) ^ (block << 20) ^ (page << 10) ^ at) * 0x9e3779b97f4a7c15ull;
}

static void write_page(size_t block, size_t page)
{
	blocks[block].version[page]++;
	for (size_t at = 0; at < WORDS; at++)
		blocks[block].memory[page * WORDS + at] = word(block, page, at);
}

static void check_page(size_t block, size_t page, const char *who)
{
	for (size_t at = 0; at < WORDS; at++) {
		uint64_t found = blocks[block].memory[page * WORDS + at];
		if (found != word(block, page, at)) {
			printf("WRONG in step %ld, %s: block %zu page %zu word %zu version %u: %llx\n", step, who,
			       block, page, at, blocks[block].version[page], (unsigned long long)found);
			fflush(stdout);
			_exit(1);
		}
	}
}

static void check_block(size_t block, const char *who)
{
	for (size_t page = 0; page < BLOCK_PAGES; page++)
		check_page(block, page, who);
}

static void *map(void)
{
	void *memory = mmap(NULL, BLOCK_PAGES * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		exit(2);
	return memory;
}

static void change(size_t block)
{
	size_t from = draw(BLOCK_PAGES), pages = 1 + draw(BLOCK_PAGES - from);
	char *memory = (char *)blocks[block].memory;
	switch (draw(8)) {
	case 0: /* throw pages away */
		for (size_t page = from; page < from + pages; page++)
			blocks[block].version[page] = 0;
		madvise(memory + from * PAGE, pages * PAGE, MADV_DONTNEED);
		break;
	case 1: { /* to another place */
		void *to = map();
		if (mremap(memory, BLOCK_PAGES * PAGE, BLOCK_PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   to) == MAP_FAILED)
			exit(3);
		blocks[block].memory = to;
		break;
	}
	case 2: /* away, and new */
		munmap(memory, BLOCK_PAGES * PAGE);
		memset(blocks[block].version, 0, sizeof blocks[block].version);
		blocks[block].memory = map();
		break;
	case 3: { /* a child looks at some of it */
		pid_t child = fork();
		if (child == 0) {
			for (int i = 0; i < 4; i++)
				check_block(draw(count), "child");
			_exit(0);
		}
		int status;
		if (child < 0 || waitpid(child, &status, 0) != child)
			exit(4);
		if (status != 0) {
			printf("WRONG in step %ld: child ended with %x\n", step, status);
			fflush(stdout);
			_exit(1);
		}
		break;
	}
	case 4:
	case 5:
		for (size_t page = from; page < from + pages; page++)
			write_page(block, page);
		break;
	default:
		check_block(block, "parent");
	}
}

int main(int argc, char **argv)
{
	struct timespec pause = { 0, 20000000 };
	count = (argc > 1 ? strtoul(argv[1], NULL, 10) : 16) * 1024 * 1024 / PAGE / BLOCK_PAGES;
	blocks = calloc(count, sizeof *blocks);
	for (size_t block = 0; block < count; block++) {
		blocks[block].memory = map();
		for (size_t page = 0; page < BLOCK_PAGES; page++)
			write_page(block, page);
	}
	for (step = 0;; step++) {
		for (int i = 0; i < 4; i++)
			change(draw(count));
		if (step % 100 == 99)
			for (size_t block = 0; block < count; block++)
				check_block(block, "all");
		printf("step %ld ok\n", step);
		fflush(stdout);
		nanosleep(&pause, NULL);
	}
}
