/*
 * A program whose memory is loaded by the page-fault server: what CRIU leaves behind, without CRIU.
 *
 * It makes a userfaultfd with CRIU's features, hands it over as CRIU does, and then does what its
 * seed says, in several threads, each with memory of its own: reads, writes, moves, unmaps, empties,
 * protects, forks, once it is told to go. It knows what every page must hold, looks at every byte, and ends with 0, or says
 * what was wrong and ends with 3. With one step, it looks at the last sixteenth of its memory only.
 *
 * Usage: target SOCKET PID SEED PAGES THREADS STEPS BASE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define LARGE ((uint64_t)1 << 32)

enum { PAGE = 4096, WORDS = 512, PATCHED = 7, BLOCKS = 256, FIRST = 48, GLANCE = 1 };

/* What a page must hold: words of a captured page (number + 1) or zeros, and one word written later. */
struct page {
	uint64_t captured;
	uint64_t patch;
};

struct block {
	char *at;
	size_t pages;
	struct page *model;
};

struct thread {
	pthread_t id;
	uint64_t random;
	unsigned steps;
	struct block blocks[BLOCKS];
	unsigned count;
};

static uint64_t seed;

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint64_t word_of(uint64_t page, unsigned word)
{
	return mix(seed * 0x10001 + page) + word * 0x9e3779b97f4a7c15u;
}

/* One page in four was zeros at the freeze, but none with a large seed. */
static int was_zero(uint64_t page)
{
	return seed < LARGE && mix(page ^ (seed << 20)) % 4 == 0;
}

static uint64_t next(struct thread *t)
{
	return t->random = mix(t->random);
}

static uint64_t below(struct thread *t, uint64_t limit)
{
	return next(t) % limit;
}

static void fail(const char *what, const void *at, uint64_t found, uint64_t expected)
{
	printf("seed %llu: pid %d: %s at %p: found %#llx, expected %#llx (%s)\n",
	       (unsigned long long)seed, getpid(), what, at, (unsigned long long)found,
	       (unsigned long long)expected, strerror(errno));
	fflush(stdout);
	_exit(3);
}

static void check(const struct block *b, size_t i)
{
	const volatile uint64_t *words = (const volatile uint64_t *)(b->at + i * PAGE);
	const struct page *p = &b->model[i];

	for (unsigned w = 0; w < WORDS; w++) {
		uint64_t expected = p->captured ? word_of(p->captured - 1, w) : 0;
		if (w == PATCHED && p->patch)
			expected = p->patch;
		if (words[w] != expected)
			fail("wrong content", (const void *)&words[w], words[w], expected);
	}
}

static void check_block(const struct block *b)
{
	for (size_t i = 0; i < b->pages; i++)
		check(b, i);
}

static void patch(struct thread *t, struct block *b, size_t i)
{
	uint64_t value = next(t) | 1;

	((volatile uint64_t *)(b->at + i * PAGE))[PATCHED] = value;
	b->model[i].patch = value;
}

static struct block *new_block(struct thread *t, char *at, size_t pages)
{
	if (t->count == BLOCKS)
		return NULL;
	struct block *b = &t->blocks[t->count++];
	b->at = at;
	b->pages = pages;
	b->model = calloc(pages + 1, sizeof *b->model);
	return b;
}

static void drop_block(struct thread *t, struct block *b)
{
	free(b->model);
	*b = t->blocks[--t->count];
}

/* Cuts a block in two in the books; the mapping stays as it is. */
static struct block *split(struct thread *t, struct block *b, size_t pages)
{
	struct block *rest = new_block(t, b->at + pages * PAGE, b->pages - pages);

	if (!rest)
		return NULL;
	memcpy(rest->model, b->model + pages, rest->pages * sizeof *rest->model);
	b->pages = pages;
	return rest;
}

/* A random part of a random block, as a block of its own. */
static struct block *part(struct thread *t)
{
	if (!t->count)
		return NULL;
	struct block *b = &t->blocks[below(t, t->count)];
	if (b->pages > 1 && below(t, 2))
		b = split(t, b, 1 + below(t, b->pages - 1));
	if (b && b->pages > 1 && below(t, 2) && !split(t, b, 1 + below(t, b->pages - 1)))
		return NULL;
	return b;
}

static void move(struct thread *t, struct block *b, int grow)
{
	size_t pages = b->pages + (grow ? 1 + below(t, 4) : 0);
	/* A page more than there is room for makes the kernel look for another place. */
	char *to = mremap(b->at, b->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);

	if (to == MAP_FAILED && errno == EFAULT)
		return; /* The kernel has not joined its mappings again. */
	if (to == MAP_FAILED)
		fail("mremap", b->at, 0, 0);
	b->at = to;
	b->model = realloc(b->model, (pages + 1) * sizeof *b->model);
	memset(b->model + b->pages, 0, (pages - b->pages) * sizeof *b->model);
	b->pages = pages;
}

