/* Memory of many kinds, rewritten all the time. */
#include "selfcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / 8 - 2)

struct page {
	uint64_t sequence;
	uint64_t sum;
	uint64_t word[WORDS];
};

struct region {
	const char *name;
	struct page *pages;
	size_t count;
	/* A descriptor that shows the same bytes, or -1. */
	int descriptor;
};

static struct region regions[8];
static size_t region_count;
static uint8_t *unreadable, *unwritable;
static int probe[2];
static int sysv;
static __thread uint64_t thread_local_word = 0x1122334455667788;

static uint64_t sum_of(const struct page *page)
{
	uint64_t sum = page->sequence;
	for (size_t at = 0; at < WORDS; at++)
		sum = sum * 31 + page->word[at];
	return sum;
}

static void fill(struct page *page, uint64_t sequence, uint64_t seed)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15 + sequence + 1;
	for (size_t at = 0; at < WORDS; at++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		/* Half of the pages compress. */
		page->word[at] = seed % 2 ? state : state % 3;
	}
	page->sequence = sequence;
	page->sum = sum_of(page);
}

static void add(const char *name, void *at, size_t count, int descriptor)
{
	if (at == MAP_FAILED)
		give_up(__FILE__, __LINE__, name);
	struct region *region = &regions[region_count++];
	*region = (struct region){ name, at, count, descriptor };
	for (size_t page = 0; page < count; page++)
		fill(&region->pages[page], 0, page);
}

static void pass(struct region *region, uint64_t sequence)
{
	for (size_t at = 0; at < region->count; at++) {
		struct page *page = &region->pages[at];
		expect(page->sequence == sequence, "%s, page %zu: sequence %lu, not %lu",
		       region->name, at, page->sequence, sequence);
		expect(page->sum == sum_of(page), "%s, page %zu: wrong sum", region->name, at);
		fill(page, sequence + 1, at);
	}
}

static void compare_descriptor(const struct region *region)
{
	struct page copy;
	for (size_t at = 0; at < region->count; at += 7) {
		ssize_t got = pread(region->descriptor, &copy, PAGE, (off_t)(at * PAGE));
		expect(got == PAGE && !memcmp(&copy, &region->pages[at], PAGE),
		       "%s, page %zu: the descriptor shows other bytes than the mapping",
		       region->name, at);
	}
}

static void *rewrite(void *unused)
{
	(void)unused;
	thread_local_word = 0x99;
	for (uint64_t sequence = 0;; sequence++) {
		for (size_t at = 0; at < region_count; at++) {
			pass(&regions[at], sequence);
			if (regions[at].descriptor >= 0)
				compare_descriptor(&regions[at]);
		}
		expect(thread_local_word == 0x99, "a thread's own word is %lx", thread_local_word);
		struct timespec pause = { 0, 3 * MS };
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static void *map(size_t count, int flags, int descriptor)
{
	return mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, flags, descriptor, 0);
}

static int sized(int descriptor, size_t count)
{
	must(descriptor);
	must(ftruncate(descriptor, (off_t)(count * PAGE)));
	return descriptor;
}

static void start(void)
{
	const int mode = O_CREAT | O_RDWR | O_TRUNC;
	int memfd = sized(memfd_create("selfcheck", 0), 64);
	int posix = sized(shm_open("/selfcheck", mode, 0600), 64);
	int file = sized(open(in_folder("mapped"), mode, 0600), 64);
	int copied = sized(open(in_folder("copied"), mode, 0600), 64);
	sysv = must(shmget(IPC_PRIVATE, 64 * PAGE, IPC_CREAT | 0600));
	add("private", map(512, MAP_PRIVATE | MAP_ANONYMOUS, -1), 512, -1);
	add("heap", aligned_alloc(PAGE, 64 * PAGE), 64, -1);
	add("shared", map(64, MAP_SHARED | MAP_ANONYMOUS, -1), 64, -1);
	add("memfd", map(64, MAP_SHARED, memfd), 64, memfd);
	add("posix shared memory", map(64, MAP_SHARED, posix), 64, posix);
	add("system v shared memory", shmat(sysv, NULL, 0), 64, -1);
	add("mapped file", map(64, MAP_SHARED, file), 64, file);
	add("copy of a file", map(64, MAP_PRIVATE, copied), 64, -1);

	must(pipe2(probe, O_NONBLOCK));
	unreadable = map(4, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	unwritable = map(4, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(unreadable, 0x5a, 4 * PAGE);
	memset(unwritable, 0xa5, 4 * PAGE);
	must(mprotect(unreadable, 4 * PAGE, PROT_NONE));
	must(mprotect(unwritable, 4 * PAGE, PROT_READ));
	pthread_t thread;
	pthread_create(&thread, NULL, rewrite, NULL);
	pthread_setname_np(thread, "rewriter");
}

static void check(unsigned round)
{
	(void)round;
	/* The kernel says what may be read and written, without a signal. */
	expect(write(probe[1], unreadable, 1) == -1 && errno == EFAULT,
	       "protected memory can be read");
	must(write(probe[1], unwritable + PAGE, 1));
	expect(read(probe[0], unwritable, 1) == -1 && errno == EFAULT,
	       "constant memory can be written");
	char byte;
	while (read(probe[0], &byte, 1) == 1)
		;
	expect(unwritable[4 * PAGE - 1] == 0xa5, "constant memory has changed");
	must(mprotect(unreadable, 4 * PAGE, PROT_READ));
	expect(unreadable[round % (4 * PAGE)] == 0x5a, "protected memory has changed");
	must(mprotect(unreadable, 4 * PAGE, PROT_NONE));
	expect(thread_local_word == 0x1122334455667788, "the first thread's own word has changed");
	struct shmid_ds about;
	must(shmctl(sysv, IPC_STAT, &about));
	expect(about.shm_segsz == 64 * PAGE && about.shm_nattch == 1,
	       "system v shared memory: %zu bytes, %lu users", about.shm_segsz, about.shm_nattch);
}

const struct part memory = { "memory", start, check };
