/**
 * What the mutant files share. One file a pitfall, one entry a mistake: a small alternative operator beside the reference's
 * table, or a changed request. Operators left NULL are the reference's.
 */
#ifndef MR3D_CONFORM_MUTANTS_INTERNAL_H
#define MR3D_CONFORM_MUTANTS_INTERNAL_H

#include <math.h>

#include "mr3d/model.h"
#include "mutants.h"

typedef struct mr3d_mutant_set {
  const mr3d_mutant *entries;
  int count;
} mr3d_mutant_set;

#define MR3D_MUTANT_SET(entries) {entries, sizeof(entries) / sizeof *(entries)}

#define MR3D_LAYERS "attention_block decoder_layer prefill decode"
#define MR3D_ROTATIONS "mixed_rope " MR3D_LAYERS
#define MR3D_ATTENDING "attention encode_points " MR3D_LAYERS
#define MR3D_PRODUCTS "linear encode_points " MR3D_LAYERS
#define MR3D_NORMS "rmsnorm decoder_layer prefill decode"

/** A sample's coordinate rows. A mistake stands before the reference's checks, so the count may be any number. */
static inline int64_t mr3d_rows_of(const int64_t *counts, int64_t b, int64_t N) {
  int64_t count = counts ? counts[b] : N;
  return count < 0 ? 0 : count < N ? count : N;
}

/* A value held in a narrower type. */
static inline double mr3d_in_f32(double x) { return (double)(float)x; }
static inline double mr3d_in_bf16(double x) { return mr3d_bf16_to_double(mr3d_bf16_from_double(x)); }
static inline double mr3d_in_f16(double x) { return mr3d_f16_to_double(mr3d_f16_from_double(x)); }
/** What a tensor core takes of a binary32 factor: 11 significant bits. */
static inline double mr3d_in_tf32(double x) {
  int exponent;
  double part = frexp(x, &exponent);
  return ldexp(nearbyint(ldexp(part, 11)), exponent - 11);
}

/**
 * One head's products of up to 64 queries with the first `keys` keys: with all K where a query sees none. A softmax of its own turns
 * them, in place, into the weights of the values.
 */
typedef struct mr3d_scores {
  int64_t queries, keys, first; /* first: the first query's index in the call */
  int64_t q, K, D;
  const bool *visible; /* [queries,K] */
  double *s;           /* [queries,keys]: q k before scaling */
} mr3d_scores;
typedef void mr3d_softmax(const mr3d_scores *);

/** Attention as the reference has it, with another softmax (weigh.c). `hidden_too`: it wants hidden keys' scores in every row. */
void mr3d_attend_with(mr3d_softmax *, bool hidden_too, const mr3d_context *, const mr3d_attention_in *, double *y);
/** Divides by sqrt(D). */
void mr3d_scores_scale(const mr3d_scores *);
/** Scales, then turns each query's scores into weights by `row`. */
void mr3d_scores_by_row(const mr3d_scores *, void (*row)(int64_t keys, const bool *visible, double *s));
/** The reference's softmax of one query's scaled scores. */
void mr3d_softmax_row(int64_t keys, const bool *visible, double *s);

/** How a scan is cut into cells, where the reference differs in one point only (dirty_scan.c). NULL: as the reference. */
typedef struct mr3d_scan_rule {
  bool (*keeps)(int64_t columns, const double *row);                    /* which rows count */
  void (*minimum)(int64_t N, int64_t columns, const double *points, double min[3]); /* min holds that of the rows that count */
  double (*place)(const mr3d_config *, double x, double min);           /* the index, as a real number */
} mr3d_scan_rule;
mr3d_status mr3d_voxelize_by(const mr3d_scan_rule *, const mr3d_context *, const mr3d_config *, int64_t N_raw, int64_t columns, const double *points,
                             mr3d_voxelize_out *, mr3d_error *);

/** A copy of a request that borrows its tensors, without one of them (NULL: with all): what `decorate` starts from. */
mr3d_bundle *mr3d_request_without(const mr3d_bundle *request, const char *left_out);

/**
 * What the server that now answers keeps from one request to the next: for mistakes that remember what they should forget.
 * It also says which request is answered: metadata `request` (a number), `op` and `config`. NULL where no mutant's server answers.
 */
mr3d_bundle *mr3d_mutant_memory(void);

