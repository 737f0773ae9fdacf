/*
 * A program that does to its memory what its seed says, at full speed and forever, for a tracker to
 * follow: writes (by itself and through the kernel), maps, unmaps, moves, drops, protects, asks for
 * huge pages and guard pages, forks, executes itself, starts and ends threads.
 *
 * Each thread has blocks of its own, and writes to memory that all threads share. It checks
 * nothing: whoever looks on compares.
 *
 * Usage: target SEED THREADS FEATURES [DEPTH]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

enum { PAGE = 4096, BLOCKS = 10, BLOCK_PAGES = 40, SHARED_PAGES = 64, HUGE_PAGE = 1 << 21 };
enum { FORKS = 1, EXECS = 2, THREADS = 4, HUGE = 8, MOVES = 16, GUARDS = 32 };
enum { CHILDREN = 2, DEPTH = 1, THREADS_MAX = 4 };

struct block {
	char *at;
	size_t pages;
};

struct thread {
	uint64_t random;
	int may_fork;
	int steps;
	struct block blocks[BLOCKS];
	unsigned count;
};

static unsigned features;
static int depth;
static char *shared;
static char *self;
static int threads;
static int children;

/* What the thread is doing, for whoever has to find out why it died. */
static __thread const char *doing = "nothing";
static __thread long detail;

static void die(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	char text[256];
	int size = snprintf(text, sizeof text, "process %d: signal %d at %p, instruction %llx, while %s %ld\n",
	                    getpid(), signal, info->si_addr,
	                    (unsigned long long)at->uc_mcontext.gregs[REG_RIP], doing, detail);
	(void)!write(2, text, (size_t)size);
	_exit(11);
}

static uint64_t next(struct thread *t)
{
	t->random += 0x9e3779b97f4a7c15ull;
	uint64_t x = t->random;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static size_t below(struct thread *t, size_t n)
{
	return next(t) % n;
}

static void fill(struct thread *t, char *at, size_t bytes)
{
	for (size_t i = 0; i + 8 <= bytes; i += 8)
		*(volatile uint64_t *)(at + i) = next(t);
}

static void forget(struct thread *t, unsigned i)
{
	t->blocks[i] = t->blocks[--t->count];
}

static char *map(void *at, size_t pages, int flags)
{
	void *p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void add(struct thread *t, char *at, size_t pages)
{
	if (!at)
		return;
	if (t->count == BLOCKS) {
		munmap(at, pages * PAGE);
		return;
	}
	t->blocks[t->count++] = (struct block){ .at = at, .pages = pages };
}

/* Some pages in the middle of a block. */
static char *part(struct thread *t, struct block *b, size_t *pages)
{
	size_t first = below(t, b->pages);
	*pages = 1 + below(t, b->pages - first);
	return b->at + first * PAGE;
}

static void write_block(struct thread *t, struct block *b)
{
	size_t pages;
	char *at = part(t, b, &pages);
	uint64_t word = next(t);
	doing = "writing";
	switch (detail = (long)below(t, 6)) {
	case 0:
		fill(t, at, pages * PAGE);
		break;
	case 1:
		memset(at, (int)word, pages * PAGE);
		break;
	case 2: { /* The kernel writes. */
		int ends[2];
		if (pipe2(ends, O_CLOEXEC))
			break;
		if (write(ends[1], &word, 8) == 8)
			(void)!read(ends[0], at + 8 * below(t, 512), 8);
		close(ends[0]);
		close(ends[1]);
		break;
	}
	case 3: { /* Past the page tables, for a moment. */
		struct iovec from = { &word, 8 }, to = { at + 8 * below(t, 512), 8 };
		(void)!process_vm_writev(getpid(), &from, 1, &to, 1, 0);
		break;
	}
	default:
		for (int i = 0; i < 200; i++)
			*(volatile uint64_t *)(b->at + 8 * below(t, b->pages * 512)) = next(t);
	}
}

/*
 * Moves memory, or puts new one at both places: of several mappings (kernel 6.17) a move can fail
 * halfway, and does where userfaultfd is in use.
 */
static int move_to(char *from, size_t pages, char *to, int flags)
{
	size_t bytes = pages * PAGE;
	if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to) == to)
		return 1;
	if (!map(from, pages, MAP_FIXED) || !map(to, pages, MAP_FIXED))
		abort();
	return 0;
}

