/* The one interface between the executor and every CPU kernel, whichever compiler made it.
 *
 * A kernel reads everything from its Call: pointers, sizes and constants that the compiler of
 * models laid down and checked. It allocates nothing, checks nothing and touches no Python.
 * `thread` of `threads` says which part of the work is the caller's; a kernel divides its own work.
 */
#ifndef FASTNN_ABI_H
#define FASTNN_ABI_H

#include <stdint.h>

#define FASTNN_BUFFERS 8
#define FASTNN_FORMULAS 2
#define FASTNN_SIZES 8
#define FASTNN_CONSTANTS 9 /* one of an op, eight parameters of its formula */

/* How threads divide what goes over all parameters. Calls of one step may come from different
 * compilers, and what one wrote the next reads without waiting. */
#define UPDATE_BLOCK 1024  /* numbers whose gradient is summed before the rule runs over them */
#define PENALTY_BLOCK 4096 /* numbers of one partial sum */
#define MOST_STATES 4      /* arrays that an update rule keeps */
#define DECAY 15           /* place of the weight decay among the rule's numbers */

/* What changes from step to step. Each thread has its own. */
typedef struct {
    int64_t step;           /* updates done before this one */
    int64_t rows;           /* rows of the whole batch, over all threads */
    int64_t first;          /* position of the batch in the epoch */
    const int64_t *order;   /* row number at each position, or NULL for the identity */
    uint64_t seed;
    double rate;            /* learning rate, set by the schedule's call */
    double rule[16];        /* of the update rule: rate, parameters, constants of the step; decay */
    void *scratch;          /* this thread's, as large as the largest request of its calls */
    int64_t unused;         /* no two threads' share a cache line */
} Step;

typedef struct Call Call;
typedef void (*Kernel)(const Call *, int thread, int threads);

struct Call {
    Kernel kernel;
    Step *step;
    void *buffers[FASTNN_BUFFERS];      /* inputs, then outputs, in the op's order; NULL if absent */
    void *formulas[FASTNN_FORMULAS];    /* compiled loops of a scalar formula and its companion */
    int64_t sizes[FASTNN_SIZES];
    double constants[FASTNN_CONSTANTS];
    int64_t shared;     /* 1: threads divide this call even where each runs its own rows */
    int64_t waits;      /* 1: threads meet before this one */
};

#endif
