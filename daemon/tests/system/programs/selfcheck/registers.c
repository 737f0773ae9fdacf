/* Registers across a system call that blocks nearly all of the time. */
#include "selfcheck.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#ifdef __x86_64__
#include <fenv.h>
#include <immintrin.h>

struct vectors {
	uint8_t bytes[16][32];
};

struct general {
	uint64_t r8, r9, r10, r14, r15, rbx;
};

#define EACH(do) \
	do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11) do(12) do(13) do(14) do(15)
#define LOAD_YMM(n) "vmovdqu 32*" #n "(%%r12), %%ymm" #n "\n\t"
#define KEEP_YMM(n) "vmovdqu %%ymm" #n ", 32*" #n "(%%r13)\n\t"
#define LOAD_XMM(n) "movdqu 32*" #n "(%%r12), %%xmm" #n "\n\t"
#define KEEP_XMM(n) "movdqu %%xmm" #n ", 32*" #n "(%%r13)\n\t"
#define LOAD_GENERAL                                                             \
	"mov $0x1111111111111111, %%r8\n\tmov $0x2222222222222222, %%r9\n\t"     \
	"mov $0x3333333333333333, %%r10\n\tmov $0x4444444444444444, %%r14\n\t"   \
	"mov $0x5555555555555555, %%r15\n\tmov $0x6666666666666666, %%rbx\n\t"
#define KEEP_GENERAL                                                             \
	"mov %%r8, 512(%%r13)\n\tmov %%r9, 520(%%r13)\n\tmov %%r10, 528(%%r13)\n\t" \
	"mov %%r14, 536(%%r13)\n\tmov %%r15, 544(%%r13)\n\tmov %%rbx, 552(%%r13)\n\t"

struct kept {
	struct vectors vectors;
	struct general general;
};

#define BLOCK(name, load, keep)                                                             \
	static long name(int from, void *byte, const struct vectors *in, struct kept *out) \
	{                                                                                   \
		register const void *r12 asm("r12") = in;                                   \
		register void *r13 asm("r13") = out;                                        \
		long result;                                                                \
		asm volatile(EACH(load) LOAD_GENERAL "syscall\n\t" EACH(keep) KEEP_GENERAL  \
			     : "=a"(result)                                                 \
			     : "0"(0L), "D"((long)from), "S"(byte), "d"(1L), "r"(r12), "r"(r13) \
			     : "rcx", "r8", "r9", "r10", "r11", "r14", "r15", "rbx", "memory", \
			       "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
			       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",  \
			       "xmm15");                                                    \
		return result;                                                              \
	}

__attribute__((target("avx"))) BLOCK(block_avx, LOAD_YMM, KEEP_YMM);
BLOCK(block_sse, LOAD_XMM, KEEP_XMM);

static int go[2];
static unsigned long turns, seen;

static void *hold(void *unused)
{
	(void)unused;
	bool avx = __builtin_cpu_supports("avx");
	size_t width = avx ? 32 : 16;
	fesetround(FE_TOWARDZERO);
	for (unsigned turn = 1;; turn++) {
		struct vectors in;
		struct kept out;
		uint8_t byte = 0;
		for (size_t at = 0; at < sizeof in; at++)
			in.bytes[at / 32][at % 32] = (uint8_t)(at * 7 + turn);
		memset(&out, 0, sizeof out);
		long got = (avx ? block_avx : block_sse)(go[0], &byte, &in, &out);
		expect(got == 1 && byte == (uint8_t)turn, "the call returned %ld, byte %u of %u",
		       got, byte, (uint8_t)turn);
		for (int at = 0; at < 16; at++)
			expect(!memcmp(in.bytes[at], out.vectors.bytes[at], width),
			       "vector register %d has changed", at);
		const struct general *kept = &out.general;
		expect(kept->r8 == 0x1111111111111111 && kept->r9 == 0x2222222222222222 &&
			       kept->r10 == 0x3333333333333333 && kept->r14 == 0x4444444444444444 &&
			       kept->r15 == 0x5555555555555555 && kept->rbx == 0x6666666666666666,
		       "a general register has changed");
		expect(fegetround() == FE_TOWARDZERO && (_mm_getcsr() & 0x6000) == 0x6000,
		       "rounding has changed: %d, %x", fegetround(), _mm_getcsr());
		__atomic_store_n(&turns, turn, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void start(void)
{
	must(pipe(go));
	pthread_t thread;
	pthread_create(&thread, NULL, hold, NULL);
	pthread_setname_np(thread, "registers");
}

static void check(unsigned round)
{
	uint8_t byte = (uint8_t)(round + 1);
	must(write(go[1], &byte, 1));
	/* It was blocked since the last round; now it goes on. */
	int64_t end = now_ns(CLOCK_MONOTONIC) + 5 * SECOND;
	do {
		seen = __atomic_load_n(&turns, __ATOMIC_SEQ_CST);
	} while (seen != round + 1 && now_ns(CLOCK_MONOTONIC) < end);
	expect(seen == round + 1, "the blocked thread has not gone on: %lu of %u", seen, round + 1);
}
#else
#error "this test knows the registers of x86-64 only"
#endif

const struct part registers = { "registers", start, check };
