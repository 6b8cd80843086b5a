/** P13: rope_theta and rope_theta_3d exchanged, or the exponent wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mutants_internal.h"

#define TABLE(name) \
  static void name(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table, double *sin_table)

/* rope_theta^(-k 2j/D) is (rope_theta^k)^(-2j/D): an exponent that is off by a factor is another base. */
TABLE(table_of_100) { (void)rope_theta, mr3d_rotary_table(context, P, D, 100, positions, cos_table, sin_table); }
TABLE(table_of_10000) { (void)rope_theta, mr3d_rotary_table(context, P, D, 10000, positions, cos_table, sin_table); }
TABLE(exponent_205) { mr3d_rotary_table(context, P, D, pow(rope_theta, 1.025), positions, cos_table, sin_table); }
TABLE(exponent_j) { mr3d_rotary_table(context, P, D, sqrt(rope_theta), positions, cos_table, sin_table); }
TABLE(exp2_of_ln) { mr3d_rotary_table(context, P, D, pow(rope_theta, log(2)), positions, cos_table, sin_table); }

TABLE(counted_from_one) {
  (void)context;
  for (int64_t i = 0; i < P * D; i++) {
    double angle = (double)positions[i / D] * pow(rope_theta, -2 * (double)(i % D % (D / 2) + 1) / (double)D);
    cos_table[i] = cos(angle);
    sin_table[i] = sin(angle);
  }
}

/** The request with another rope_theta_3d; NULL where the mistake has none. */
static mr3d_bundle *with_theta_3d(const mr3d_bundle *request, double theta) {
  char json[40];
  if (!(theta > 1) || !isfinite(theta)) return NULL;
  snprintf(json, sizeof json, "%.17g", theta);
  return mr3d_request_configured(request, "rope_theta_3d", json);
}

static bool is_mixed(const mr3d_bundle *request, mr3d_config *config) { return mr3d_request_config(request, config) && config->rope_3d_kind == MR3D_MIXED; }

static mr3d_bundle *text_theta_in_3d(const mr3d_bundle *request) {
  mr3d_config config;
  return mr3d_request_config(request, &config) ? with_theta_3d(request, config.rope_theta) : NULL;
}

static mr3d_bundle *base_10000_in_3d(const mr3d_bundle *request) { return with_theta_3d(request, 10000); }
static mr3d_bundle *base_100_in_3d(const mr3d_bundle *request) { return with_theta_3d(request, 100); }

static mr3d_bundle *exponent_j_in_3d(const mr3d_bundle *request) {
  mr3d_config config;
  return is_mixed(request, &config) ? with_theta_3d(request, sqrt(config.rope_theta_3d)) : NULL;
}

static mr3d_bundle *exponent_205_in_3d(const mr3d_bundle *request) {
  mr3d_config config;
  return mr3d_request_config(request, &config) ? with_theta_3d(request, pow(config.rope_theta_3d, 1.025)) : NULL;
}

static mr3d_bundle *exp2_of_ln_in_3d(const mr3d_bundle *request) {
  mr3d_config config;
  return mr3d_request_config(request, &config) ? with_theta_3d(request, pow(config.rope_theta_3d, log(2))) : NULL;
}

static mr3d_bundle *exponent_over_D_in_3d(const mr3d_bundle *request) {
  mr3d_config config;
  mr3d_split split;
  if (!is_mixed(request, &config)) return NULL;
  const mr3d_tensor *query = mr3d_bundle_find(request, "query");
  int64_t D = config.head_dim > 0 ? config.head_dim : query && query->rank == 4 ? query->shape[3] : 0;
  if (D == 0 && config.num_attention_heads > 0) D = config.hidden_size / config.num_attention_heads;
  if (D <= 0 || mr3d_split_head(&config, D, &split, NULL) != MR3D_OK) return NULL;
  double theta = pow(config.rope_theta_3d, (double)split.Ds / (double)D);
  mr3d_split_free(&split);
  return with_theta_3d(request, theta);
}

/**
 * Base frequencies, which no operator is told apart from learned ones: known by their looks, 1 in the first bin of an axis, equal in all
 * heads. n is the number of x's bins where they are axial, else 0; step is a bin's frequency over that of the bin before.
 */
typedef struct base {
  int64_t heads, F, n;
  double step;
} base;

