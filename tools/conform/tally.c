/**
 * One pass over a floating output: everything that the rules of single operators and the reports are made of (docs/tolerance.md).
 *
 * Rows are taken in batches, over threads within one and in order between them, so that sums do not depend on the number of threads; nothing is kept of a
 * row but a few sums, and what an answer costs is reading it. Ulps are counted in 64 classes an octave, of large tensors those of every fourth element: their percentiles are known
 * to 1 %.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "../../ref/base/product.h"
#include "judge_internal.h"

#define CHUNK 1024                      /* elements worked on together: they stay in the first cache */
#define BATCH ((int64_t)1 << 22)        /* elements of a batch of rows: threads wait for each other once a batch */
#define MOST_DISTINCT ((int64_t)1 << 20) /* rows that differ, beyond which a bias needs no more */
#define COUNT_ALL ((int64_t)1 << 20)    /* elements whose ulps are all counted; of more, every LANES-th is */
#define CLASSES_AN_OCTAVE 64
#define FIRST_OCTAVE (-30)              /* smaller ulps count as this */
#define LAST_OCTAVE 70                  /* and larger ones as that */
#define CLASSES ((LAST_OCTAVE - FIRST_OCTAVE) * CLASSES_AN_OCTAVE)
#define LOWEST_CLASS ((int64_t)(1023 + FIRST_OCTAVE) << 6) /* of the upper 18 bits of a double */
#define HASH UINT64_C(0x9E3779B97F4A7C15)

/* Written once, compiled for what every processor has and for AVX2: the same operations in the same order, so the same bits. */
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 4 };
typedef double lanes __attribute__((vector_size(LANES * sizeof(double)), aligned(sizeof(double)), may_alias));
typedef int64_t masks __attribute__((vector_size(LANES * sizeof(int64_t)), may_alias));
typedef uint64_t words __attribute__((vector_size(LANES * sizeof(uint64_t)), may_alias)); /* wrap around */
typedef uint64_t words __attribute__((vector_size(LANES * sizeof(uint64_t)), may_alias)); /* no processor before AVX-512 shifts signed ones */
typedef float narrow_lanes __attribute__((vector_size(LANES * sizeof(float)), may_alias));

/** What one row contributes. */
typedef struct row_sums {
  double error2, ref2, ulps;              /* of got - ref; ulps: the largest */
  double squares, sum, signed_sum, allowance; /* of e */
  double largest;                         /* |e| */
  int64_t wrong, bad, first_bad;
  uint64_t identity;
} row_sums;

/* ---- elements ---- */

double mr3d_error_of(const mr3d_output *output, int64_t i, double got) {
  const double ref = output->ref[i], scale = output->scale[i];
  if (got == ref) return signbit(got) != signbit(ref) && scale == 0 && !output->any_zero ? INFINITY : 0;
  return (got - ref) / scale; /* infinite where the scale is 0: there the answer must be exact */
}

/** Correctly rounded to the tier, `value` overflows. */
static bool overflows(mr3d_tier tier, double value) {
  static const double largest[MR3D_N_TIERS] = {[MR3D_FP64] = HUGE_VAL, [MR3D_FP32] = 0x1.ffffffp127, [MR3D_TF32] = 0x1.ffffffp127,
                                               [MR3D_BF16_TIER] = 0x1.ffp127, [MR3D_FP16] = 65520};
  return fabs(value) >= largest[tier];
}

/** Elements first .. first+n-1 in binary64. */
static void widen(const mr3d_tensor *got, int64_t first, int64_t n, double *wide) {
  const size_t size = mr3d_dtype_size(got->dtype);
  mr3d_tensor part = {.name = got->name, .dtype = got->dtype, .rank = 1, .shape = {n}, .data = (char *)got->data + (size_t)first * size};
  if (got->dtype == MR3D_F64) memcpy(wide, part.data, (size_t)n * size);
  else if (got->dtype != MR3D_F32) mr3d_tensor_to_double(&part, wide);
  else {
    const float *x = part.data;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
      narrow_lanes few;
      memcpy(&few, x + i, sizeof few);
      const lanes wider = __builtin_convertvector(few, lanes);
      memcpy(wide + i, &wider, sizeof wider);
    }
    for (; i < n; i++) wide[i] = x[i];
  }
}

/**
 * NaN and infinity come before any arithmetic. An infinity is right where the truth, rounded to the tier, is one; it is replaced by the truth, so that sums
 * stay finite, and so is what is wrong, which fails by itself.
 */
