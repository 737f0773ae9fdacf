/* eventfd, epoll, timerfd, signalfd, inotify. */
#include "selfcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TAG 0x123456789abcdef0
/* Attempts to see an event: those in the queue at a freeze are dropped by CRIU, which says so. */
#define INOTIFY_ATTEMPTS 3

static int counter, ready, epoll, readable[2], ticking, far, signals_in, watcher, watch;
static int64_t far_began;

static void start(void)
{
	counter = must(eventfd(5, EFD_NONBLOCK));
	/* CRIU 4.2 forgets EFD_SEMAPHORE. */
	ready = must(eventfd(1, EFD_CLOEXEC));

	must(pipe(readable));
	must(write(readable[1], "stays", 5));
	epoll = must(epoll_create1(EPOLL_CLOEXEC));
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = TAG };
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, readable[0], &event));
	event.data.u64 = TAG + 1;
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, ready, &event));
	/* Silent: it is full of nothing. */
	event.data.u64 = TAG + 2;
	event.events = EPOLLPRI;
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event));

	struct itimerspec often = { { 0, 8 * MS }, { 0, 8 * MS } };
	struct itimerspec once = { { 0, 0 }, { 50000, 0 } };
	ticking = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	far = must(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));
	must(timerfd_settime(ticking, 0, &often, NULL));
	must(timerfd_settime(far, 0, &once, NULL));
	far_began = now_ns(CLOCK_BOOTTIME);

	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	signals_in = must(signalfd(-1, &set, SFD_NONBLOCK));

	mkdir(in_folder("watched"), 0700);
	watcher = must(inotify_init1(IN_NONBLOCK));
	watch = must(inotify_add_watch(watcher, in_folder("watched"), IN_CREATE));
}

static void check_counters(unsigned round)
{
	uint64_t value = 0;
	ssize_t got = read(counter, &value, 8);
	uint64_t expected = round == 0 ? 5 : 1000 + round - 1;
	expect(got == 8 && value == expected, "eventfd: %lu instead of %lu", value, expected);
	value = 1000 + round;
	must(write(counter, &value, 8));
}

static void check_epoll(void)
{
	struct epoll_event found[4];
	int count = epoll_wait(epoll, found, 4, 0);
	uint64_t tags = 0;
	for (int at = 0; at < count; at++) {
		tags |= 1ul << (found[at].data.u64 - TAG);
		expect(found[at].events == EPOLLIN, "epoll tells %x", found[at].events);
	}
	expect(count == 2 && tags == 3, "epoll tells of %d descriptors: %lx", count, tags);
}

static void check_timers(void)
{
	struct pollfd ready = { .fd = ticking, .events = POLLIN };
	uint64_t ticks = 0;
	expect(poll(&ready, 1, 5000) == 1, "the timerfd is silent");
	expect(read(ticking, &ticks, 8) == 8 && ticks > 0, "the timerfd gives %lu ticks", ticks);
	struct itimerspec left;
	must(timerfd_gettime(ticking, &left));
	expect(left.it_interval.tv_nsec == 8 * MS, "the timerfd's interval is %ld ns",
	       left.it_interval.tv_nsec);
	must(timerfd_gettime(far, &left));
	int64_t expected = far_began + 50000 * SECOND - now_ns(CLOCK_BOOTTIME);
	int64_t is = left.it_value.tv_sec * SECOND + left.it_value.tv_nsec;
	static int64_t late_before;
	late_in_this_round("the far timerfd", is - expected, &late_before);
	expect(read(far, &ticks, 8) == -1 && errno == EAGAIN, "the far timerfd has fired");
}

static void check_signals(unsigned round)
{
	struct signalfd_siginfo about;
	if (round > 0) {
		ssize_t got = read(signals_in, &about, sizeof about);
		expect(got == sizeof about && about.ssi_signo == SIGUSR2 &&
			       about.ssi_int == (int)round - 1,
		       "signalfd: %zd bytes, signal %u, value %d", got, about.ssi_signo,
		       about.ssi_int);
	}
	expect(read(signals_in, &about, sizeof about) == -1, "signalfd gives a signal too many");
	must(sigqueue(getpid(), SIGUSR2, (union sigval){ .sival_int = (int)round }));
}

static bool creation_is_seen(void)
{
	union {
		struct inotify_event event;
		char room[4096];
	} told;
	/* What was left of an earlier attempt. */
	while (read(watcher, &told, sizeof told) > 0)
		;
	close(must(open(in_folder("watched/new"), O_CREAT | O_EXCL | O_WRONLY, 0600)));
	ssize_t got = read(watcher, &told, sizeof told);
	must(unlink(in_folder("watched/new")));
	if (got < (ssize_t)sizeof told.event)
		return false;
	expect(told.event.wd == watch && (told.event.mask & IN_CREATE) &&
		       !strcmp(told.event.name, "new"),
	       "inotify tells %x of watch %d, not %d", told.event.mask, told.event.wd, watch);
	return true;
}

static void check(unsigned round)
{
	check_counters(round);
	check_epoll();
	check_timers();
	check_signals(round);
	bool seen = false;
	for (int attempt = 0; attempt < INOTIFY_ATTEMPTS && !seen; attempt++)
		seen = creation_is_seen();
	expect(seen, "inotify does not tell of a new file");
}

const struct part events = { "events", start, check };
