/* Counts, keeps memory, rewrites some of it all the time, and notices if a byte is not what it should be.
 * Prints "count N" every 50 ms; within 16 of them all memory was looked at. Ends with 1 at a difference.
 *
 * ballast MIB KIB-REWRITTEN-EACH-TIME
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096ul
#define TURNS 16

static uint64_t mix(uint64_t z)
{
	z = (z + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* Half of a page is noise, the other half is one number. */
static uint64_t word(uint64_t page, uint32_t version, uint64_t at)
{
	uint64_t seed = page << 32 | version;
	return at < PAGE / 16 ? mix(seed * 512 + at) : seed;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	uint64_t pages = strtoull(argv[1], NULL, 10) * 256;
	uint64_t rewritten = strtoull(argv[2], NULL, 10) / 4;
	uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t *versions = calloc(pages, sizeof *versions);
	if (memory == MAP_FAILED || !versions)
		return 2;
	for (uint64_t page = 0; page < pages; page++)
		for (uint64_t at = 0; at < PAGE / 8; at++)
			memory[page * PAGE / 8 + at] = word(page, 0, at);
	struct timespec pause = { 0, 50000000 };
	for (uint64_t count = 0;; count++) {
		for (uint64_t page = count % TURNS; page < pages; page += TURNS)
			for (uint64_t at = 0; at < PAGE / 8; at += 17)
				if (memory[page * PAGE / 8 + at] != word(page, versions[page], at)) {
					printf("wrong: page %lu, word %lu\n", page, at);
					fflush(stdout);
					return 1;
				}
		for (uint64_t i = 0; i < rewritten; i++) {
			uint64_t page = mix(count * 1000003 + i) % pages;
			versions[page]++;
			for (uint64_t at = 0; at < PAGE / 8; at++)
				memory[page * PAGE / 8 + at] = word(page, versions[page], at);
		}
		printf("count %lu\n", count);
		fflush(stdout);
		nanosleep(&pause, NULL);
	}
}
