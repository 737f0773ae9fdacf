/* A tree of processes with shared memory of all kinds and memory of their own, that write to it in
 * all ways, and that notice if a byte is not what it should be. Each process owns every n-th page of
 * each object. Prints "ok N" every now and then; ends with 1 at a difference.
 *
 * shared PROCESSES MIB-OF-EACH-OBJECT
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define OBJECTS 8
#define ODD 1000

struct object {
	const char *name;
	int fd; /* -1: none */
	size_t pages; /* that are written to */
	unsigned char *maps[2]; /* NULL: none */
	size_t mapped[2]; /* pages of each, from the beginning */
	uint32_t *seeds; /* of the pages that this process owns; 0: zeros */
};

static struct object objects[OBJECTS];
static int me, processes;
static uint64_t state;

static uint64_t chance(uint64_t below)
{
	state += 0x9e3779b97f4a7c15ull;
	uint64_t z = state;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (z ^ (z >> 31)) % below;
}

static void wrong(const char *what, const char *name, size_t page)
{
	printf("process %d: %s: page %zu of %s is wrong\n", getpid(), what, page, name);
	fflush(stdout);
	_exit(1);
}

static void fill(uint32_t *words, uint32_t seed)
{
	for (size_t i = 0; i < PAGE / 4; i++)
		words[i] = seed ? (uint32_t)(seed * 2654435761u + (i & 7) * i) : 0;
}

static void is_right(struct object *o, const char *what, const void *content, size_t page)
{
	uint32_t wanted[PAGE / 4];
	fill(wanted, o->seeds[page]);
	if (memcmp(wanted, content, PAGE))
		wrong(what, o->name, page);
}

/* In all ways that there are. */
static void check(struct object *o, size_t page)
{
	for (int m = 0; m < 2; m++)
		if (o->maps[m] && page < o->mapped[m])
			is_right(o, m ? "second mapping" : "mapping", o->maps[m] + page * PAGE, page);
	unsigned char content[PAGE];
	if (o->fd >= 0) {
		if (pread(o->fd, content, PAGE, page * PAGE) != (ssize_t)PAGE)
			wrong("read", o->name, page);
		is_right(o, "read", content, page);
	}
}

static void put(struct object *o, size_t page, uint32_t seed)
{
	uint32_t content[PAGE / 4];
	fill(content, o->seeds[page] = seed);
	int m = chance(2);
	if (!o->maps[m] || page >= o->mapped[m])
		m = !m;
	int is_mapped = o->maps[m] && page < o->mapped[m];
	if (o->fd >= 0 && (!is_mapped || !chance(3))) {
		if (pwrite(o->fd, content, PAGE, page * PAGE) != (ssize_t)PAGE)
			_exit(2);
	} else if (is_mapped) {
		memcpy(o->maps[m] + page * PAGE, content, PAGE);
	}
}

static int can_reach(struct object *o, size_t page)
{
	return o->fd >= 0 || (o->maps[0] && page < o->mapped[0]) || (o->maps[1] && page < o->mapped[1]);
}

static unsigned char *map(int fd, size_t pages, int flags)
{
	unsigned char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
	if (at == MAP_FAILED)
		_exit(2);
	return at;
}

static int memory(size_t bytes)
{
	int fd = memfd_create("of the test", 0);
	if (fd < 0 || ftruncate(fd, bytes))
		_exit(2);
	return fd;
}

