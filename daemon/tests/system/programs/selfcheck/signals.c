/* Signals: pending ones, masks, handlers, the alternative stack. */
#include "selfcheck.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define QUEUED (SIGRTMIN + 4)
#define DIRECTED (SIGRTMIN + 5)

static uint8_t stack[64 << 10];
static sigset_t mask_before;
static volatile bool handled, on_stack;
static pthread_t receiver;
static sem_t look, looked;
static volatile unsigned expected_value;

static void handle(int number, siginfo_t *about, void *unused)
{
	uint8_t here = 0;
	(void)unused;
	handled = number == SIGUSR1 && about->si_value.sival_int == 99;
	on_stack = &here >= stack && &here < stack + sizeof stack;
}

static void *receive(void *unused)
{
	(void)unused;
	for (;;) {
		siginfo_t about;
		sigset_t set;
		struct timespec now = { 0, 0 };
		while (sem_wait(&look))
			;
		sigemptyset(&set);
		sigaddset(&set, DIRECTED);
		int got = sigtimedwait(&set, &about, &now);
		expect(got == DIRECTED && about.si_value.sival_int == (int)expected_value,
		       "the thread's pending signal: %d, value %d", got, about.si_value.sival_int);
		sem_post(&looked);
	}
	return NULL;
}

static void leave(unsigned round)
{
	union sigval value = { .sival_int = (int)(round * 2) };
	must(sigqueue(getpid(), QUEUED, value));
	value.sival_int++;
	must(sigqueue(getpid(), QUEUED, value));
	value.sival_int = (int)round;
	pthread_sigqueue(receiver, DIRECTED, value);
	/* One that is not queued, only pending. */
	must(kill(getpid(), SIGHUP));
}

static void find(unsigned round)
{
	sigset_t set;
	siginfo_t about;
	struct timespec now = { 0, 0 };
	sigemptyset(&set);
	sigaddset(&set, QUEUED);
	for (int at = 0; at < 2; at++) {
		int got = sigtimedwait(&set, &about, &now);
		expect(got == QUEUED && about.si_value.sival_int == (int)round * 2 + at &&
			       about.si_code == SI_QUEUE && about.si_pid == getpid(),
		       "queued signal %d: %d, value %d, code %d, pid %d", at, got,
		       about.si_value.sival_int, about.si_code, about.si_pid);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	expect(sigtimedwait(&set, &about, &now) == SIGHUP, "the pending signal is gone");
	expected_value = round;
	sem_post(&look);
	while (sem_wait(&looked))
		;
}

static void start(void)
{
	stack_t alternative = { .ss_sp = stack, .ss_size = sizeof stack };
	struct sigaction action = { .sa_sigaction = handle,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	must(sigaltstack(&alternative, NULL));
	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGCHLD);
	must(sigaction(SIGUSR1, &action, NULL));
	signal(SIGPIPE, SIG_IGN);
	must(sigprocmask(SIG_SETMASK, NULL, &mask_before));
	sem_init(&look, 0, 0);
	sem_init(&looked, 0, 0);
	pthread_create(&receiver, NULL, receive, NULL);
	pthread_setname_np(receiver, "receiver");
}

static void check(unsigned round)
{
	if (round > 0)
		find(round - 1);
	leave(round);

	sigset_t mask;
	must(sigprocmask(SIG_SETMASK, NULL, &mask));
	for (int number = 1; number <= SIGRTMAX; number++)
		expect(sigismember(&mask, number) == sigismember(&mask_before, number),
		       "the mask has changed at signal %d", number);
	struct sigaction action;
	must(sigaction(SIGUSR1, NULL, &action));
	expect(action.sa_sigaction == handle && sigismember(&action.sa_mask, SIGCHLD) &&
		       (action.sa_flags & (SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART)) ==
			       (SA_SIGINFO | SA_ONSTACK | SA_NODEFER),
	       "the handler has changed: flags %x", action.sa_flags);
	must(sigaction(SIGPIPE, NULL, &action));
	expect(action.sa_handler == SIG_IGN, "an ignored signal is not ignored any more");
	union sigval value = { .sival_int = 99 };
	handled = on_stack = false;
	must(sigqueue(getpid(), SIGUSR1, value));
	expect(handled && on_stack, "the handler ran: %d, on its stack: %d", handled, on_stack);
}

const struct part signals = { "signals", start, check };
