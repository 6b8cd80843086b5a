/*
 * How fast answers are judged: a binary32 answer against a binary64 truth and its scale, with all statistics (meson test --benchmark).
 *
 *   judging [MIB]    of answer, default 256; beside it lie a truth and a scale of twice its size each
 *
 * It prints what one core reads a second in order, what the judge reads, and the memory that the judging took beyond its inputs.
 * tests/calibration/judging.py compares with torch.testing.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "frames.h"
#include "judge_internal.h"

#define COLUMNS 896
#define TIMES 3

/* Bytes a second that one core reads in order. */
static double reading_speed(const double *x, int64_t count) {
  double best = 0;
  for (int k = 0; k < TIMES; k++) {
    const double start = mr3d_now();
    double sum[8] = {0};
    for (int64_t i = 0; i + 8 <= count; i += 8)
      for (int l = 0; l < 8; l++) sum[l] += x[i + l];
    const double seconds = mr3d_now() - start;
    volatile double used = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
    (void)used;
    best = fmax(best, 8 * (double)count / seconds);
  }
  return best;
}

static long peak(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

int main(int argc, char **argv) {
  const int64_t mib = argc > 1 ? atoll(argv[1]) : 256, rows = mib * (1 << 18) / COLUMNS, count = rows * COLUMNS;
  if (mib < 1) return fprintf(stderr, "judging: %s is no size in MiB\n", argv[1]), 1;
  float *got = malloc((size_t)count * sizeof *got);
  double *ref = malloc((size_t)count * sizeof *ref), *scale = malloc((size_t)count * sizeof *scale);
  if (!got || !ref || !scale) return fprintf(stderr, "judging: no memory for %lld MiB five times\n", (long long)mib), 1;
  uint64_t state = 1;
  for (int64_t i = 0; i < count; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    ref[i] = (double)(int64_t)state * 0x1p-62;
    scale[i] = 0x1p-24 * (0.1 + fabs(ref[i]));
    got[i] = (float)ref[i];
  }
  const mr3d_tensor expected = {.name = "y", .dtype = MR3D_F64, .rank = 2, .shape = {rows, COLUMNS}, .data = ref};
  const mr3d_tensor answer = {.name = "y", .dtype = MR3D_F32, .rank = 2, .shape = {rows, COLUMNS}, .data = got};
  const double read = reading_speed(ref, count);
  const long before = peak();
  double best = INFINITY, processor = INFINITY;
  bool passed = true;
  for (int k = 0; k < TIMES; k++) {
    mr3d_output output = {.expected = &expected, .answer = &answer, .units = mr3d_tier_units(MR3D_FP32), .tier = MR3D_FP32, .rows = rows, .cols = COLUMNS,
                          .heads = 1, .per_head = rows, .ref = ref, .scale = scale};
    mr3d_tensor_verdict verdict = {.passed = true, .elements = count};
    mr3d_tally tally;
    const double start = mr3d_now(), busy = mr3d_processor_seconds();
    mr3d_tally_open(&output, &tally);
    mr3d_judge_by_scale(&output, &tally, &verdict);
    mr3d_tally_close(&tally);
    best = fmin(best, mr3d_now() - start);
    processor = fmin(processor, mr3d_processor_seconds() - busy);
    passed = passed && verdict.passed && verdict.n_statistics == 4;
  }
  printf("one core reads %.1f GB/s; %lld MiB of answer judged in %.3f s (%.3f s of processor time): %.1f GB/s of answer, truth and scale, %.0f %% of that; %.1f MiB of memory\n",
         read / 1e9, (long long)mib, best, processor, 20 * (double)count / best / 1e9, 100 * 20 * (double)count / best / read, (double)(peak() - before) / 1024);
  free(got);
  free(ref);
  free(scale);
  return passed ? 0 : 1;
}
