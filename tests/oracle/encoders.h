/**
 * The point encoders' operators in MPFR at 256 bits, written from encoders.md alone, each with a bound of what binary64 loses there.
 *
 * Values come with a bound of the reference's error in units of 2^-53: 0 for what it is given. Every operator takes values and gives values, so composed operators
 * (pooling, projector, patch attention) are composed here too. Errors of different values are taken for independent, so they add up as a root of squares; each
 * rounding is one unit of what it rounds, a sum of n terms in order sqrt(n) units of the sum of their sizes (docs/tolerance.md, "Units"). `size` is the size of the
 * terms that the last operation added up: what the table of docs/tolerance.md counts in 2^-53 of.
 */
#ifndef MR3D_ORACLE_ENCODERS_H
#define MR3D_ORACLE_ENCODERS_H

#include "../ops/cells_test.h"
#include "oracle.h"

typedef struct oracle_values {
  int64_t n, C;
  mpfr_t *v;           /* [n,C] */
  double *bound, *size; /* [n,C] */
} oracle_values;

static inline oracle_values oracle_new(int64_t n, int64_t C) {
  oracle_values y = {n, C, malloc((size_t)(n * C) * sizeof *y.v), calloc((size_t)(n * C), sizeof *y.bound), calloc((size_t)(n * C), sizeof *y.size)};
  for (int64_t i = 0; i < n * C; i++) {
    mpfr_init2(y.v[i], ORACLE_BITS);
    mpfr_set_zero(y.v[i], 1);
  }
  return y;
}

static inline void oracle_free(oracle_values *x) {
  for (int64_t i = 0; i < x->n * x->C; i++)
    mpfr_clear(x->v[i]);
  free(x->v);
  free(x->bound);
  free(x->size);
}

/** What the reference is given: exact. */
static inline oracle_values oracle_given(int64_t n, int64_t C, const double *x) {
  oracle_values y = oracle_new(n, C);
  for (int64_t i = 0; i < n * C; i++) {
    mpfr_set_d(y.v[i], x[i], MPFR_RNDN);
    y.size[i] = fabs(x[i]);
  }
  return y;
}

static inline double oracle_double(const mpfr_t x) { return mpfr_get_d(x, MPFR_RNDN); }
static inline double oracle_root(double a, double b) { return sqrt(a * a + b * b); }

/* ---- sums of products: term by term, then finished with the bias ---- */

typedef struct oracle_sum {
  mpfr_t sum, term;
  double size, carried; /* sum of the terms' sizes; sum of the squares of what errors of x become */
  int64_t terms;
} oracle_sum;

static inline oracle_sum oracle_sum_new(void) {
  oracle_sum s = {.size = 0};
  mpfr_inits2(ORACLE_BITS, s.sum, s.term, (mpfr_ptr)0);
  return s;
}
static inline void oracle_sum_begin(oracle_sum *s) {
  mpfr_set_zero(s->sum, 1);
  s->size = s->carried = 0;
  s->terms = 0;
}
static inline void oracle_sum_add(oracle_sum *s, const oracle_values *x, int64_t i, double w) {
  mpfr_mul_d(s->term, x->v[i], w, MPFR_RNDN);
  mpfr_add(s->sum, s->sum, s->term, MPFR_RNDN);
  s->size += fabs(oracle_double(s->term));
  s->carried += x->bound[i] * w * (x->bound[i] * w);
  s->terms++;
}
static inline void oracle_sum_end(oracle_sum *s, const double *bias, oracle_values *y, int64_t i) {
  if (bias != NULL)
    mpfr_add_d(s->sum, s->sum, *bias, MPFR_RNDN);
  mpfr_set(y->v[i], s->sum, MPFR_RNDN);
  y->size[i] = s->size + (bias != NULL ? fabs(*bias) : 0);
  y->bound[i] = sqrt(fmax(1, (double)s->terms)) * y->size[i] + sqrt(s->carried) + (double)s->terms * 0x1p-1021; /* each product may lose 2^-1075, and twice that is granted */
}
static inline void oracle_sum_free(oracle_sum *s) { mpfr_clears(s->sum, s->term, (mpfr_ptr)0); }

/** Linear: y [n,out]. */
static inline oracle_values oracle_linear(const oracle_values *x, int64_t out, mr3d_affine w) {
  oracle_values y = oracle_new(x->n, out);
  oracle_sum s = oracle_sum_new();
  for (int64_t p = 0; p < x->n; p++)
    for (int64_t o = 0; o < out; o++) {
      oracle_sum_begin(&s);
      for (int64_t i = 0; i < x->C; i++)
        oracle_sum_add(&s, x, p * x->C + i, w.weight[o * x->C + i]);
      oracle_sum_end(&s, w.bias != NULL ? &w.bias[o] : NULL, &y, p * out + o);
    }
  oracle_sum_free(&s);
  return y;
}

/* ---- norms ---- */

