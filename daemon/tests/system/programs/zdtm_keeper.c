// Parent of one of CRIU's test programs while it moves.
//   zdtm_keeper FOLDER NAME PROGRAM ARGUMENT...
// Starts the program in FOLDER, which leaves a daemon behind whose PID is in NAME.pid, and says
// "ready". At the first byte on standard input (or its end) it asks the daemon to check itself, and
// prints the verdict: the last line of NAME.out. Everything else goes to NAME.log.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_SECONDS = 60, CHECK_SECONDS = 60 };

static int say(const char *what, int status)
{
	printf("%s\n", what);
	fflush(stdout);
	return status;
}

static void too_late(int signal)
{
	static const char what[] = "FAIL: does not end\n";
	(void)signal;
	(void)!write(1, what, sizeof(what) - 1);
	_exit(4);
}

static void child_changed(int signal)
{
	(void)signal;
}

static void start(const char *name, char **argv)
{
	char log[256];
	snprintf(log, sizeof(log), "%s.log", name);
	int out = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644), in = open("/dev/null", O_RDONLY);
	if (out < 0 || in < 0)
		_exit(126);
	dup2(in, 0);
	dup2(out, 1);
	dup2(out, 2);
	close(in);
	close(out);
	execv(argv[0], argv);
	_exit(127);
}

static pid_t read_pid(const char *name)
{
	char path[256];
	int pid = 0;
	snprintf(path, sizeof(path), "%s.pid", name);
	FILE *file = fopen(path, "r");
	if (!file)
		return 0;
	if (fscanf(file, "%d", &pid) != 1)
		pid = 0;
	fclose(file);
	return pid;
}

// Waits for a word on standard input; reaps meanwhile. Returns whether the daemon still runs.
static int wait_for_word(pid_t daemon)
{
	int runs = 1;
	sigset_t blocked, open;
	struct sigaction action = { .sa_handler = child_changed };
	struct pollfd input = { .fd = 0, .events = POLLIN };
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &open);
	sigaction(SIGCHLD, &action, NULL);
	for (;;) {
		pid_t ended;
		while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
			runs &= ended != daemon;
		if (ppoll(&input, 1, NULL, &open) == 1)
			break;
	}
	sigprocmask(SIG_SETMASK, &open, NULL);
	return runs;
}

static int verdict(const char *name)
{
	char path[256], line[4096], last[4096] = "FAIL: no verdict";
	snprintf(path, sizeof(path), "%s.out", name);
	FILE *file = fopen(path, "r");
	if (!file)
		return say("FAIL: no verdict", 1);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		if (*line)
			strcpy(last, line);
	}
	fclose(file);
	return say(last, strstr(last, "PASS") ? 0 : 1);
}

int main(int argc, char **argv)
{
	if (argc < 4 || chdir(argv[1]))
		return say("FAIL: usage", 2);
	const char *name = argv[2];
	signal(SIGALRM, too_late);
	alarm(START_SECONDS);
	pid_t starter = fork();
	if (starter == 0)
		start(name, argv + 3);
	int status;
	while (waitpid(starter, &status, 0) < 0 && errno == EINTR)
		;
	alarm(0);
	pid_t daemon = read_pid(name);
	if (status != 0 || daemon == 0)
		return say("SKIP: does not start", 3);
	say("ready", 0);
	if (!wait_for_word(daemon))
		return say("FAIL: ended by itself", 1);
	alarm(CHECK_SECONDS);
	kill(daemon, SIGTERM);
	for (;;) {
		pid_t ended = waitpid(-1, NULL, 0);
		if (ended == daemon || (ended < 0 && errno != EINTR))
			break;
	}
	return verdict(name);
}
