/* Timers that send signals: of POSIX and of old. */
#include "selfcheck.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

/* Longest time that a periodic timer may be silent while the program runs. */
#define SILENCE (5 * SECOND)

static volatile unsigned long posix_ticks, old_ticks;
static timer_t periodic, far;
static int64_t far_began;

static void tick(int number, siginfo_t *about, void *unused)
{
	(void)unused;
	if (number == SIGALRM)
		old_ticks++;
	else if (about->si_code == SI_TIMER && about->si_value.sival_int == 1234)
		posix_ticks++;
	else
		differs("signal %d has code %d, value %d", number, about->si_code,
			about->si_value.sival_int);
}

static void *receive(void *unused)
{
	(void)unused;
	sigset_t mine;
	sigemptyset(&mine);
	sigaddset(&mine, SIGALRM);
	sigaddset(&mine, SIGRTMIN + 1);
	pthread_sigmask(SIG_UNBLOCK, &mine, NULL);
	for (;;) {
		struct timespec pause = { 1, 0 };
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static void start(void)
{
	struct sigaction action = { .sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigfillset(&action.sa_mask);
	must(sigaction(SIGALRM, &action, NULL));
	must(sigaction(SIGRTMIN + 1, &action, NULL));
	pthread_t thread;
	pthread_create(&thread, NULL, receive, NULL);
	pthread_setname_np(thread, "timers");

	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
				  .sigev_signo = SIGRTMIN + 1,
				  .sigev_value.sival_int = 1234 };
	struct itimerspec often = { { 0, 9 * MS }, { 0, 9 * MS } };
	must(timer_create(CLOCK_MONOTONIC, &event, &periodic));
	must(timer_settime(periodic, 0, &often, NULL));
	struct sigevent never = { .sigev_notify = SIGEV_NONE };
	struct itimerspec later = { { 77, 0 }, { 100000, 0 } };
	must(timer_create(CLOCK_MONOTONIC, &never, &far));
	must(timer_settime(far, 0, &later, NULL));
	far_began = now_ns(CLOCK_MONOTONIC);
	struct itimerval old = { { 0, 11000 }, { 0, 11000 } };
	must(setitimer(ITIMER_REAL, &old, NULL));
	struct itimerval cpu = { { 12345, 0 }, { 12345, 0 } };
	must(setitimer(ITIMER_VIRTUAL, &cpu, NULL));
}

static void alive(const char *what, unsigned long ticks, unsigned long *before, int64_t *since)
{
	int64_t now = now_ns(CLOCK_MONOTONIC);
	if (ticks != *before || *since == 0) {
		*before = ticks;
		*since = now;
	}
	expect(now - *since < SILENCE, "%s is silent after %lu signals", what, ticks);
}

void late_in_this_round(const char *what, int64_t late, int64_t *before)
{
	int64_t later_ms = (late - *before) / MS;
	*before = late;
	expect(later_ms > -20 && later_ms < jump_limit_ms, "%s is %ld ms later than a round ago",
	       what, later_ms);
}

static void check(unsigned round)
{
	static unsigned long posix_before, old_before;
	static int64_t posix_since, old_since;
	(void)round;
	alive("the POSIX timer", posix_ticks, &posix_before, &posix_since);
	alive("the interval timer", old_ticks, &old_before, &old_since);

	struct itimerspec left;
	must(timer_gettime(periodic, &left));
	expect(left.it_interval.tv_sec == 0 && left.it_interval.tv_nsec == 9 * MS,
	       "the POSIX timer's interval is %ld.%09ld", left.it_interval.tv_sec,
	       left.it_interval.tv_nsec);
	must(timer_gettime(far, &left));
	int64_t expected = far_began + 100000 * SECOND - now_ns(CLOCK_MONOTONIC);
	int64_t is = left.it_value.tv_sec * SECOND + left.it_value.tv_nsec;
	static int64_t late_before;
	late_in_this_round("the far timer", is - expected, &late_before);
	expect(left.it_interval.tv_sec == 77, "the far timer's interval is %ld s",
	       left.it_interval.tv_sec);
	struct itimerval old;
	must(getitimer(ITIMER_REAL, &old));
	expect(old.it_interval.tv_usec == 11000 || old.it_interval.tv_usec == 12000,
	       "the interval timer's interval is %ld us", old.it_interval.tv_usec);
	must(getitimer(ITIMER_VIRTUAL, &old));
	expect(old.it_interval.tv_sec == 12345 && old.it_value.tv_sec > 12000,
	       "the virtual timer has %ld s of %ld s left", old.it_value.tv_sec,
	       old.it_interval.tv_sec);
}

const struct part timers = { "timers", start, check };
