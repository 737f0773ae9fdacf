/* A program that checks itself, over and over, and says in numbered lines whether all is as it
 * left it. Each part sets something up in `start` and looks at it in `check`, once in each round;
 * what it leaves behind at the end of a round must be there at the beginning of the next. */
#ifndef SELFCHECK_H
#define SELFCHECK_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

struct part {
	const char *name;
	void (*start)(void);
	void (*check)(unsigned round);
};

/* Something is not as it should be; the first such thing of a round is printed. From any thread. */
__attribute__((format(printf, 1, 2))) void differs(const char *format, ...);

#define expect(condition, ...)          \
	do {                            \
		if (!(condition))       \
			differs(__VA_ARGS__); \
	} while (0)

/* What cannot fail did: the program ends with a message. */
#define must(call)                                                       \
	({                                                               \
		__typeof__(call) result_ = (call);                       \
		if ((intptr_t)result_ == -1)                             \
			give_up(__FILE__, __LINE__, #call);              \
		result_;                                                 \
	})
__attribute__((noreturn)) void give_up(const char *file, int line, const char *call);

int64_t now_ns(clockid_t clock);

#define MS 1000000L
#define SECOND 1000000000L

/* The folder that moves with the program. */
extern const char *folder;

/* Path of a file in it; the result is good until the next call. */
const char *in_folder(const char *name);

/* By how much a clock may jump at most, in milliseconds. */
extern long jump_limit_ms;

/* A timer may be late by the time that a move takes, since what is kept of it is the time that is
 * left; it must not be early. `late` is by how much it is late in all. */
void late_in_this_round(const char *what, int64_t late, int64_t *before);

/* For the children: the locks of files.c are held by the parent. */
const char *locks_wrong(pid_t holder);

extern const struct part memory, registers, timers, signals, streams, events, files, processes,
	attributes, clocks;

#endif