/** Rows first .. first+rows-1, channels from .. from+width-1 of x to y: what has one mean and one variance. */
static inline void oracle_norm_part(const oracle_values *x, int64_t first, int64_t rows, int64_t from, int64_t width, mr3d_affine w, oracle_values *y) {
  const double count = (double)(rows * width), eps = 1e-5;
  double absolute = 0, carried = 0, stretched = 0;
  mpfr_t mean, spread, t;
  mpfr_inits2(ORACLE_BITS, mean, spread, t, (mpfr_ptr)0);
  mpfr_set_zero(mean, 1);
  mpfr_set_zero(spread, 1);
#define EACH_VALUE(at) \
  for (int64_t at = first * x->C + from; at < (first + rows) * x->C; at = (at % x->C == from + width - 1) ? at + x->C - width + 1 : at + 1)
  EACH_VALUE(at) {
    mpfr_add(mean, mean, x->v[at], MPFR_RNDN);
    absolute += fabs(oracle_double(x->v[at])) / count;
    carried += x->bound[at] * x->bound[at];
  }
  mpfr_div_d(mean, mean, count, MPFR_RNDN);
  EACH_VALUE(at) {
    mpfr_sub(t, x->v[at], mean, MPFR_RNDN);
    stretched += oracle_double(t) * x->bound[at] * (oracle_double(t) * x->bound[at]);
    mpfr_sqr(t, t, MPFR_RNDN);
    mpfr_add(spread, spread, t, MPFR_RNDN);
  }
  mpfr_div_d(spread, spread, count, MPFR_RNDN);
  mpfr_set_d(t, eps, MPFR_RNDN);
  mpfr_add(spread, spread, t, MPFR_RNDN);
  const double v = oracle_double(spread);
  mpfr_sqrt(spread, spread, MPFR_RNDN);
  const double m = fabs(oracle_double(mean)), s = oracle_double(spread);
  /* the sum that gives the mean, its quotient, and x's own errors in it */
  const double of_mean = sqrt(count) * absolute + m + sqrt(carried) / count;
  /* relative: difference, square and sum (the mean's error falls out, as deviations add up to 0), quotient, eps; the root halves it and is rounded */
  const double of_spread = (sqrt(count) + 5) / 2 + 1 + sqrt(stretched) / count / v;
  EACH_VALUE(at) {
    const int64_t c = at % x->C;
    mpfr_sub(t, x->v[at], mean, MPFR_RNDN);
    const double d = fabs(oracle_double(t)), weight = fabs(w.weight[c]) / s;
    mpfr_div(t, t, spread, MPFR_RNDN);
    mpfr_mul_d(t, t, w.weight[c], MPFR_RNDN);
    mpfr_add_d(y->v[at], t, w.bias[c], MPFR_RNDN);
    y->size[at] = weight * (fabs(oracle_double(x->v[at])) + m) + fabs(w.bias[c]);
    y->bound[at] = weight * (oracle_root(of_mean, x->bound[at]) + d * (3 + of_spread)) + fabs(oracle_double(y->v[at]));
  }
#undef EACH_VALUE
  mpfr_clears(mean, spread, t, (mpfr_ptr)0);
}

/** GroupNorm over the sample or over each row; LayerNorm is the latter with one group. */
static inline oracle_values oracle_group_norm(const oracle_values *x, int64_t groups, bool per_row, mr3d_affine w) {
  oracle_values y = oracle_new(x->n, x->C);
  for (int64_t p = 0; p < (per_row ? x->n : 1); p++)
    for (int64_t g = 0; g < groups; g++)
      oracle_norm_part(x, p, per_row ? 1 : x->n, g * (x->C / groups), x->C / groups, w, &y);
  return y;
}

/* ---- GELU ---- */

/**
 * x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2. The argument's two roundings are x^2 (x < 0) or less of Phi; erfc of a good library is right to 5 units, the product
 * and the root's constant one each. An error of x is multiplied by the slope, at most 1.13.
 */
static inline oracle_values oracle_gelu(const oracle_values *x) {
  oracle_values y = oracle_new(x->n, x->C);
  mpfr_t t, root;
  mpfr_inits2(ORACLE_BITS, t, root, (mpfr_ptr)0);
  mpfr_sqrt_ui(root, 2, MPFR_RNDN);
  for (int64_t i = 0; i < x->n * x->C; i++) {
    const double v = oracle_double(x->v[i]), density = exp(-v * v / 2) * 0.3989422804014327;
    mpfr_div(t, x->v[i], root, MPFR_RNDN);
    mpfr_neg(t, t, MPFR_RNDN);
    mpfr_erfc(t, t, MPFR_RNDN);
    mpfr_div_2ui(t, t, 1, MPFR_RNDN);
    const double slope = fabs(oracle_double(t) + v * density);
    mpfr_mul(y.v[i], t, x->v[i], MPFR_RNDN);
    y.size[i] = fabs(oracle_double(y.v[i]));
    y.bound[i] = (7 + (v < 0 ? 2 * v * v : 2)) * y.size[i] + slope * x->bound[i] + (1 + fabs(v)) * 0x1p-1021; /* the last: Phi below 2^-1022 */
  }
  mpfr_clears(t, root, (mpfr_ptr)0);
  return y;
}

/* ---- the reference's answer ---- */

/** Below 2^-1022 each rounding may lose 2^-1075; products of sums apart, no value is made by more than four. */
static inline void oracle_measure(oracle_maximum *m, const oracle_values *truth, const double *got) {
  for (int64_t i = 0; i < truth->n * truth->C; i++)
    oracle_add(m, got[i], truth->v[i], truth->bound[i] * 0x1p-53 + 0x1p-1073, truth->bound[i] * 0x1p-24 + 0x1p-126, truth->size[i]);
}

/** Measures and judges an answer, and frees it with the values that it was judged by. */
#define settle_oracle(m, given, truth, y, limit) \
  do {                                           \
    oracle_measure(m, truth, y);                 \
    assert_oracle(m, limit);                     \
    oracle_free(given);                          \
    oracle_free(truth);                          \
    free(y);                                     \
  } while (0)

#endif
