/* Preloaded into a node's process: clocks that are wrong and an fsync that is slow or fails, as a file says.
 *
 * - CLOCK_REALTIME jumps by `seconds`. (Time namespaces cannot do that: they move the monotonic clocks only.)
 * - Both clocks run fast or slow by `ppm` since `base`; what was gained or lost before stays in `gained`, so that the
 *   monotonic clock never goes back.
 * - fsync and fdatasync take `slow_ms` longer, and fail with EIO when `fail` is not 0.
 *
 * The writer makes `sequence` odd while it writes (a sequence lock). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct wrong { int64_t sequence, seconds, ppm, base, gained, slow_ms, fail; };

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static volatile struct wrong *file;

__attribute__((constructor)) static void begin(void) {
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    const char *path = getenv("ZONEKEEPER_CHAOS_SHIM");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *at = mmap(0, sizeof *file, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) file = at;
    close(fd);
}

static struct wrong look(void) {
    struct wrong w = {0};
    for (int64_t s; file; ) {
        s = file->sequence;
        __sync_synchronize();
        w.seconds = file->seconds, w.ppm = file->ppm, w.base = file->base, w.gained = file->gained;
        w.slow_ms = file->slow_ms, w.fail = file->fail;
        __sync_synchronize();
        if (!(s & 1) && s == file->sequence) break;
    }
    return w;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    if (!real_clock) begin();
    int failed = real_clock(clock, t);
    if (failed || !file || (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC)) return failed;
    struct wrong w = look();
    int64_t gained = w.gained;
    if (w.ppm) {
        struct timespec m;
        real_clock(CLOCK_MONOTONIC, &m);
        gained += (m.tv_sec * 1000000000LL + m.tv_nsec - w.base) / 1000 * w.ppm / 1000;
    }
    int64_t ns = t->tv_nsec + gained;
    t->tv_sec += ns / 1000000000LL, ns %= 1000000000LL;
    if (ns < 0) ns += 1000000000LL, t->tv_sec--;
    t->tv_nsec = ns;
    if (clock == CLOCK_REALTIME) t->tv_sec += w.seconds;
    return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    if (!failed) t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

/* The wait comes after the sync: the data is down, the news is late. */
static int judge(int done) {
    struct wrong w = look();
    if (w.slow_ms) nanosleep(&(struct timespec){w.slow_ms / 1000, w.slow_ms % 1000 * 1000000}, 0);
    if (w.fail) return errno = EIO, -1;
    return done;
}

int fsync(int fd) {
    if (!real_fsync) begin();
    return judge(real_fsync(fd));
}

int fdatasync(int fd) {
    if (!real_fdatasync) begin();
    return judge(real_fdatasync(fd));
}
