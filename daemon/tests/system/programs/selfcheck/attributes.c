/* What belongs to a process and is not memory. */
#include "selfcheck.h"

#include <dirent.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[4096];
static uid_t uid;
static gid_t gid;
static int group_count;
static pid_t first_thread;

static void start(void)
{
	mkdir(in_folder("work"), 0700);
	must(chdir(in_folder("work")));
	if (!getcwd(directory, sizeof directory))
		give_up(__FILE__, __LINE__, "getcwd");
	umask(0137);
	struct rlimit limit = { 777, 1000 };
	must(setrlimit(RLIMIT_NOFILE, &limit));
	limit = (struct rlimit){ 0, 0 };
	must(setrlimit(RLIMIT_CORE, &limit));
	must(prctl(PR_SET_NAME, "self check!"));
	must(setpriority(PRIO_PROCESS, 0, 3));
	must(setenv("SELFCHECK", "is set", 1));
	uid = getuid();
	gid = getgid();
	group_count = getgroups(0, NULL);
	first_thread = gettid();
}

/* The open descriptors, as one number. */
static uint64_t descriptors(void)
{
	uint64_t sum = 0;
	DIR *folder_of_them = opendir("/proc/self/fd");
	if (!folder_of_them)
		give_up(__FILE__, __LINE__, "opendir");
	struct dirent *entry;
	while ((entry = readdir(folder_of_them)))
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(folder_of_them))
			sum += 1000 + (uint64_t)atoi(entry->d_name);
	closedir(folder_of_them);
	return sum;
}

static void check(unsigned round)
{
	static uint64_t open_at_first;
	char here[4096] = "", name[16] = "";
	expect(getcwd(here, sizeof here) && !strcmp(here, directory), "the directory is %s", here);
	mode_t mask = umask(0137);
	expect(mask == 0137, "the file mode mask is %o", mask);
	struct rlimit limit;
	must(getrlimit(RLIMIT_NOFILE, &limit));
	expect(limit.rlim_cur == 777 && limit.rlim_max == 1000, "limits of files: %lu, %lu",
	       limit.rlim_cur, limit.rlim_max);
	must(getrlimit(RLIMIT_CORE, &limit));
	expect(limit.rlim_cur == 0 && limit.rlim_max == 0, "limits of cores: %lu, %lu",
	       limit.rlim_cur, limit.rlim_max);
	must(prctl(PR_GET_NAME, name));
	expect(!strcmp(name, "self check!"), "the name is %s", name);
	expect(getpriority(PRIO_PROCESS, 0) == 3, "the priority is %d", getpriority(PRIO_PROCESS, 0));
	const char *variable = getenv("SELFCHECK");
	expect(variable && !strcmp(variable, "is set"), "the environment has changed");
	expect(getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid,
	       "user %d, group %d", geteuid(), getegid());
	expect(getgroups(0, NULL) == group_count, "%d groups", getgroups(0, NULL));
	expect(gettid() == first_thread, "the thread is %d, not %d", gettid(), first_thread);
	expect(prctl(PR_GET_DUMPABLE) == 1, "dumpable is %d", prctl(PR_GET_DUMPABLE));
	if (round == 0)
		open_at_first = descriptors();
	expect(descriptors() == open_at_first, "other descriptors are open than at first");
}

const struct part attributes = { "attributes", start, check };