/** Keeps values under a name, in place of those kept before; of a server that has no memory nothing is kept. */
void mr3d_mutant_remember(const char *name, int64_t count, const double *values);
/** What was kept, if there are `count` of them, else NULL. */
const double *mr3d_mutant_remembered(const char *name, int64_t count);
/** How often it was asked for `what` before while this request is answered: the layer, when every layer asks once. */
int64_t mr3d_mutant_nth(const char *what);

/** The request with a key of its configuration set to a JSON value; NULL where the configuration is none that is legal by itself. */
mr3d_bundle *mr3d_request_configured(const mr3d_bundle *request, const char *key, const char *json);
/** The request's configuration. False where it cannot be read. */
bool mr3d_request_config(const mr3d_bundle *request, mr3d_config *config);

/** Heads of alternative operators. */
#define MR3D_MIXED_ROPE(name)                                                                                                             \
  static mr3d_status name(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key, \
                          mr3d_error *error)
#define MR3D_NORMALIZE_COORDS(name) \
  static mr3d_status name(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out, mr3d_error *error)
#define MR3D_LAYER(name)                                                                                                                   \
  static mr3d_status name(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, \
                          mr3d_block_out *out, mr3d_error *error)
#define MR3D_MASK(name) static mr3d_status name(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error)
#define MR3D_CIS3D(name) static void name(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table)

/** One head of one point: what its temporal part depends on, and more that mistakes look at. */
typedef struct mr3d_point {
  const mr3d_config *config;
  const mr3d_split *split;
  int64_t position, index, first; /**< in the sequence; among the sample's points; the first point's in the sequence */
  const double *head;             /**< [D], unrotated */
} mr3d_point;
/** The angle of temporal dimension j at a position, gathered or native. */
double mr3d_point_angle(const mr3d_point *, int64_t position, int64_t j);
/** y [Dt] = x [Dt], half-split, dimension j turned by angle(point, j). */
void mr3d_turn_halves(const mr3d_point *, double (*angle)(const mr3d_point *, int64_t j), const double *x, double *y);
typedef void mr3d_turn(const mr3d_point *, const double *x, double *y);
/** mixed_rope with another rotation of the points' temporal part. */
mr3d_status mr3d_mixed_rope_turned(mr3d_turn *, const mr3d_context *, const mr3d_config *, const mr3d_mixed_rope_in *, double *query, double *key, mr3d_error *);
/** mixed_rope with spatial and temporal dimensions where `split` says; as many of both as the configuration says. */
mr3d_status mr3d_mixed_rope_split(const mr3d_split *split, const mr3d_context *, const mr3d_config *, const mr3d_mixed_rope_in *, double *query, double *key,
                                  mr3d_error *);
/** mixed_rope in which the keys are rotated by the operators of another table. */
mr3d_status mr3d_mixed_rope_keys_by(const mr3d_operators *, const mr3d_context *, const mr3d_config *, const mr3d_mixed_rope_in *, double *query, double *key,
                                    mr3d_error *);

extern const mr3d_mutant_set mr3d_mutants_mask_length, mr3d_mutants_decode_rope, mr3d_mutants_gqa_heads, mr3d_mutants_coords_count,
    mr3d_mutants_mask_ownership, mr3d_mutants_batch, mr3d_mutants_pairing, mr3d_mutants_temporal_table, mr3d_mutants_broadcast,
    mr3d_mutants_theta_mixup, mr3d_mutants_cache_rotation, mr3d_mutants_splice, mr3d_mutants_qwen2_details, mr3d_mutants_axial_weights,
    mr3d_mutants_layout, mr3d_mutants_drift_norm;
extern const mr3d_mutant_set mr3d_mutants_mask_overflow, mr3d_mutants_silent_downcast, mr3d_mutants_narrow_angles, mr3d_mutants_keep_all_logits,
    mr3d_mutants_empty_cache, mr3d_mutants_head_dim, mr3d_mutants_stale_cis, mr3d_mutants_degenerate, mr3d_mutants_dirty_scan,
    mr3d_mutants_order_sensitivity, mr3d_mutants_overflow_half;
extern const mr3d_mutant_set mr3d_mutants_token_rows, mr3d_mutants_sparse_conv, mr3d_mutants_group_norm, mr3d_mutants_patches, mr3d_mutants_grid_pooling,
    mr3d_mutants_fourier_features, mr3d_mutants_encoder_gelu, mr3d_mutants_narrow_products, mr3d_mutants_truncated_stores;

#endif
