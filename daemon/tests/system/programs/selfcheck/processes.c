/* Children: running ones, their sessions and groups, one that has ended, a mutex among them. */
#include "selfcheck.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDED_STATUS 42
/* Longest time that a child may be silent. */
#define SILENCE (5 * SECOND)

enum { GROUP, SESSION, CHILDREN };

struct shared {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned asked, answered;
	struct {
		unsigned long turns;
		const char *wrong;
	} child[CHILDREN];
};

static struct shared *shared;
static pid_t own, own_session, child[CHILDREN], ended;

/* Answers questions under the mutex that both processes share. */
static void answer(void)
{
	struct timespec until;
	must(clock_gettime(CLOCK_MONOTONIC, &until));
	until.tv_nsec += 20 * MS;
	if (until.tv_nsec >= SECOND) {
		until.tv_nsec -= SECOND;
		until.tv_sec++;
	}
	pthread_mutex_lock(&shared->mutex);
	if (shared->asked == shared->answered)
		pthread_cond_timedwait(&shared->changed, &shared->mutex, &until);
	if (shared->asked != shared->answered) {
		shared->answered = shared->asked;
		pthread_cond_broadcast(&shared->changed);
	}
	pthread_mutex_unlock(&shared->mutex);
}

__attribute__((noreturn)) static void live(int which, pid_t parent)
{
	pid_t own_pid = getpid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		const char *wrong = NULL;
		if (getppid() != parent)
			wrong = "a child has another parent";
		else if (getpid() != own_pid)
			wrong = "a child has another number";
		else if (getpgrp() != own_pid)
			wrong = "a child is in another process group";
		else if (getsid(0) != (which == SESSION ? own_pid : getsid(parent)))
			wrong = "a child is in another session";
		/* The locks come after the fork. */
		else if (which == GROUP && __atomic_load_n(&shared->asked, __ATOMIC_SEQ_CST))
			wrong = locks_wrong(parent);
		if (wrong)
			shared->child[which].wrong = wrong;
		shared->child[which].turns++;
		if (which == GROUP) {
			answer();
		} else {
			struct timespec pause = { 0, 10 * MS };
			nanosleep(&pause, NULL);
		}
	}
}

static void start(void)
{
	own = getpid();
	own_session = getsid(0);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		give_up(__FILE__, __LINE__, "mmap");
	pthread_mutexattr_t mutex;
	pthread_mutexattr_init(&mutex);
	pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&shared->mutex, &mutex);
	pthread_condattr_t condition;
	pthread_condattr_init(&condition);
	pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
	pthread_condattr_setclock(&condition, CLOCK_MONOTONIC);
	pthread_cond_init(&shared->changed, &condition);
	for (int which = 0; which < CHILDREN; which++) {
		child[which] = must(fork());
		if (child[which] == 0) {
			if (which == SESSION)
				must(setsid());
			else
				must(setpgid(0, 0));
			live(which, own);
		}
	}
	setpgid(child[GROUP], child[GROUP]);
	ended = must(fork());
	if (ended == 0)
		_exit(ENDED_STATUS);
	siginfo_t about;
	must(waitid(P_PID, (id_t)ended, &about, WEXITED | WNOWAIT));
}

static void check_alive(int which)
{
	static unsigned long before[CHILDREN];
	static int64_t since[CHILDREN];
	int64_t now = now_ns(CLOCK_MONOTONIC);
	unsigned long turns = shared->child[which].turns;
	if (turns != before[which] || !since[which]) {
		before[which] = turns;
		since[which] = now;
	}
	expect(now - since[which] < SILENCE, "child %d is silent after %lu turns", which, turns);
	const char *wrong = shared->child[which].wrong;
	expect(!wrong, "%s", wrong);
	shared->child[which].wrong = NULL;
}

/* The child answers under the shared mutex. */
static void ask(unsigned round)
{
	struct timespec until;
	must(clock_gettime(CLOCK_MONOTONIC, &until));
	until.tv_sec += 5;
	int result = pthread_mutex_lock(&shared->mutex);
	expect(result == 0, "the shared mutex: %s", strerror(result));
	shared->asked = round + 1;
	pthread_cond_broadcast(&shared->changed);
	while (shared->answered != shared->asked && !result)
		result = pthread_cond_timedwait(&shared->changed, &shared->mutex, &until);
	expect(shared->answered == round + 1, "the child has answered %u of %u: %s",
	       shared->answered, round + 1, strerror(result));
	pthread_mutex_unlock(&shared->mutex);
}

static void check(unsigned round)
{
	for (int which = 0; which < CHILDREN; which++)
		check_alive(which);
	ask(round);
	expect(getpid() == own && getsid(0) == own_session, "process %d of session %d, not %d of %d",
	       getpid(), getsid(0), own, own_session);
	expect(getpgid(child[GROUP]) == child[GROUP] && getsid(child[SESSION]) == child[SESSION],
	       "the children's groups and sessions have changed");
	siginfo_t about = { 0 };
	int result = waitid(P_PID, (id_t)ended, &about, WEXITED | WNOWAIT | WNOHANG);
	expect(result == 0 && about.si_pid == ended && about.si_code == CLD_EXITED &&
		       about.si_status == ENDED_STATUS,
	       "the child that has ended: pid %d, code %d, status %d", about.si_pid, about.si_code,
	       about.si_status);
}

const struct part processes = { "processes", start, check };
