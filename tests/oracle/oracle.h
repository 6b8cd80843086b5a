/**
 * A second oracle: the operators of docs/spec.md in MPFR at 256 bits, which measure the binary64 reference's own error.
 *
 * They are written from the specification alone and share no code with ref/. Their own error is below 2^-200 of the largest
 * intermediate value, so against binary64 they are exact.
 */
#ifndef MR3D_ORACLE_H
#define MR3D_ORACLE_H

#include "../ops/ops_test.h"
#include "mr3d/random.h"

#include <mpfr.h>

#define ORACLE_BITS 256
#define ORACLE_SEED 20260207

/** `count` values of the generator's stream `name`; scale 0 in the draw stands for 1. */
static inline double *drawn(const char *name, int64_t count, mr3d_draw draw) {
  double *x = malloc((size_t)(count > 0 ? count : 1) * sizeof *x);
  draw.scale = draw.scale == 0 ? 1 : draw.scale;
  mr3d_tensor tensor = {.name = name, .dtype = MR3D_F64, .rank = 1, .shape = {count}, .data = x};
  mr3d_random_draw(&draw, mr3d_stream_named(ORACLE_SEED, name), &tensor);
  return x;
}
static inline double *drawn_normal(const char *name, int64_t count, double scale) {
  return drawn(name, count, (mr3d_draw){.dist = MR3D_NORMAL, .scale = scale});
}
static inline double *drawn_uniform(const char *name, int64_t count, double lo, double hi) {
  return drawn(name, count, (mr3d_draw){.dist = MR3D_UNIFORM, .lo = lo, .hi = hi});
}
static inline double *drawn_heavy(const char *name, int64_t count, double scale) {
  return drawn(name, count, (mr3d_draw){.dist = MR3D_HEAVY, .scale = scale});
}
/** Subnormal numbers of all lengths and the smallest normal ones: -1..1 times 2^-1074 .. 2^-1020. */
static inline double *drawn_denormal(const char *name, int64_t count) {
  double *x = drawn_uniform(name, count, -1, 1);
  for (int64_t i = 0; i < count; i++)
    x[i] = ldexp(x[i], -1074 + (int)(i * 7 % 55));
  return x;
}
/** Whole numbers lo .. hi. */
static inline int64_t *drawn_whole(const char *name, int64_t count, int64_t lo, int64_t hi) {
  int64_t *p = malloc((size_t)(count > 0 ? count : 1) * sizeof *p);
  const mr3d_stream stream = mr3d_stream_named(ORACLE_SEED, name);
  for (int64_t i = 0; i < count; i++)
    p[i] = lo + (int64_t)((mr3d_random_raw(stream, (uint64_t)i) >> 11) % (uint64_t)(hi - lo + 1));
  return p;
}

/** What was seen of one operator and class of inputs. Set the names, then add every element, then assert. */
typedef struct oracle_maximum {
  const char *name, *inputs;
  double scale; /* |error| / mr3d_NAME_scale at fp64 */
  double units; /* |error| / (2^-53 size) */
  double fp32;  /* |error| / (4 mr3d_NAME_scale at fp32) */
} oracle_maximum;

static inline double oracle_quotient(const mpfr_t error, double by) {
  if (mpfr_zero_p(error))
    return 0;
  mpfr_t e;
  mpfr_init2(e, ORACLE_BITS);
  mpfr_div_d(e, error, by, MPFR_RNDN); /* by 0: infinity, a failure */
  const double q = mpfr_get_d(e, MPFR_RNDN);
  mpfr_clear(e);
  return q;
}

/** One element. `size` is the magnitude its roundings are relative to; below 2^-1022 a rounding loses as much as there. */
static inline void oracle_add(oracle_maximum *m, double got, const mpfr_t truth, double fp64_scale, double fp32_scale, double size) {
  mpfr_t error;
  mpfr_init2(error, ORACLE_BITS);
  mpfr_sub_d(error, truth, got, MPFR_RNDN); /* NaN if got is */
  mpfr_abs(error, error, MPFR_RNDN);
  const double e[3] = {oracle_quotient(error, fp64_scale), oracle_quotient(error, fmax(size, 0x1p-1022)) * 0x1p53, oracle_quotient(error, 4 * fp32_scale)};
  m->scale = e[0] <= m->scale ? m->scale : e[0]; /* NaN and infinity win */
  m->units = e[1] <= m->units ? m->units : e[1];
  m->fp32 = e[2] <= m->fp32 ? m->fp32 : e[2];
  mpfr_clear(error);
}

/** Prints the maxima; fails beyond `limit` fp64 scales or 1/1000 of what fp32 allows an element. */
static inline void oracle_judge(const oracle_maximum *m, double limit, const char *file, int line) {
  print_message("%s %s: max %.3f of the fp64 scale (limit %.3g), %.3g units of 2^-53, %.1e of fp32's limit\n", m->name, m->inputs, m->scale, limit,
                m->units, m->fp32);
  if (!(m->scale <= limit && m->fp32 < 1e-3))
    _fail(file, line);
}
#define assert_oracle(m, limit) oracle_judge(m, limit, __FILE__, __LINE__)

/** sqrt(a^2 + b^2) without overflow or loss of subnormals. */
static inline double oracle_norm(double a, double b) { return hypot(a, b); }

/** (y0, y1) = (x0 c - x1 s, x1 c + x0 s). */
static inline void oracle_turn(mpfr_t y0, mpfr_t y1, double x0, double x1, const mpfr_t c, const mpfr_t s) {
  mpfr_t t;
  mpfr_init2(t, ORACLE_BITS);
  mpfr_mul_d(y0, c, x0, MPFR_RNDN);
  mpfr_mul_d(t, s, x1, MPFR_RNDN);
  mpfr_sub(y0, y0, t, MPFR_RNDN);
  mpfr_mul_d(y1, c, x1, MPFR_RNDN);
  mpfr_mul_d(t, s, x0, MPFR_RNDN);
  mpfr_add(y1, y1, t, MPFR_RNDN);
  mpfr_clear(t);
}

#endif
