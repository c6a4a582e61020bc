/* Preloaded into a process: records what it changes and syncs in the folder POWER_CUT_ROOT.

   POWER_CUT_LOG/log has a line for each change of a name, in order:
   C created, T truncated, M folder, R renamed, L linked, U removed, D folder synced; and
   S number: a file synced, whose content at that moment is in POWER_CUT_LOG/number. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int snapshots;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int raw_open(const char *path, int flags) {
    return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

/* The absolute path; 0 if it is outside of the root. */
static int inside(int folder, const char *path, char *full) {
    const char *root = getenv("POWER_CUT_ROOT");
    char base[PATH_MAX] = "", link[64];
    if (!root || !path) return 0;
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0) return 0;
            base[length] = 0;
        }
        if (snprintf(full, PATH_MAX, path[0] ? "%s/%s" : "%s", base, path) >= PATH_MAX) return 0;
    } else {
        snprintf(full, PATH_MAX, "%s", path);
    }
    return strncmp(full, root, strlen(root)) == 0;
}

static void note(const char *format, ...) {
    char path[PATH_MAX], line[3 * PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    snprintf(path, sizeof path, "%s/log", getenv("POWER_CUT_LOG"));
    int file = raw_open(path, O_WRONLY | O_CREAT | O_APPEND);
    if (write(file, line, length) != length) abort();
    close(file);
}

static int record_open(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    int writes = (flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE;
    if (!writes || !inside(folder, path, full))
        return syscall(SYS_openat, folder, path, flags, mode);
    pthread_mutex_lock(&mutex);
    int file = syscall(SYS_openat, folder, path, flags, mode);
    if (file >= 0) note("%c\t%s\n", flags & O_TRUNC ? 'T' : 'C', full);
    pthread_mutex_unlock(&mutex);
    return file;
}

#define OPEN_MODE                                                   \
    mode_t mode = 0;                                                \
    if (flags & (O_CREAT | O_TMPFILE)) {                            \
        va_list arguments;                                          \
        va_start(arguments, flags);                                 \
        mode = va_arg(arguments, mode_t);                           \
        va_end(arguments);                                          \
    }
int open(const char *path, int flags, ...) { OPEN_MODE return record_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE return record_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { OPEN_MODE return record_open(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { OPEN_MODE return record_open(at, path, flags, mode); }

/* A change of one name or two. */
#define CHANGE(call, letter, at1, path1, at2, path2)                              \
    char first[PATH_MAX], second[PATH_MAX] = "";                                  \
    pthread_mutex_lock(&mutex);                                                   \
    int known = inside(at1, path1, first);                                        \
    known |= inside(at2, path2, second);                                          \
    int result = call;                                                            \
    if (known && result == 0) note("%s\t%s\t%s\n", letter, first, second);         \
    pthread_mutex_unlock(&mutex);                                                 \
    return result;
static const char *none;
int mkdir(const char *p, mode_t m) { CHANGE(NEXT(mkdir)(p, m), "M", AT_FDCWD, p, 0, none) }
int mkdirat(int d, const char *p, mode_t m) { CHANGE(NEXT(mkdirat)(d, p, m), "M", d, p, 0, none) }
int unlink(const char *p) { CHANGE(NEXT(unlink)(p), "U", AT_FDCWD, p, 0, none) }
int unlinkat(int d, const char *p, int f) { CHANGE(NEXT(unlinkat)(d, p, f), "U", d, p, 0, none) }
int rmdir(const char *p) { CHANGE(NEXT(rmdir)(p), "U", AT_FDCWD, p, 0, none) }
int rename(const char *a, const char *b) { CHANGE(NEXT(rename)(a, b), "R", AT_FDCWD, a, AT_FDCWD, b) }
int renameat(int d, const char *a, int e, const char *b) { CHANGE(NEXT(renameat)(d, a, e, b), "R", d, a, e, b) }
int renameat2(int d, const char *a, int e, const char *b, unsigned f) { CHANGE(NEXT(renameat2)(d, a, e, b, f), "R", d, a, e, b) }
int link(const char *a, const char *b) { CHANGE(NEXT(link)(a, b), "L", AT_FDCWD, a, AT_FDCWD, b) }
int linkat(int d, const char *a, int e, const char *b, int f) { CHANGE(NEXT(linkat)(d, a, e, b, f), "L", d, a, e, b) }

static int record_sync(int opened) {
    char full[PATH_MAX], copy[PATH_MAX], link[64], bytes[65536];
    struct stat status;
    if (!inside(opened, "", full) || fstat(opened, &status)) return syscall(SYS_fsync, opened);
    pthread_mutex_lock(&mutex);
    if (S_ISDIR(status.st_mode)) {
        note("D\t%s\n", full);
    } else {
        snprintf(copy, sizeof copy, "%s/%d", getenv("POWER_CUT_LOG"), ++snapshots);
        snprintf(link, sizeof link, "/proc/self/fd/%d", opened);
        /* Closing a second descriptor of a database would drop SQLite's locks on it. */
        int readable = (fcntl(opened, F_GETFL) & O_ACCMODE) != O_WRONLY;
        int from = readable ? opened : raw_open(link, O_RDONLY);
        int to = raw_open(copy, O_WRONLY | O_CREAT);
        ssize_t count, at = 0;
        for (; (count = pread(from, bytes, sizeof bytes, at)) > 0; at += count)
            if (write(to, bytes, count) != count) abort();
        if (!readable) close(from);
        close(to);
        note("S\t%s\t%d\n", full, snapshots);
    }
    pthread_mutex_unlock(&mutex);
    return syscall(SYS_fsync, opened);
}
int fsync(int opened) { return record_sync(opened); }
int fdatasync(int opened) { return record_sync(opened); }