static void replace_not_finite(const mr3d_output *output, int64_t first, int64_t n, double *got, row_sums *sums) {
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(got[i])) continue;
    const double ref = output->ref[first + i];
    const bool right = isinf(got[i]) && overflows(output->tier, ref) && signbit(got[i]) == signbit(ref);
    if (!right && sums->bad++ == 0) sums->first_bad = first + i;
    got[i] = ref;
  }
}

void mr3d_output_row(const mr3d_output *output, int64_t row, double *got) {
  row_sums ignored = {0};
  widen(output->answer, row * output->cols, output->cols, got);
  replace_not_finite(output, row * output->cols, output->cols, got, &ignored);
}

static int class_of(double ulps) {
  uint64_t bits;
  memcpy(&bits, &ulps, sizeof bits);
  const int64_t class = (int64_t)(bits >> 46) - LOWEST_CLASS;
  return class < 0 ? 0 : class >= CLASSES ? CLASSES - 1 : (int)class;
}

static double middle_of(int class) { return class == 0 ? 0 : ldexp(1 + (class % CLASSES_AN_OCTAVE + 0.5) / CLASSES_AN_OCTAVE, FIRST_OCTAVE + class / CLASSES_AN_OCTAVE); }

/* ---- rows ---- */

/* No functions: vectors wider than the baseline's registers cross no call. */
#define AT(x) (*(const lanes *)(x))
#define LARGER(a, b) ((lanes)(((masks)(a) & ((a) > (b))) | ((masks)(b) & ~((a) > (b)))))

INLINE double total(const double x[LANES]) { return (x[0] + x[1]) + (x[2] + x[3]); }
INLINE double greatest(const double x[LANES]) { return fmax(fmax(x[0], x[1]), fmax(x[2], x[3])); }

/** Sums over elements of a row, in LANES lanes each. */
typedef struct pass {
  lanes error2, ref2, ulps, squares, sum, signed_sum, largest;
  masks wrong;
  words hash;
} pass;

/**
 * n elements, a multiple of LANES, none of which is special. The ulp of x is p 2^(1 - digits), p the power of two below |x|, at least that of the smallest
 * normal number.
 */
INLINE void add_lanes(const mr3d_output *output, int64_t first, int64_t n, const double *got, int64_t *classes, pass *p) {
  const masks zero = {0}, sign = zero + INT64_MIN, exponent = zero + (INT64_C(0x7FF) << 52), inverse = zero + (INT64_C(2046) << 52);
  const double digits = 1 / mr3d_ulp(output->tier, 1);
  const lanes least = (lanes)zero + mr3d_ulp(output->tier, 0) * digits;
  const int counted = output->rows * output->cols > COUNT_ALL ? 1 : LANES;
  const double *ref = output->ref + first, *scale = output->scale ? output->scale + first : NULL;
  for (int64_t i = 0; i < n; i += LANES) {
    const lanes g = AT(got + i), r = AT(ref + i), d = g - r;
    p->error2 += d * d;
    p->ref2 += r * r;
    const lanes magnitude = (lanes)((masks)r & ~sign);
    const masks power = (masks)LARGER(magnitude, least) & exponent;
    const lanes ulps = (lanes)((masks)d & ~sign) * (lanes)(inverse - power) * digits;
    p->ulps = LARGER(ulps, p->ulps);
    p->hash += (p->hash << 5) + (words)r;
    for (int k = 0; k < counted; k++) classes[class_of(ulps[k])]++;
    if (!scale) continue;
    const lanes e = (lanes)((masks)(d / AT(scale + i)) & ~(g == r)), size = (lanes)((masks)e & ~sign);
    p->squares += e * e;
    p->sum += e;
    p->signed_sum += (lanes)(((masks)e ^ ((masks)r & sign)) & (r != (lanes)zero));
    p->largest = LARGER(size, p->largest);
    p->wrong -= ~(size <= MR3D_ELEMENT_LIMIT);
  }
}

/** The same for one element, whatever it is. */
static void add_element(const mr3d_output *output, int64_t i, double got, int64_t *classes, row_sums *sums) {
  const double ref = output->ref[i], error = got - ref, ulps = fabs(error) / mr3d_ulp(output->tier, ref);
  uint64_t bits;
  sums->error2 += error * error;
  sums->ref2 += ref * ref;
  sums->ulps = fmax(ulps, sums->ulps);
  classes[class_of(ulps)]++;
  memcpy(&bits, &ref, sizeof bits);
  sums->identity = (sums->identity ^ bits) * HASH;
  if (!output->scale) return;
  const double e = mr3d_error_of(output, i, got);
  sums->squares += e * e;
  sums->sum += e;
  sums->signed_sum += ref > 0 ? e : ref < 0 ? -e : 0;
  if (output->shared && output->scale[i] > 0) sums->allowance += output->shared[i] / output->scale[i];
  sums->largest = fmax(fabs(e), sums->largest);
  sums->wrong += !(fabs(e) <= MR3D_ELEMENT_LIMIT);
}

