"""Measured sizes at which the engine changes its method, in rows or in multiply-adds (of one update, if not said)."""

BLOCK_ROWS = 256  # most samples in one block: its activations stay in the cache, and dW is summed over one block
FEW_ROWS = 16  # rows of the blocks that evaluate a few samples
MIN_ROWS_PER_THREAD = 4  # with fewer rows of a block for each thread its tiles are too flat
# Fewer multiply-adds for each thread do not pay for the barriers and for moving W between cores.  Two threads on two
# cores: as fast as one on 4-32-32-1 with batch 32 (60,000 each), 0.75 times as fast on 64-30-10 with batch 10
# (34,000); on 784-30-10 with batch 10 (360,000) 1.2 times on one machine and 0.45 times on another, so trials decide.
MIN_WORK_PER_THREAD = 200_000
CERTAIN_WORK = 100_000_000  # from here on several threads are used without trials: the barriers cost little
# Multiply-adds of an evaluation on several threads: 25 us on one.  Spinning threads pay from 0.5 million on; waking a
# sleeping one takes 0.05 to 0.1 ms, and then two threads are as fast as one.
MIN_PARALLEL_WORK = 1_000_000
INTERRUPTIBLE_WORK = 2_000_000_000  # of one native call, which Ctrl-C must wait for: 20 to 80 ms
LARGE_WORK = 2_000_000  # for each thread: several threads are used until the first trial
TRIAL_WORK = 200_000_000  # of one trial of a number of threads: 2 ms, since waking threads takes up to 0.1 ms
MIN_TRIAL_WORK = 25_000_000
TRIALS = 2  # of each number of threads, interleaved; the faster one counts
CALLS_BETWEEN_TRIALS = 8
SHORT_CALLS_BETWEEN_TRIALS = 64
# Bytes of the parameters and states of the networks of a register, up to which they are trained interleaved.
MAX_INTERLEAVED_BYTES = 1 << 20
MAX_GATHERED_BYTES = 1 << 26  # of the samples of a native call, which are put in order once for all networks
