/* Rounds. */
#include "selfcheck.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *folder;
long jump_limit_ms;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char first_difference[512];
static const char *current = "?";

void differs(const char *format, ...)
{
	char text[400];
	va_list list;
	va_start(list, format);
	vsnprintf(text, sizeof text, format, list);
	va_end(list);
	pthread_mutex_lock(&lock);
	if (!first_difference[0])
		snprintf(first_difference, sizeof first_difference, "(in %s) %s", current, text);
	pthread_mutex_unlock(&lock);
}

void give_up(const char *file, int line, const char *call)
{
	printf("%s:%d: %s: %s\n", file, line, call, strerror(errno));
	fflush(stdout);
	_exit(70);
}

int64_t now_ns(clockid_t clock)
{
	struct timespec now;
	must(clock_gettime(clock, &now));
	return now.tv_sec * SECOND + now.tv_nsec;
}

const char *in_folder(const char *name)
{
	static char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	return path;
}

static void say(unsigned round)
{
	pthread_mutex_lock(&lock);
	if (first_difference[0])
		printf("round %u: %s\n", round, first_difference);
	else
		printf("round %u ok\n", round);
	first_difference[0] = 0;
	pthread_mutex_unlock(&lock);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct part *const parts[] = { &attributes, &processes, &files, &streams,
						    &events,     &signals,   &timers, &memory,
						    &registers,  &clocks };
	size_t count = sizeof parts / sizeof *parts;
	if (argc != 3) {
		fprintf(stderr, "usage: %s FOLDER CLOCK-JUMP-LIMIT-MS\n", argv[0]);
		return 2;
	}
	folder = argv[1];
	jump_limit_ms = atol(argv[2]);
	/* Threads take what they want; everybody else is left alone. */
	sigset_t all;
	sigfillset(&all);
	sigdelset(&all, SIGTERM);
	sigdelset(&all, SIGINT);
	sigdelset(&all, SIGUSR1);
	must(sigprocmask(SIG_SETMASK, &all, NULL));
	for (size_t at = 0; at < count; at++)
		parts[at]->start();
	for (unsigned round = 0;; round++) {
		for (size_t at = 0; at < count; at++) {
			current = parts[at]->name;
			parts[at]->check(round);
		}
		current = "between";
		say(round);
		struct timespec pause = { 0, 15 * MS };
		nanosleep(&pause, NULL);
	}
}
