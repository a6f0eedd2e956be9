/* Counts what a process does to files, and kills it before the step that it is told.
 *
 * STEPS_TO names a file that gets the number of steps when the process ends by itself. STEPS_AT is the step, from 1, that is not done any more; of a plain write in an even step, half is. What goes to
 * the standard streams is no step. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long done;

/* True in the step that is not done. */
static int is_last(void) {
    const char *at = getenv("STEPS_AT");
    return atomic_fetch_add(&done, 1) + 1 == (at ? atol(at) : 0);
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int is_file(int fd) {
    struct stat of;
    return fd > 2 && fstat(fd, &of) == 0 && S_ISREG(of.st_mode);
}

static size_t half(size_t bytes) {
    const char *at = getenv("STEPS_AT");
    return at && atol(at) % 2 == 0 ? bytes / 2 : 0;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (is_file(fd) && is_last()) {
        real(fd, bytes, half(count));
        end();
    }
    return real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (is_file(fd) && is_last()) end();
    return real(fd, parts, count);
}

#define PWRITE(name)                                                             \
    ssize_t name(int fd, const void *bytes, size_t count, off_t at) {            \
        REAL(ssize_t, name, int, const void *, size_t, off_t);                   \
        if (is_last()) {                                                         \
            real(fd, bytes, half(count), at);                                    \
            end();                                                               \
        }                                                                        \
        return real(fd, bytes, count, at);                                       \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(name)                                                           \
    int name(int fd, off_t length) {                                             \
        REAL(int, name, int, off_t);                                             \
        if (is_last()) end();                                                    \
        return real(fd, length);                                                 \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define OF_PATH(name)                                                            \
    int name(const char *path) {                                                 \
        REAL(int, name, const char *);                                           \
        if (is_last()) end();                                                    \
        return real(path);                                                       \
    }
OF_PATH(unlink)
OF_PATH(rmdir)

#define OF_TWO(name)                                                             \
    int name(const char *from, const char *to) {                                 \
        REAL(int, name, const char *, const char *);                             \
        if (is_last()) end();                                                    \
        return real(from, to);                                                   \
    }
OF_TWO(rename)
OF_TWO(link)

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    if (is_last()) end();
    return real(from_dir, from, to_dir, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    if (is_last()) end();
    return real(path, mode);
}

#define OPEN(name)                                                               \
    int name(const char *path, int flags, ...) {                                 \
        REAL(int, name, const char *, int, ...);                                 \
        va_list more;                                                            \
        va_start(more, flags);                                                   \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                            \
        if (flags & (O_CREAT | O_TRUNC) && is_last()) end();                     \
        return real(path, flags, mode);                                          \
    }
OPEN(open)
OPEN(open64)

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("STEPS_TO");
    long count = atomic_load(&done);
    FILE *to = path ? fopen(path, "w") : NULL;
    if (!to) return;
    fprintf(to, "%ld", count);
    fclose(to);
}