/** Whether some value is not finite; whether some element wants a second look: a zero where exactness is due, a part of the scale that rows share. */
INLINE void look(const mr3d_output *output, int64_t first, int64_t n, const double *got, bool *not_finite, bool *special) {
  const double *scale = output->scale && !output->any_zero ? output->scale + first : NULL;
  masks finite = ~(masks){0}, zeros = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const lanes g = AT(got + i);
    finite &= g - g == 0; /* not where it is NaN or infinite */
    if (scale) zeros |= AT(scale + i) == 0;
  }
  *not_finite = ~(finite[0] & finite[1] & finite[2] & finite[3]);
  *special = output->shared || zeros[0] || zeros[1] || zeros[2] || zeros[3];
  for (; i < n; i++) {
    *not_finite = *not_finite || !isfinite(got[i]);
    *special = *special || (scale && scale[i] == 0);
  }
}

INLINE void add_row(const mr3d_output *output, int64_t row, int64_t *classes, row_sums *sums) {
  double got[CHUNK];
  pass p = {0};
  const bool skipped = output->skip && output->skip[row]; /* padding must be finite, no more */
  *sums = (row_sums){.first_bad = -1};
  for (int64_t first = row * output->cols, end = first + output->cols; first < end; first += CHUNK) {
    const int64_t n = end - first < CHUNK ? end - first : CHUNK, quick = n / LANES * LANES;
    bool not_finite, special;
    widen(output->answer, first, n, got);
    look(output, first, n, got, &not_finite, &special);
    if (not_finite) replace_not_finite(output, first, n, got, sums);
    if (skipped) continue;
    if (!special) add_lanes(output, first, quick, got, classes, &p);
    for (int64_t i = special ? 0 : quick; i < n; i++) add_element(output, first + i, got[i], classes, sums);
  }
  sums->error2 += total((double *)&p.error2);
  sums->ref2 += total((double *)&p.ref2);
  sums->ulps = fmax(sums->ulps, greatest((double *)&p.ulps));
  sums->squares += total((double *)&p.squares);
  sums->sum += total((double *)&p.sum);
  sums->signed_sum += total((double *)&p.signed_sum);
  sums->largest = fmax(sums->largest, greatest((double *)&p.largest));
  sums->wrong += (p.wrong[0] + p.wrong[1]) + (p.wrong[2] + p.wrong[3]);
  for (int k = 0; k < LANES; k++) sums->identity = ((sums->identity ^ p.hash[k]) * HASH) ^ sums->identity >> 29;
}