static void move_far(struct thread *t, struct block *b)
{
	size_t bytes = b->pages * PAGE;
	/* Reserves a place, so that no other thread is hit. */
	char *to = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	(void)t;
	if (to == MAP_FAILED)
		fail("mmap", b->at, 0, 0);
	if (mremap(b->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) {
		if (errno != EFAULT)
			fail("mremap to a place", b->at, 0, 0);
		munmap(to, bytes);
		return;
	}
	b->at = to;
}

static void empty(struct thread *t, struct block *b)
{
	if (madvise(b->at, b->pages * PAGE, MADV_DONTNEED))
		fail("madvise", b->at, 0, 0);
	memset(b->model, 0, b->pages * sizeof *b->model);
	(void)t;
}

static void protect(struct thread *t, struct block *b)
{
	size_t bytes = b->pages * PAGE;

	if (mprotect(b->at, bytes, PROT_READ))
		fail("mprotect", b->at, 0, 0);
	check(b, below(t, b->pages));
	if (mprotect(b->at, bytes, PROT_READ | PROT_WRITE))
		fail("mprotect back", b->at, 0, 0);
}

/* Memory that another mapping is put over. */
static void cover(struct thread *t, struct block *b)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	if (mmap(b->at, b->pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) != b->at)
		fail("mmap over", b->at, 0, 0);
	memset(b->model, 0, b->pages * sizeof *b->model);
	(void)t;
}

static void unmap(struct thread *t, struct block *b)
{
	if (munmap(b->at, b->pages * PAGE))
		fail("munmap", b->at, 0, 0);
	drop_block(t, b);
}

static void step(struct thread *t, int depth);

static void fork_one(struct thread *t, int depth)
{
	fflush(stdout);
	pid_t child = fork();

	if (child < 0)
		fail("fork", NULL, 0, 0);
	if (child == 0) {
		unsigned steps = below(t, 12);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (below(t, 8) == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(3);
		}
		while (steps--)
			step(t, depth + 1);
		for (unsigned i = 0; i < t->count; i++)
			check_block(&t->blocks[i]);
		_exit(0);
	}
	if (below(t, 2))
		for (unsigned i = 0; i < 4 && t->count; i++)
			step(t, depth + 1);
	int status;
	if (waitpid(child, &status, 0) != child || status)
		fail("a child", NULL, status, 0);
}

static void step(struct thread *t, int depth)
{
	struct block *b;
	unsigned what = below(t, 100);

	if (what >= 97) {
		if (depth < 2)
			fork_one(t, depth);
		return;
	}
	b = part(t);
	if (!b)
		return;
	if (what < 35)
		check(b, below(t, b->pages));
	else if (what < 55)
		patch(t, b, below(t, b->pages));
	else if (what < 62)
		check_block(b);
	else if (what < 70)
		unmap(t, b);
	else if (what < 78)
		move(t, b, 1);
	else if (what < 84)
		move_far(t, b);
	else if (what < 91)
		empty(t, b);
	else if (what < 94)
		cover(t, b);
	else
		protect(t, b);
}

static void *run(void *arg)
{
	struct thread *t = arg;

	if (t->steps == GLANCE) {
		for (unsigned i = t->count - t->count / 16; i < t->count; i++)
			check_block(&t->blocks[i]);
		return NULL;
	}
	for (unsigned i = 0; i < t->steps; i++)
		step(t, 0);
	for (unsigned i = 0; i < t->count; i++)
		check_block(&t->blocks[i]);
	return NULL;
}

static void hand_over(int socket, int uffd, int32_t pid)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
	if (write(socket, &pid, sizeof pid) != sizeof pid || sendmsg(socket, &message, 0) != 1)
		fail("handing over", NULL, 0, 0);
}

int main(int argc, char **argv)
{
	if (argc != 8)
		return 2;
	seed = strtoull(argv[3], NULL, 0);
	size_t pages = strtoull(argv[4], NULL, 0);
	unsigned count = strtoul(argv[5], NULL, 0), steps = strtoul(argv[6], NULL, 0);
	char *base = (char *)strtoull(argv[7], NULL, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct thread *threads = calloc(count, sizeof *threads);

	strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
	int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(peer, (struct sockaddr *)&address, sizeof address))
		fail("connect", NULL, 0, 0);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
					      UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE };
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		fail("userfaultfd", NULL, 0, 0);
	hand_over(peer, uffd, atoi(argv[2]));

	size_t each = pages / count;
	for (unsigned n = 0; n < count; n++) {
		struct thread *t = &threads[n];
		char *at = base + n * each * PAGE;
		struct uffdio_register range = { .range = { (uintptr_t)at, each * PAGE },
						 .mode = UFFDIO_REGISTER_MODE_MISSING };

		if (mmap(at, each * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at ||
		    ioctl(uffd, UFFDIO_REGISTER, &range))
			fail("registering", at, 0, 0);
		t->random = mix(seed * 31 + n);
		t->steps = steps;
		size_t first = each / (BLOCKS / 2) > FIRST ? each / (BLOCKS / 2) + 1 : FIRST;
		for (size_t i = 0; i < each; i += first) {
			struct block *b = new_block(t, at + i * PAGE, each - i < first ? each - i : first);

			if (!b)
				fail("too many blocks", at, 0, 0);
			for (size_t p = 0; p < b->pages; p++) {
				uint64_t number = (uintptr_t)(b->at + p * PAGE) / PAGE;
				b->model[p].captured = was_zero(number) ? 0 : number + 1;
			}
		}
	}
	close(uffd);
	/* Faults come before the end of the restore is told. */
	check(&threads[0].blocks[0], 1);
	if (write(peer, "FTSR", 4) != 4)
		fail("telling the end", NULL, 0, 0);
	char go;
	if (read(peer, &go, 1) != 1)
		fail("waiting for the start", NULL, 0, 0);
	for (unsigned n = 0; n < count; n++)
		if (pthread_create(&threads[n].id, NULL, run, &threads[n]))
			fail("pthread_create", NULL, 0, 0);
	for (unsigned n = 0; n < count; n++)
		pthread_join(threads[n].id, NULL);
	return 0;
}