static bool is_base(const mr3d_cis3d_in *in, base *found) {
  int64_t F = in->F, n = F / 3;
  if (in->axial_weights || in->freq_axes != 3 || in->heads < 1 || F < 2) return false;
  const double *x = in->freqs, *y = x + in->heads * F, *z = y + in->heads * F;
  bool axial = n > 0 && x[0] == 1 && y[0] == 0 && z[0] == 0 && y[n] == 1 && z[2 * n] == 1, mixed = x[0] == 1 && y[0] == 1 && z[0] == 1;
  for (int64_t i = 0; i < in->heads * F; i++) {
    int64_t f = i % F;
    axial = axial && (f < n ? y[i] == 0 && z[i] == 0 : f < 2 * n ? x[i] == 0 && z[i] == 0 : x[i] == 0 && y[i] == 0) && x[i] == x[f] && y[i] == y[f] && z[i] == z[f];
    mixed = mixed && x[i] == x[f] && y[i] == x[f] && z[i] == x[f];
  }
  *found = (base){.heads = in->heads, .F = F, .n = axial ? n : 0, .step = mixed ? x[1] : axial && F - 2 * n > 1 ? z[2 * n + 1] : 0};
  return (axial || mixed) && found->step > 0;
}

/** Bin f of head h turns by `axis` (ALL of them, or NONE) with frequency step^exponent. */
enum { NONE = -1, ALL = 3 };
typedef struct bin {
  int64_t axis;
  double exponent;
} bin;

static bin usual(const base *b, int64_t f) {
  int64_t axis = b->n == 0 ? ALL : f < b->n ? 0 : f < 2 * b->n ? 1 : 2;
  return (bin){axis, (double)(axis == ALL ? f : f - axis * b->n)};
}

static void with_bins(bin (*of)(const base *, int64_t h, int64_t f), const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table,
                      double *sin_table) {
  base b;
  if (!is_base(in, &b)) {
    mr3d_cis3d(context, in, cos_table, sin_table);
    return;
  }
  int64_t set = in->heads * in->F;
  double *freqs = mr3d_allocate(3 * set, sizeof *freqs);
  for (int64_t i = 0; i < 3 * set; i++) {
    bin one = of(&b, i % set / in->F, i % in->F);
    if (one.axis == ALL || one.axis == i / set) freqs[i] = pow(b.step, one.exponent);
  }
  mr3d_cis3d_in changed = *in;
  changed.freqs = freqs;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(freqs);
}

static bin from_one(const base *b, int64_t h, int64_t f) {
  bin one = usual(b, f);
  return (void)h, one.exponent++, one;
}
static bin through_heads(const base *b, int64_t h, int64_t f) {
  return b->n > 0 ? usual(b, f) : (bin){ALL, (double)(h * b->F + f) / (double)b->heads};
}
static bin through_axes(const base *b, int64_t h, int64_t f) { return (void)h, (bin){usual(b, f).axis, (double)f}; }
static bin rest_dropped(const base *b, int64_t h, int64_t f) { return (void)h, b->n > 0 && f >= 3 * b->n ? (bin){NONE, 0} : usual(b, f); }
static bin rest_restarts(const base *b, int64_t h, int64_t f) { return (void)h, b->n > 0 && f >= 3 * b->n ? (bin){2, (double)(f % b->n)} : usual(b, f); }
/** Another number of bins for x and y, which is the divisor of the exponent, too. */
static bin with_n(const base *b, int64_t f, int64_t n) {
  if (b->n == 0) return usual(b, f);
  int64_t axis = f / n < 2 ? f / n : 2;
  return (bin){axis, (double)((f - axis * n) * b->n) / (double)n};
}
static bin rounded_up(const base *b, int64_t h, int64_t f) { return (void)h, with_n(b, f, (b->F + 2) / 3); }
static bin not_halved(const base *b, int64_t h, int64_t f) { return (void)h, with_n(b, f, 2 * b->F / 3); }
static bin over_F(const base *b, int64_t h, int64_t f) {
  bin one = usual(b, f);
  if (b->n > 0) one.exponent *= (double)b->n / (double)b->F;
  return (void)h, one;
}
static bin not_axial(const base *b, int64_t h, int64_t f) { return (void)h, (bin){ALL, (double)f * (b->n > 0 ? (double)b->n / (double)b->F : 1)}; }