static void add_row_portable(const mr3d_output *output, int64_t row, int64_t *classes, row_sums *sums) { add_row(output, row, classes, sums); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void add_row_avx2(const mr3d_output *output, int64_t row, int64_t *classes, row_sums *sums) { add_row(output, row, classes, sums); }
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
#define add_row_avx2 add_row_portable
static bool has_avx2(void) { return false; }
#endif

/* ---- rows that differ ---- */

/** Identities met before, as a hash table; 0 marks an empty place. */
typedef struct met {
  uint64_t *table;
  int64_t places, n;
} met;

static met met_none(int64_t rows) {
  met none = {.places = 16};
  while (none.places < 2 * rows && none.places < 2 * MOST_DISTINCT) none.places *= 2;
  none.table = mr3d_allocate(none.places, sizeof *none.table);
  return none;
}

/** Whether this is the first such row, and there are not enough yet. */
static bool is_new(met *known, uint64_t identity, uint64_t head) {
  if (known->n >= MOST_DISTINCT) return false;
  const uint64_t hash = ((identity ^ head * UINT64_C(0xD6E8FEB86659FD93)) * HASH) | 1;
  int64_t place = (int64_t)((hash >> 32) % (uint64_t)known->places);
  while (known->table[place] && known->table[place] != hash) place = (place + 1) % known->places;
  if (known->table[place]) return false;
  known->table[place] = hash;
  known->n++;
  return true;
}

static void add_bias(mr3d_bias *bias, const row_sums *sums, int64_t cols) {
  bias->signed_sum += sums->signed_sum;
  bias->sum += sums->sum;
  bias->squares += sums->squares;
  bias->allowance += sums->allowance;
  bias->n += cols;
  bias->rows++;
}

/* ---- the whole ---- */

static void take_row(const mr3d_output *output, int64_t row, const row_sums *sums, met known[2], mr3d_tally *tally) {
  if (sums->bad && tally->bad == 0) tally->first_bad = sums->first_bad;
  tally->bad += sums->bad;
  if (output->skip && output->skip[row]) return;
  const double relative = sums->error2 == 0 ? 0 : sqrt(sums->error2 / sums->ref2), slice = sqrt(sums->squares / (double)output->cols);
  tally->elements += output->cols;
  tally->error2 += sums->error2;
  tally->ref2 += sums->ref2;
  if (!(relative <= tally->worst_slice_relative_l2)) tally->worst_slice_relative_l2 = relative;
  if (!(sums->ulps <= tally->ulp_max)) tally->ulp_max = sums->ulps;
  if (!output->scale) return;
  tally->wrong += sums->wrong;
  tally->squares += sums->squares;
  if (!(sums->largest <= tally->worst_e)) tally->worst_e = sums->largest, tally->worst_element_row = row;
  if (!(slice <= tally->worst_slice)) tally->worst_slice = slice, tally->worst_row = row;
  const int64_t head = row / output->per_head % output->heads;
  if (is_new(&known[0], sums->identity, 0)) add_bias(&tally->whole, sums, output->cols);
  if (output->has_heads && is_new(&known[1], sums->identity, (uint64_t)head + 1)) add_bias(&tally->heads[head], sums, output->cols);
}

/** The middle of the class in which that part of the counted ulps ends. */
static double percentile(const int64_t *classes, double part) {
  int64_t n = 0;
  for (int c = 0; c < CLASSES; c++) n += classes[c];
  if (n == 0) return 0;
  const int64_t k = (int64_t)(part * (double)(n - 1));
  int class = 0;
  for (int64_t below = classes[0]; below <= k && class + 1 < CLASSES; below += classes[class]) class++;
  return middle_of(class);
}

/** Where in its row the largest error lies, and what was answered there. */
static void find_worst(const mr3d_output *output, mr3d_tally *tally) {
  double *got = mr3d_allocate(output->cols, sizeof *got), largest = -1;
  const int64_t first = tally->worst_element_row * output->cols;
  mr3d_output_row(output, tally->worst_element_row, got);
  for (int64_t i = 0; i < output->cols; i++) {
    const double e = fabs(mr3d_error_of(output, first + i, got[i]));
    if (e <= largest) continue;
    largest = e;
    tally->worst_element = first + i;
    tally->worst_got = got[i];
  }
  free(got);
}

void mr3d_tally_open(const mr3d_output *output, mr3d_tally *tally) {
  *tally = (mr3d_tally){.worst_e = -1, .heads = mr3d_allocate(output->heads, sizeof *tally->heads)};
  if (output->rows == 0 || output->cols == 0) return;
  const int64_t batch = BATCH / output->cols > 0 ? BATCH / output->cols : 1;
  const int threads = mr3d_thread_count(output->threads);
  int64_t *classes = mr3d_allocate((int64_t)threads * CLASSES, sizeof *classes);
  row_sums *sums = mr3d_allocate(batch < output->rows ? batch : output->rows, sizeof *sums);
  void (*const add)(const mr3d_output *, int64_t, int64_t *, row_sums *) = has_avx2() ? add_row_avx2 : add_row_portable;
  met known[2] = {met_none(output->rows), met_none(output->rows)};
  for (int64_t first = 0; first < output->rows; first += batch) {
    const int64_t end = first + batch < output->rows ? first + batch : output->rows;
#pragma omp parallel for num_threads(threads) schedule(static) if ((end - first) * output->cols > 4 * CHUNK)
    for (int64_t r = first; r < end; r++) add(output, r, classes + (int64_t)omp_get_thread_num() * CLASSES, &sums[r - first]);
    for (int64_t r = first; r < end; r++) take_row(output, r, &sums[r - first], known, tally);
  }
  for (int t = 1; t < threads; t++)
    for (int c = 0; c < CLASSES; c++) classes[c] += classes[(int64_t)t * CLASSES + c];
  tally->relative_l2 = tally->error2 == 0 ? 0 : sqrt(tally->error2 / tally->ref2);
  tally->ulp_p50 = percentile(classes, 0.5);
  tally->ulp_p99 = percentile(classes, 0.99);
  if (output->scale) find_worst(output, tally);
  free(known[0].table);
  free(known[1].table);
  free(sums);
  free(classes);
}

void mr3d_tally_close(mr3d_tally *tally) {
  free(tally->heads);
  *tally = (mr3d_tally){0};
}