static void move(struct thread *t, unsigned i)
{
	struct block *b = &t->blocks[i];
	size_t pages = 1 + below(t, BLOCK_PAGES);
	char *at;
	doing = "moving";
	switch (detail = (long)below(t, 6)) {
	case 0: /* Grow or shrink, perhaps elsewhere. */
		at = mremap(b->at, b->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
		if (at != MAP_FAILED) {
			b->at = at;
			b->pages = pages;
		}
		break;
	case 1: { /* Onto another block. */
		struct block *other = &t->blocks[below(t, t->count)];
		if (other == b)
			break;
		size_t both = b->pages < other->pages ? b->pages : other->pages;
		if (!move_to(b->at, both, other->at, 0))
			break;
		if (both < b->pages) {
			b->at += both * PAGE;
			b->pages -= both;
		} else {
			forget(t, i);
		}
		break;
	}
	case 2: /* Leaving zeros behind. */
		at = mremap(b->at, b->pages * PAGE, b->pages * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
		if (at != MAP_FAILED)
			add(t, at, b->pages);
		break;
	case 3: { /* To the end of another block, so that the kernel may join the two. */
		size_t first = 1 + below(t, BLOCK_PAGES);
		char *room = map(NULL, first + b->pages, 0);
		if (!room)
			break;
		fill(t, room, first * PAGE);
		if (below(t, 2))
			sched_yield();
		at = room + first * PAGE;
		if (move_to(b->at, b->pages, at, 0)) {
			b->at = room;
			b->pages += first;
		} else {
			add(t, room, first + b->pages);
		}
		break;
	}
	case 4: { /* There and back; its place is kept. */
		char *there = map(NULL, b->pages, 0);
		if (!there)
			break;
		if (move_to(b->at, b->pages, there, MREMAP_DONTUNMAP)) {
			if (below(t, 2))
				*(volatile uint64_t *)(there + 8 * below(t, b->pages * 512)) = next(t);
			if (move_to(there, b->pages, b->at, 0))
				break;
		}
		munmap(there, b->pages * PAGE);
		break;
	}
	default: /* Another one at the same place. */
		map(b->at, b->pages, MAP_FIXED);
		if (below(t, 2))
			*(volatile uint64_t *)(b->at + 8 * below(t, b->pages * 512)) = next(t);
	}
}

static void change(struct thread *t, unsigned i)
{
	struct block *b = &t->blocks[i];
	size_t pages;
	char *at = part(t, b, &pages);
	volatile uint64_t seen = 0;
	doing = "changing";
	switch (detail = (long)below(t, 9)) {
	case 0:
		madvise(at, pages * PAGE, MADV_DONTNEED);
		break;
	case 1:
		madvise(at, pages * PAGE, MADV_FREE);
		break;
	case 2: /* Reading holes. */
		for (size_t p = 0; p < pages; p++)
			seen += *(volatile uint64_t *)(at + p * PAGE);
		break;
	case 3: /* A hole in the middle: forget what comes after it. */
		munmap(at, pages * PAGE);
		if (at == b->at) {
			b->at += pages * PAGE;
			b->pages -= pages;
			if (!b->pages)
				forget(t, i);
		} else {
			size_t before = (at - b->at) / PAGE;
			if (before + pages < b->pages)
				munmap(at + pages * PAGE, (b->pages - before - pages) * PAGE);
			b->pages = before;
		}
		break;
	case 4: /* To and fro between kinds that are tracked and those that are not. */
		mprotect(b->at, b->pages * PAGE, PROT_READ | PROT_EXEC);
		if (below(t, 2))
			sched_yield();
		mprotect(b->at, b->pages * PAGE, PROT_READ | PROT_WRITE);
		break;
	case 5:
		mprotect(at, pages * PAGE, below(t, 2) ? PROT_NONE : PROT_READ);
		if (below(t, 2))
			sched_yield();
		mprotect(at, pages * PAGE, PROT_READ | PROT_WRITE);
		break;
	case 6: /* Writable and executable: written while not tracked. */
		mprotect(b->at, b->pages * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
		fill(t, at, 64);
		mprotect(b->at, b->pages * PAGE, PROT_READ | PROT_WRITE);
		break;
	case 7:
		if (features & GUARDS) {
			madvise(at, pages * PAGE, MADV_GUARD_INSTALL);
			if (below(t, 2))
				sched_yield();
			madvise(at, pages * PAGE, MADV_GUARD_REMOVE);
		}
		break;
	default:
		madvise(b->at, b->pages * PAGE, below(t, 2) ? MADV_MERGEABLE : MADV_UNMERGEABLE);
	}
}

static void huge(struct thread *t)
{
	char *at = map(NULL, 2 * HUGE_PAGE / PAGE, 0);
	if (!at)
		return;
	char *aligned = (char *)(((uintptr_t)at + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
	madvise(aligned, HUGE_PAGE, MADV_HUGEPAGE);
	*(volatile uint64_t *)aligned = next(t);
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < 50; i++)
			*(volatile uint64_t *)(aligned + 8 * below(t, HUGE_PAGE / 8)) = next(t);
		size_t page = below(t, HUGE_PAGE / PAGE - 8);
		switch (below(t, 8)) {
		case 0:
			madvise(aligned + page * PAGE, 8 * PAGE, MADV_DONTNEED);
			break;
		case 1:
			madvise(aligned, HUGE_PAGE, MADV_COLLAPSE);
			break;
		case 2:
			mprotect(aligned + page * PAGE, 4 * PAGE, PROT_READ);
			mprotect(aligned + page * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE);
			break;
		default:
			sched_yield();
		}
	}
	munmap(at, 2 * HUGE_PAGE);
}

static void *run(void *thread);

static void replace(struct thread *t)
{
	char seed[24], count[12], mask[12], level[12];
	snprintf(seed, sizeof seed, "%llu", (unsigned long long)next(t));
	snprintf(count, sizeof count, "%d", 1 + (int)below(t, 3));
	snprintf(mask, sizeof mask, "%u", features & ~EXECS);
	snprintf(level, sizeof level, "%d", depth);
	execl(self, self, seed, count, mask, level, (char *)NULL);
	_exit(9);
}

static void die_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		children--;
}

static void spawn(struct thread *t)
{
	reap();
	if (children >= CHILDREN || depth >= DEPTH)
		return;
	struct thread *child = malloc(sizeof *child);
	*child = *t;
	child->random = next(t);
	child->steps = below(t, 3) ? -1 : (int)below(t, 400);
	int executes = (features & EXECS) && below(t, 3) == 0;
	pid_t parent = getpid();
	pid_t pid = (executes && below(t, 2)) ? vfork() : fork();
	if (pid == 0) {
		if (executes)
			replace(child);
		die_with_parent(parent);
		depth++;
		children = 0;
		run(child);
		_exit(0);
	}
	if (pid > 0)
		children++;
	free(child);
}

static void start_thread(struct thread *t)
{
	if (__atomic_load_n(&threads, __ATOMIC_RELAXED) >= THREADS_MAX)
		return;
	struct thread *other = calloc(1, sizeof *other);
	other->random = next(t);
	other->steps = (int)below(t, 300);
	pthread_t id;
	__atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
	if (pthread_create(&id, NULL, run, other)) {
		__atomic_sub_fetch(&threads, 1, __ATOMIC_RELAXED);
		free(other);
		return;
	}
	pthread_detach(id);
}

static void step(struct thread *t)
{
	for (int i = 0; i < 20; i++)
		__atomic_store_n((uint64_t *)(shared + 8 * below(t, SHARED_PAGES * 512)), next(t), __ATOMIC_RELAXED);
	size_t what = below(t, 100);
	doing = "step";
	detail = (long)what;
	if (t->count == 0 || what < 10) {
		size_t pages = 1 + below(t, BLOCK_PAGES);
		add(t, map(NULL, pages, 0), pages);
		return;
	}
	unsigned i = (unsigned)below(t, t->count);
	if (what < 55) {
		write_block(t, &t->blocks[i]);
	} else if (what < 75) {
		change(t, i);
	} else if (what < 88) {
		if (features & MOVES)
			move(t, i);
	} else if (what < 92) {
		munmap(t->blocks[i].at, t->blocks[i].pages * PAGE);
		forget(t, i);
	} else if (what < 94) {
		if (features & HUGE)
			huge(t);
	} else if (what < 96) {
		if (features & THREADS)
			start_thread(t);
	} else if (what < 98) {
		/* The heap grows and shrinks. */
		char *pieces[6];
		for (int n = 0; n < 6; n++) {
			pieces[n] = malloc(100000);
			if (pieces[n])
				memset(pieces[n] + below(t, 90000), (int)next(t), 9000);
		}
		sched_yield();
		for (int n = 0; n < 6; n++)
			free(pieces[n]);
	} else if (t->may_fork) {
		if (features & FORKS)
			spawn(t);
		if ((features & EXECS) && depth == 0 && below(t, 60) == 0)
			replace(t);
	}
}

static void *run(void *thread)
{
	struct thread *t = thread;
	for (int n = 0; t->steps < 0 || n < t->steps; n++)
		step(t);
	for (unsigned i = 0; i < t->count; i++)
		munmap(t->blocks[i].at, t->blocks[i].pages * PAGE);
	__atomic_sub_fetch(&threads, 1, __ATOMIC_RELAXED);
	free(t);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Whoever looks on must get a word in. */
	(void)!nice(5);
	self = "/proc/self/exe";
	uint64_t seed = strtoull(argv[1], NULL, 10);
	int count = atoi(argv[2]);
	features = (unsigned)atoi(argv[3]);
	depth = argc > 4 ? atoi(argv[4]) : 0;
	struct sigaction action = { .sa_sigaction = die, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	shared = map(NULL, SHARED_PAGES, 0);
	if (!shared)
		return 4;
	/* Whoever started it knows that it has begun. */
	if (depth == 0 && write(1, "+", 1) != 1)
		return 5;
	struct thread *first = NULL;
	for (int i = 0; i < count; i++) {
		struct thread *t = calloc(1, sizeof *t);
		t->random = seed * 1000003 + (uint64_t)i;
		t->steps = -1;
		threads++;
		if (i == 0) {
			t->may_fork = 1;
			first = t;
			continue;
		}
		pthread_t id;
		if (pthread_create(&id, NULL, run, t))
			return 6;
	}
	run(first);
	return 0;
}
