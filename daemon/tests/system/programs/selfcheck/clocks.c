/* Clocks that know nothing of the time away. */
#include "selfcheck.h"

static const struct {
	const char *name;
	clockid_t clock;
	bool may_jump;
} all[] = {
	{ "the monotonic clock", CLOCK_MONOTONIC, false },
	{ "the clock since boot", CLOCK_BOOTTIME, false },
	{ "the coarse monotonic clock", CLOCK_MONOTONIC_COARSE, false },
	{ "the time of day", CLOCK_REALTIME, true },
};

static int64_t before[sizeof all / sizeof *all];

static void start(void)
{
	for (size_t at = 0; at < sizeof all / sizeof *all; at++)
		before[at] = now_ns(all[at].clock);
}

static void check(unsigned round)
{
	(void)round;
	for (size_t at = 0; at < sizeof all / sizeof *all; at++) {
		int64_t now = now_ns(all[at].clock), jump_ms = (now - before[at]) / MS;
		before[at] = now;
		expect(jump_ms >= 0, "%s went back by %ld ms", all[at].name, -jump_ms);
		expect(all[at].may_jump || jump_ms < jump_limit_ms, "%s jumped by %ld ms",
		       all[at].name, jump_ms);
	}
}

const struct part clocks = { "clocks", start, check };
