/* Gives a program the time of a wrong clock: CLOCK_REALTIME and what is derived from it, ahead by the seconds that the
 * file $WRONG_CLOCK holds. Built and preloaded by `launcher devcluster chaos`.
 *
 * Time that only passes (CLOCK_MONOTONIC) and waiting stay right, as on a machine whose clock is wrong. A deadline of
 * the wrong clock is taken back to the right one before the kernel sees it; deadlines of CLOCK_MONOTONIC are told from
 * them by their size, since no machine has been up for thirty years.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    static __thread time_t looked;
    static __thread long seconds;
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    if (looked != now.tv_sec) { /* the clock can be set right while the program runs */
        const char *path = getenv("WRONG_CLOCK");
        char text[32] = "";
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
            close(file);
        }
        seconds = strtol(text, NULL, 10);
        looked = now.tv_sec;
    }
    return seconds;
}

static int is_real(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

static struct timespec right(const struct timespec *deadline) {
    struct timespec found = *deadline;
    if (found.tv_sec > 1000000000) found.tv_sec -= ahead();
    return found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && is_real(clock)) now->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += ahead();
    return failed;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}

int timespec_get(struct timespec *now, int base) { return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0; }

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    static int (*sleep_by)(clockid_t, int, const struct timespec *, struct timespec *);
    if (!sleep_by) sleep_by = dlsym(RTLD_NEXT, "clock_nanosleep");
    struct timespec until = flags & TIMER_ABSTIME && is_real(clock) ? right(wanted) : *wanted;
    return sleep_by(clock, flags, &until, left);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
    static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!wait) wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!wait) wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec until = right(deadline);
    return wait(condition, mutex, &until);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline) {
    static int (*wait)(sem_t *, const struct timespec *);
    if (!wait) wait = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec until = right(deadline);
    return wait(semaphore, &until);
}
