/** What the operator tests share: an exact context, plain random numbers, comparisons that see NaN, refusals with their words. */
#ifndef MR3D_OPS_TEST_H
#define MR3D_OPS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "mr3d/model.h"

static const mr3d_context exact = {.op = &mr3d_reference_operators, .threads = 2};

/** Uniform in -size..size, from a fixed sequence: tests never depend on what ran before. */
static inline double *numbers(int64_t count, double size, uint64_t seed) {
  double *x = malloc((size_t)(count > 0 ? count : 1) * sizeof *x);
  for (int64_t i = 0; i < count; i++) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    x[i] = ((double)(seed >> 11) * 0x1p-52 - 1) * size;
  }
  return x;
}

/** Memory filled with a value no result has, so an element left out is seen. */
static inline double *unwritten(int64_t count) {
  double *y = malloc((size_t)(count > 0 ? count : 1) * sizeof *y);
  for (int64_t i = 0; i < count; i++)
    y[i] = 1e77;
  return y;
}

/** |got - expected| <= bound, false for NaN. */
static inline void near_at(const char *what, int64_t index, double got, double expected, double bound, const char *file, int line) {
  if (!(fabs(got - expected) <= bound)) {
    print_error("%s[%lld]: got %.17g, expected %.17g, bound %.3g\n", what, (long long)index, got, expected, bound);
    _fail(file, line);
  }
}
#define assert_near(got, expected, bound) near_at(#got, 0, got, expected, bound, __FILE__, __LINE__)
#define assert_near_at(index, got, expected, bound) near_at(#got, index, got, expected, bound, __FILE__, __LINE__)

static inline void same_bits(const double *a, const double *b, int64_t count, const char *file, int line) {
  for (int64_t i = 0; i < count; i++)
    if (memcmp(&a[i], &b[i], sizeof a[i]) != 0) {
      print_error("element %lld: %.17g and %.17g differ\n", (long long)i, a[i], b[i]);
      _fail(file, line);
    }
}
#define assert_same_bits(a, b, count) same_bits(a, b, count, __FILE__, __LINE__)

/** The status is MR3D_INVALID and the message holds all words given (NULL-terminated). */
static inline void refused(mr3d_status status, const mr3d_error *error, const char *file, int line, ...) {
  va_list words;
  va_start(words, line);
  const char *word = va_arg(words, const char *);
  for (; word != NULL && status == MR3D_INVALID && strstr(error->message, word) != NULL; word = va_arg(words, const char *))
    ;
  va_end(words);
  if (status != MR3D_INVALID || word != NULL) {
    print_error("status %d, message \"%s\", lacks \"%s\"\n", (int)status, error->message, word != NULL ? word : "");
    _fail(file, line);
  }
}
#define assert_refused(status, error, ...) refused(status, error, __FILE__, __LINE__, __VA_ARGS__, NULL)

/** Largest |y - reference| / scale; a scale of 0 demands equality. */
static inline double worst_error(int64_t count, const double *y, const double *reference, const double *scale) {
  double worst = 0;
  for (int64_t i = 0; i < count; i++) {
    const double difference = fabs(y[i] - reference[i]), e = difference == 0 ? 0 : difference / scale[i];
    worst = e <= worst ? worst : e; /* NaN and infinity win */
  }
  return worst;
}

/** Honest code stays within the limit of docs/tolerance.md, and is wrong by more than nothing: a scale so wide that no error shows would judge nothing. */
static inline void honest(const char *what, double e, double at_least, const char *file, int line) {
  print_message("  %s: %.2f of the scale\n", what, e);
  if (!(e <= 4 && e > at_least))
    _fail(file, line);
}
#define assert_honest(what, e, at_least) honest(what, e, at_least, __FILE__, __LINE__)

static inline mr3d_config config_of(const char *json) {
  mr3d_config config;
  mr3d_error error = {0};
  if (mr3d_config_parse(json, &config, &error) != MR3D_OK)
    fail_msg("%s", error.message);
  return config;
}

#endif
