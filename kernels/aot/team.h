/* A team of threads for one native call, and the barrier they meet at.
 *
 * Threads start when the call does and end with it. That costs some 80 microseconds a call, which
 * lasts milliseconds at least, and it buys three things a pool (or OpenMP's) does not give: a forked
 * child works, two Python threads may train at once, and no idle thread spins while Python runs.
 * Inside the call the threads persist over any number of steps and epochs.
 */
#ifndef FASTNN_TEAM_H
#define FASTNN_TEAM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_setaffinity; Python.h defines it too */
#endif
#include <stdint.h>
#include <time.h>

#ifndef FASTNN_THREADS
#define FASTNN_THREADS 1
#endif

#define TEAM_MOST 256

static inline double team_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef void (*TeamWork)(void *shared, int thread);

typedef struct {
    int threads;
    /* On cache lines of their own: every waiting thread reads `phase` all the time. */
    __attribute__((aligned(64))) int arrived;
    __attribute__((aligned(64))) int phase;
    int over; /* one has left before the end: nobody waits for it */
    __attribute__((aligned(64))) int gate; /* 0 wait, 1 go, 2 give up */
    __attribute__((aligned(64))) int left; /* threads that will not touch this any more */
    TeamWork work;
    void *shared;
} Team;

/* A thread that ends before its time says so, and others that wait for it find out. */
static inline void team_end(Team *team) { __atomic_store_n(&team->over, 1, __ATOMIC_RELEASE); }
static inline int team_is_over(const Team *team) {
    return __atomic_load_n(&team->over, __ATOMIC_ACQUIRE);
}

/* A number that one thread writes and others read. */
static inline void team_tell(int64_t *to, int64_t n) { __atomic_store_n(to, n, __ATOMIC_RELAXED); }
static inline int64_t team_told(const int64_t *n) { return __atomic_load_n(n, __ATOMIC_RELAXED); }

#if FASTNN_THREADS
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

static inline void team_relax(int *spins) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
    /* Another thread may own this core: after some 50 microseconds let it run. */
    if (++*spins > 1000) sched_yield();
}

static inline void team_barrier(Team *team) {
    if (team->threads == 1) return;
    const int phase = __atomic_load_n(&team->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->threads) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    int spins = 0;
    while (__atomic_load_n(&team->phase, __ATOMIC_ACQUIRE) == phase && !team_is_over(team))
        team_relax(&spins);
}

typedef struct {
    Team *team;
    int thread;
    int from; /* the processor that thread 0 runs on */
} TeamMember;

/* Move the calling thread to the processor `places` after `from` among those it may use, and leave it
 * free to move again. Linux starts a thread where its parent runs and may take many milliseconds to
 * see that another processor is idle: two threads that wait for each other would share one. */
static void team_spread(int from, int places) {
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || from < 0) return;
    if (CPU_COUNT(&allowed) < 2) return;
    int cpu = from % CPU_SETSIZE;
    while (places > 0) {
        cpu = (cpu + 1) % CPU_SETSIZE;
        if (CPU_ISSET(cpu, &allowed)) places--;
    }
    if (cpu == sched_getcpu()) return;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) == 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)from;
    (void)places;
#endif
}

static void *team_main(void *argument) {
    const TeamMember member = *(const TeamMember *)argument;
    int gate, spins = 0;
    team_spread(member.from, member.thread);
    while ((gate = __atomic_load_n(&member.team->gate, __ATOMIC_ACQUIRE)) == 0) team_relax(&spins);
    if (gate == 1) member.team->work(member.team->shared, member.thread);
    __atomic_add_fetch(&member.team->left, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Run work(shared, t) for t in 0..threads-1, t = 0 on the calling thread. 0, or an errno. */
static int team_run(Team *team, int threads, TeamWork work, void *shared) {
    TeamMember members[TEAM_MOST];
    pthread_t handle;
    sigset_t all, before;
    int error = 0, started = 1, spins = 0;
    team->threads = threads;
    team->arrived = team->phase = team->over = team->gate = team->left = 0;
    team->work = work;
    team->shared = shared;
    /* Signals are the calling thread's: Python handles them there. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (; started < threads && !error; started++) {
        members[started].team = team;
        members[started].thread = started;
#if defined(__linux__)
        members[started].from = sched_getcpu();
#else
        members[started].from = -1;
#endif
        /* Where few may exist, those of the call before may still be ending. */
        for (int tries = 0; tries < 1000; tries++) {
            error = pthread_create(&handle, NULL, team_main, &members[started]);
            if (error != EAGAIN) break;
            sched_yield();
        }
        if (!error) pthread_detach(handle);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) started--; /* the last one does not exist */
    __atomic_store_n(&team->gate, error ? 2 : 1, __ATOMIC_RELEASE);
    if (!error) work(shared, 0);
    /* They end by themselves: to sleep until they have takes longer than they do. */
    while (__atomic_load_n(&team->left, __ATOMIC_ACQUIRE) < started - 1) team_relax(&spins);
    return error;
}
#else
static inline void team_barrier(Team *team) { (void)team; }
static int team_run(Team *team, int threads, TeamWork work, void *shared) {
    team->threads = threads;
    team->over = 0;
    work(shared, 0);
    return 0;
}
#endif

/* Let this thread take subnormal numbers for zero; returns what restore_rounding needs. */
static inline uint64_t flush_subnormals(void) {
#if defined(__x86_64__)
    const uint64_t before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((unsigned)before | 0x8040); /* FTZ and DAZ */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1u << 24)));
    return before;
#else
    return 0;
#endif
}
static inline void restore_rounding(uint64_t before) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

/* Instruction set levels of this processor, as far as the kernels distinguish them. */
static inline int cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return 1;
#else
    return 0;
#endif
}

#endif
