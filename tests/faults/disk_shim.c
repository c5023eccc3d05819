/* Between meshd and its disk, preloaded: records what is written, and fails, hangs or kills where it is told to.
 *
 * DISK_ROOT      only files below this directory are meant
 * DISK_RECORD    a file: every change to them is appended to it, in the order in which it took effect
 * DISK_CONTROL   a directory: a file of one of these names in it arms the point, from the next call on
 *                  fail-fsync, hang-fsync (until the file goes), kill-before-append, kill-after-append,
 *                  kill-before-fsync, kill-after-fsync; appending is writing to the write-ahead log
 *
 * A record is its kind (C create, W write, T truncate, S sync, U unlink), the length of the path (16 bits), the offset
 * or new size (64 bits), the length of the data (32 bits), packed in the machine's order; then the path and the data.
 * Rule: the record of a sync is appended after the sync, so what a client hears later stands behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static const char *root, *control;
static size_t root_length;
static int record_descriptor = -1;

__attribute__((constructor)) static void begin(void) {
    const char *record = getenv("DISK_RECORD");
    root = getenv("DISK_ROOT");
    control = getenv("DISK_CONTROL");
    root_length = root ? strlen(root) : 0;
    if (record) record_descriptor = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int meant(const char *path) {
    return root && !strncmp(path, root, root_length);
}

static int path_of(int descriptor, char *path) {
    char link[64];
    ssize_t length;
    int error = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, PATH_MAX - 1);
    errno = error;
    if (length < 0) return 0;
    path[length] = 0;
    return meant(path);
}

static int is_log(const char *path) {
    size_t length = strlen(path);
    return length > 4 && !strcmp(path + length - 4, "-wal");
}

static void record(char kind, const char *path, uint64_t offset, const void *data, uint32_t size) {
    struct __attribute__((packed)) { char kind; uint16_t path_length; uint64_t offset; uint32_t size; } head =
        {kind, (uint16_t)strlen(path), offset, size};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path_length}, {(void *)data, size}};
    int error = errno;
    if (record_descriptor >= 0 && writev(record_descriptor, parts, 3) < 0) abort();
    errno = error;
}

static int armed(const char *point) {
    char path[PATH_MAX];
    int error = errno, found;
    if (!control) return 0;
    snprintf(path, sizeof path, "%s/%s", control, point);
    found = !access(path, F_OK);
    errno = error;
    return found;
}

static void die_at(const char *point) {
    if (armed(point)) {
        kill(getpid(), SIGKILL);
        pause();
    }
}

static ssize_t written(ssize_t result, const char *path, uint64_t offset, const void *data) {
    if (result > 0) record('W', path, offset, data, (uint32_t)result);
    if (is_log(path)) die_at("kill-after-append");
    return result;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    char path[PATH_MAX];
    off_t offset;
    if (descriptor == record_descriptor || !path_of(descriptor, path)) return real(descriptor, data, size);
    offset = lseek(descriptor, 0, SEEK_CUR);
    if (is_log(path)) die_at("kill-before-append");
    return written(real(descriptor, data, size), path, (uint64_t)offset, data);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    char path[PATH_MAX];
    if (!path_of(descriptor, path)) return real(descriptor, data, size, offset);
    if (is_log(path)) die_at("kill-before-append");
    return written(real(descriptor, data, size, offset), path, (uint64_t)offset, data);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}

static int synced(int descriptor, int (*real)(int)) {
    char path[PATH_MAX];
    int result;
    if (!path_of(descriptor, path)) return real(descriptor);
    die_at("kill-before-fsync");
    if (armed("fail-fsync")) {
        errno = EIO;
        return -1;
    }
    while (armed("hang-fsync")) usleep(5000);
    result = real(descriptor);
    if (!result) record('S', path, 0, "", 0);
    die_at("kill-after-fsync");
    return result;
}

int fsync(int descriptor) {
    REAL(fsync);
    return synced(descriptor, real);
}

int fdatasync(int descriptor) {
    REAL(fdatasync);
    return synced(descriptor, real);
}

int ftruncate64(int descriptor, off64_t size) {
    REAL(ftruncate64);
    char path[PATH_MAX];
    int result = real(descriptor, size);
    if (!result && path_of(descriptor, path)) record('T', path, (uint64_t)size, "", 0);
    return result;
}

int ftruncate(int descriptor, off_t size) {
    return ftruncate64(descriptor, size);
}

int unlink(const char *path) {
    REAL(unlink);
    int result = real(path);
    if (!result && meant(path)) record('U', path, 0, "", 0);
    return result;
}

static int opened(const char *path, int flags, mode_t mode) {
    static int (*real)(const char *, int, ...);
    int creates = (flags & O_CREAT) && meant(path) && access(path, F_OK), result;
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    result = real(path, flags, mode);
    if (creates && result >= 0) record('C', path, 0, "", 0);
    return result;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    mode_t mode;
    va_start(rest, flags);
    mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    mode_t mode;
    va_start(rest, flags);
    mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}