MR3D_CIS3D(base_from_one) { with_bins(from_one, context, in, cos_table, sin_table); }
MR3D_CIS3D(base_through_heads) { with_bins(through_heads, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_through_axes) { with_bins(through_axes, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_rest_dropped) { with_bins(rest_dropped, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_rest_restarts) { with_bins(rest_restarts, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_rounded_up) { with_bins(rounded_up, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_not_halved) { with_bins(not_halved, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_over_F) { with_bins(over_F, context, in, cos_table, sin_table); }
MR3D_CIS3D(axial_ignored) { with_bins(not_axial, context, in, cos_table, sin_table); }

static const mr3d_mutant entries[] = {
    {"theta-mixup", "text-theta-in-3d", "3D base frequencies are made from rope_theta (1e6) instead of rope_theta_3d (100)",
     "cis3d " MR3D_ROTATIONS, {NULL}, text_theta_in_3d},
    {"theta-mixup", "base-10000-in-3d", "3D base frequencies are made from 10000 instead of rope_theta_3d (100)",
     "cis3d " MR3D_ROTATIONS, {NULL}, base_10000_in_3d},
    {"theta-mixup", "base-100-in-3d", "3D base frequencies are made from 100 whatever rope_theta_3d says",
     "cis3d " MR3D_ROTATIONS, {NULL}, base_100_in_3d},
    {"theta-mixup", "exponent-over-head-dim-in-3d", "3D base frequencies have the exponent -2f/D instead of -2f/Ds",
     "cis3d " MR3D_ROTATIONS, {NULL}, exponent_over_D_in_3d},
    {"theta-mixup", "exponent-f-in-3d", "3D base frequencies have the exponent -f/Ds instead of -2f/Ds",
     "cis3d " MR3D_ROTATIONS, {NULL}, exponent_j_in_3d},
    {"theta-mixup", "exponent-2.05-in-3d", "3D base frequencies have -2.05 instead of -2 in their exponent",
     "cis3d " MR3D_ROTATIONS, {NULL}, exponent_205_in_3d},
    {"theta-mixup", "exp2-of-ln-in-3d", "3D base frequencies are 2^(-2f/Ds ln rope_theta_3d) instead of e^(-2f/Ds ln rope_theta_3d)",
     "cis3d " MR3D_ROTATIONS, {NULL}, exp2_of_ln_in_3d},
    {"theta-mixup", "counted-from-one-in-3d", "bins of 3D base frequencies are counted from 1 instead of 0: the first is not 1",
     "cis3d " MR3D_ROTATIONS, {.cis3d = base_from_one}},
    {"theta-mixup", "counted-through-heads", "bins of 3D base frequencies are counted through all heads instead of from 0 in each: heads differ",
     "cis3d " MR3D_ROTATIONS, {.cis3d = base_through_heads}},
    {"theta-mixup", "axial-through-axes", "axial bins are counted through the axes instead of from 0 in each: y starts at n",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_through_axes}},
    {"theta-mixup", "axial-rest-dropped", "axial bins beyond 3n (one of 16) are not turned instead of turned by z",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_rest_dropped}},
    {"theta-mixup", "axial-rest-restarts", "axial bins beyond 3n (one of 16) turn by z with frequencies from 1 on again",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_rest_restarts}},
    {"theta-mixup", "axial-rounded-up", "the number of axial bins for x and y is F/3 rounded up (6 of 16) instead of down (5)",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_rounded_up}},
    {"theta-mixup", "axial-not-halved", "the number of axial bins for x and y is Ds//3 (10 of 16) instead of (Ds//3)//2 (5)",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_not_halved}},
    {"theta-mixup", "axial-over-bins", "axial frequencies have the exponent -i/F instead of -i/n",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_over_F}},
    {"theta-mixup", "axial-ignored", "rope_3d_kind axial is ignored: all bins turn by all axes with the base frequencies of mixed",
     "cis3d " MR3D_ROTATIONS, {.cis3d = axial_ignored}},
    {"theta-mixup", "3d-theta-in-text", "1D frequencies are made from rope_theta_3d (100) instead of rope_theta (1e6)",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = table_of_100}},
    {"theta-mixup", "base-10000", "1D frequencies are made from 10000, the customary base, instead of rope_theta (1e6)",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = table_of_10000}},
    {"theta-mixup", "exponent-2.05", "1D frequencies have -2.05 instead of -2 in their exponent",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = exponent_205}},
    {"theta-mixup", "exponent-j", "1D frequencies have the exponent -j/D instead of -2j/D",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = exponent_j}},
    {"theta-mixup", "exp2-of-ln", "1D frequencies are 2^(-2j/D ln rope_theta) instead of e^(-2j/D ln rope_theta)",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = exp2_of_ln}},
    {"theta-mixup", "counted-from-one", "1D frequencies are counted from 1 instead of 0: the first is not 1",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = counted_from_one}},
};
const mr3d_mutant_set mr3d_mutants_theta_mixup = MR3D_MUTANT_SET(entries);
