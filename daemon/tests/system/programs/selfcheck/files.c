/* Files that travel: offsets, modes, locks, one without a name. */
#include "selfcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HIDDEN_BYTES 20000

static int data, twin, log_file, locked, flocked, open_locked, hidden, directory, null;
static off_t offset, log_size;

static int fresh(const char *name, int flags)
{
	unlink(in_folder(name));
	return must(open(in_folder(name), O_CREAT | flags, 0640));
}

static struct flock whole_file(short type)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = 10, .l_len = 90 };
}

static void start(void)
{
	data = fresh("data", O_RDWR);
	for (unsigned at = 0; at < 10000; at++)
		must(write(data, &at, sizeof at));
	offset = must(lseek(data, 400, SEEK_SET));
	twin = must(dup(data));
	log_file = fresh("log", O_WRONLY | O_APPEND);

	locked = fresh("locked", O_RDWR);
	struct flock lock = whole_file(F_WRLCK);
	must(fcntl(locked, F_SETLK, &lock));
	flocked = fresh("flocked", O_RDWR);
	must(flock(flocked, LOCK_EX));
	open_locked = fresh("open-locked", O_RDWR);
	lock = whole_file(F_WRLCK);
	must(fcntl(open_locked, F_OFD_SETLK, &lock));

	hidden = fresh("hidden", O_RDWR);
	for (int at = 0; at < HIDDEN_BYTES; at++)
		must(write(hidden, "h", 1));
	must(unlink(in_folder("hidden")));
	directory = must(open(folder, O_RDONLY | O_DIRECTORY));
	null = must(open("/dev/null", O_RDWR));
}

/* Called by a child: another process cannot have the parent's locks. */
const char *locks_wrong(pid_t holder)
{
	static int posix = -1, bsd = -1, ofd = -1;
	if (posix < 0) {
		posix = open(in_folder("locked"), O_RDWR);
		bsd = open(in_folder("flocked"), O_RDWR);
		ofd = open(in_folder("open-locked"), O_RDWR);
		if (posix < 0 || bsd < 0 || ofd < 0)
			return "a child cannot open the locked files";
	}
	struct flock lock = whole_file(F_WRLCK);
	if (fcntl(posix, F_GETLK, &lock) || lock.l_type != F_WRLCK || lock.l_pid != holder ||
	    lock.l_start != 10 || lock.l_len != 90)
		return "the POSIX lock is not held";
	if (flock(bsd, LOCK_EX | LOCK_NB) != -1 || errno != EWOULDBLOCK)
		return "the BSD lock is not held";
	lock = whole_file(F_WRLCK);
	lock.l_pid = 0;
	if (fcntl(ofd, F_OFD_SETLK, &lock) != -1 || (errno != EAGAIN && errno != EACCES))
		return "the open file description's lock is not held";
	return NULL;
}

static void check_data(unsigned round)
{
	unsigned word = ~0u;
	expect(lseek(data, 0, SEEK_CUR) == offset, "offset %ld, not %ld", lseek(data, 0, SEEK_CUR),
	       offset);
	must(read(round % 2 ? data : twin, &word, sizeof word));
	expect(word == offset / sizeof word, "word %u at offset %ld", word, offset);
	offset += sizeof word;
	if (offset >= 30000)
		offset = lseek(twin, 0, SEEK_SET);
	expect((fcntl(log_file, F_GETFL) & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_WRONLY),
	       "flags of the log: %x", fcntl(log_file, F_GETFL));
}

static void check(unsigned round)
{
	check_data(round);

	struct stat about;
	must(fstat(log_file, &about));
	expect(about.st_size == log_size, "the log has %ld bytes, not %ld", about.st_size, log_size);
	/* Where the offset is does not matter to what is appended. */
	must(lseek(log_file, 0, SEEK_SET));
	log_size += must(dprintf(log_file, "round %u\n", round));
	struct stat named;
	expect(!stat(in_folder("log"), &named) && named.st_ino == about.st_ino &&
		       named.st_size == log_size && (named.st_mode & 07777) == 0640,
	       "the log is not the file of its name");

	char bytes[2] = { 0 };
	must(fstat(hidden, &about));
	expect(about.st_nlink == 0 && about.st_size == HIDDEN_BYTES,
	       "the unlinked file: %lu links, %ld bytes", about.st_nlink, about.st_size);
	expect(pread(hidden, bytes, 1, round % HIDDEN_BYTES) == 1 && bytes[0] == 'h',
	       "the unlinked file has changed");
	expect(access(in_folder("hidden"), F_OK) == -1, "the unlinked file has a name");
	expect(faccessat(directory, "log", R_OK, 0) == 0, "the open folder has lost its files");
	must(write(null, "x", 1));
}

const struct part files = { "files", start, check };