static void make(size_t pages)
{
	int fd;
	objects[0] = (struct object){ "anonymous memory", -1, pages, { map(-1, pages, MAP_ANONYMOUS) }, { pages } };
	fd = memory(pages * PAGE);
	objects[1] = (struct object){ "memory mapped twice", fd, pages, { map(fd, pages, 0), map(fd, pages, 0) }, { pages, pages } };
	fd = memory(pages * PAGE);
	objects[2] = (struct object){ "memory half of which is mapped", fd, pages, { map(fd, pages / 2, 0) }, { pages / 2 } };
	int id = shmget(IPC_PRIVATE, pages * PAGE, 0600);
	unsigned char *segment = shmat(id, NULL, 0);
	if (segment == (void *)-1 || shmctl(id, IPC_RMID, NULL))
		_exit(2);
	objects[3] = (struct object){ "a segment", -1, pages, { segment }, { pages } };
	fd = memory(pages * PAGE);
	objects[4] = (struct object){ "memory without a descriptor", -1, pages, { map(fd, pages, 0) }, { pages } };
	close(fd);
	fd = memory(pages * PAGE + ODD);
	objects[5] = (struct object){ "memory of an odd size that is not mapped", fd, pages, { NULL }, { 0 } };
	objects[6] = (struct object){ "anonymous memory that is unmapped in part", -1, pages, { map(-1, pages, MAP_ANONYMOUS) }, { pages } };
	int keyed = shmget(0x4c494645, pages * PAGE + ODD, IPC_CREAT | 0600);
	segment = shmat(keyed, NULL, 0);
	if (segment == (void *)-1)
		_exit(2);
	objects[7] = (struct object){ "a segment of an odd size", -1, pages + 1, { segment }, { pages + 1 } };
	for (int i = 0; i < OBJECTS; i++) {
		struct object *o = &objects[i];
		o->seeds = calloc(o->pages, sizeof *o->seeds);
		for (size_t p = 0; p < o->pages; p++)
			if (chance(3))
				put(o, p, 1 + chance(1u << 30));
	}
}

static void remap(struct object *o)
{
	int m = chance(2);
	if (!o->maps[m])
		return;
	if (o->fd >= 0 && chance(2)) {
		munmap(o->maps[m], o->mapped[m] * PAGE);
		o->maps[m] = map(o->fd, o->mapped[m], 0);
	} else if (o != &objects[3] && o != &objects[7]) {
		unsigned char *to = mmap(NULL, o->mapped[m] * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		to = mremap(o->maps[m], o->mapped[m] * PAGE, o->mapped[m] * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		if (to == MAP_FAILED)
			_exit(2);
		o->maps[m] = to;
	}
}

static void step(void)
{
	struct object *o = &objects[chance(OBJECTS)];
	size_t first = chance(o->pages), some = 1 + chance(60);
	int what = chance(10);
	uint32_t seed = 1 + chance(1u << 30);
	if (what == 9) {
		remap(o);
		return;
	}
	for (size_t p = first; p < o->pages && p < first + some; p++) {
		if ((int)(p % processes) != me || !can_reach(o, p))
			continue;
		check(o, p);
		switch (what) {
		case 0: /* The mapping forgets; the object does not. */
			if (o->maps[0] && p < o->mapped[0]) {
				put(o, p, seed);
				madvise(o->maps[0] + p * PAGE, PAGE, MADV_DONTNEED);
			}
			break;
		case 1:
			if (o->fd >= 0 && !fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, p * PAGE, PAGE))
				o->seeds[p] = 0;
			break;
		case 2:
			put(o, p, 0);
			break;
		case 3: /* The same once more. */
			put(o, p, o->seeds[p]);
			break;
		case 4:
			if (o->maps[0] && p < o->mapped[0] && !madvise(o->maps[0] + p * PAGE, PAGE, MADV_REMOVE))
				o->seeds[p] = 0;
			break;
		default:
			put(o, p, seed + p);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	processes = atoi(argv[1]);
	state = 1;
	make((size_t)atoi(argv[2]) * 256);
	for (int i = 1; i < processes; i++)
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			me = i;
			/* What this one has not mapped any more, another has. */
			objects[6].mapped[0] /= 2;
			size_t kept = objects[6].mapped[0] * PAGE;
			munmap(objects[6].maps[0] + kept, objects[6].pages * PAGE - kept);
			break;
		}
	state = 1000 + me;
	for (unsigned round = 0;; round++) {
		for (int i = 0; i < 4; i++)
			step();
		struct timespec rest = { 0, 10000000 };
		nanosleep(&rest, NULL);
		int status;
		if (!me && waitpid(-1, &status, WNOHANG) > 0) {
			printf("a child has ended with %x\n", status);
			fflush(stdout);
			return 1;
		}
		if (round % 20 == 0)
			for (int i = 0; i < OBJECTS; i++)
				for (size_t p = me; p < objects[i].pages; p += processes)
					if (can_reach(&objects[i], p))
						check(&objects[i], p);
		if (!me && round % 20 == 0) {
			printf("ok %u\n", round / 20);
			fflush(stdout);
		}
	}
}
