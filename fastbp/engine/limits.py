"""Where the engine changes its ways: measured sizes, in rows or in multiply-adds."""

BLOCK_ROWS = 256  # most samples in one block: a block's activations stay in the cache, and dW sums over one block
FEW_ROWS = 16  # blocks of this size serve evaluations of a few samples
MIN_ROWS_PER_THREAD = 4  # with fewer rows of a block a thread's tiles are too flat to pay
# An update of fewer multiply-adds than this for each thread is not worth the meetings and moving W between cores: on
# two cores two threads were even with one at 4-32-32-1 with 32 samples (60,000 each), 0.75 times as fast at 64-30-10
# with 10 (34,000); at 784-30-10 with 10 (360,000) 1.2 times on one machine, 0.45 times on another, and trials decide.
MIN_WORK_PER_THREAD = 200_000
CERTAIN_WORK = 100_000_000  # an update of more multiply-adds is divided without trials: meetings are little of it
# Multiply-adds of an evaluation for several threads: 25 us on one.  Threads that are awake pay from 0.5 million on; one
# that must be woken comes 0.05 to 0.1 ms late, and then two threads are even with one.
MIN_PARALLEL_WORK = 1_000_000
# Multiply-adds of one native call, which Ctrl-C must wait for: 20 to 80 ms.
INTERRUPTIBLE_WORK = 2_000_000_000
LARGE_WORK = 2_000_000  # of an update for each thread: until a trial tells better, several threads do such
TRIAL_WORK = 200_000_000  # multiply-adds of a trial of a number of threads: 2 ms, for waking them takes up to 0.1 ms
MIN_TRIAL_WORK = 25_000_000
TRIALS = 2  # of each number of threads, in turn; the better one counts
CALLS_BETWEEN_TRIALS = 8
EVALUATIONS_BETWEEN_TRIALS = 64
