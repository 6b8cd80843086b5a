/**
 * The operators of the reference, in binary64 (spec.md sections 2 to 7, protocol.md "Operators").
 *
 * Arrays are dense, row-major, shapes in brackets. Sizes: B batch, T text tokens, S tokens after the splice, q new tokens,
 * L cached tokens, K = L + q keys, H query heads, G key/value heads, D head_dim, Ds/Dt spatial and temporal part, F = Ds/2, N points.
 *
 * Beside every floating-point operator `mr3d_NAME` stands `mr3d_NAME_scale`: the per-element error scale of its output for a
 * given arithmetic (docs/tolerance.md). A scale of 0 demands an exact answer.
 */
#ifndef MR3D_OPS_H
#define MR3D_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "mr3d/arithmetic.h"
#include "mr3d/config.h"
#include "mr3d/format.h"
#include "mr3d/status.h"
#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mr3d_operators mr3d_operators;
typedef struct mr3d_tracer mr3d_tracer;

/**
 * What every operator is handed: the table through which composed operators call others (the reference's own, or one in
 * which single entries are replaced), the arithmetic to emulate (NULL: exact binary64), the thread count (0: all).
 *
 * `calls` numbers the roundings of an emulated run, so that layers do not share thresholds. The owner of the context sets it to where
 * the run's numbers start (0, or the number of the request << 32) and keeps it for all operators of the run; NULL without an arithmetic.
 * `squares` (NULL: none) is what an emulated run has in common with others of the same request.
 *
 * `tracer` (mr3d/trace.h; NULL: none) is handed what passes between operators of the model; `layer` says of which one.
 */
struct mr3d_context {
  const mr3d_operators *op;
  const mr3d_arithmetic *arithmetic;
  int threads;
  uint64_t *calls;
  mr3d_kept_squares *squares;
  const mr3d_tracer *tracer;
  int64_t layer;
};

/* ---- splice (spec.md 2) ---- */
typedef struct mr3d_splice_in {
  int64_t B, T;
  const int64_t *input_ids;      /* [B,T] */
  const int64_t *attention_mask; /* [B,T] */
  const int64_t *point_counts;   /* [B] */
  const int64_t *labels;         /* [B,T] or NULL */
  int64_t point_start_token_id, point_end_token_id;
} mr3d_splice_in;

/** Ownership: arrays are the caller's after success; mr3d_splice_free releases them. */
typedef struct mr3d_splice_out {
  int64_t S;
  int64_t *source;           /* [B,S] */
  int64_t *attention_mask;   /* [B,S] */
  bool *point_token_mask;    /* [B,S] */
  int64_t *labels;           /* [B,S] or NULL */
} mr3d_splice_out;

mr3d_status mr3d_splice(const mr3d_context *, const mr3d_splice_in *, mr3d_splice_out *, mr3d_error *);
void mr3d_splice_free(mr3d_splice_out *);

/* ---- mask (spec.md 4) ---- */
typedef struct mr3d_mask_in {
  int64_t B, L, q;
  int64_t M;                   /* columns of key_mask */
  const int64_t *key_mask;     /* [B,M] or NULL: all keys present */
  const char *key_mask_name;   /* the name its caller knows it by, for messages; NULL: "key_mask" */
  int64_t L0;                  /* columns of prefill_mask */
  const int64_t *prefill_mask; /* [B,L0] or NULL */
  mr3d_decode_mask rule;
} mr3d_mask_in;

/** visible [B,q,L+q]. Errors: mask longer than L+q; short at prefill; not 0/1; with the numbers. */
mr3d_status mr3d_mask(const mr3d_context *, const mr3d_mask_in *, bool *visible, mr3d_error *);

/* ---- rotary tables and rotations (spec.md 3) ---- */
/** cos, sin [P,D] of theta[p,j] = position[p] * rope_theta^(-2 (j mod D/2) / D); spec.md 3.1. */
void mr3d_rotary_table(const mr3d_context *, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                       double *sin_table);

typedef struct mr3d_rope1d_in {
  int64_t B, heads, q, D;
  double rope_theta;
  const double *x;             /* [B,heads,q,D] */
  int64_t position_rows;       /* B or 1 */
  const int64_t *position_ids; /* [position_rows,q] */
} mr3d_rope1d_in;
void mr3d_rope1d(const mr3d_context *, const mr3d_rope1d_in *, double *y);
/** turn [B,heads,q,D]: derivative of y to the angle (for the angle-bias rule); may be NULL. */
void mr3d_rope1d_scale(const mr3d_units *, const mr3d_rope1d_in *, double *scale, double *turn);

/** Fixed base frequencies [axes = 3 or 1,heads,F] where nothing is learned: rope_theta_3d^(-2f/Ds), or the axial pattern. */
mr3d_status mr3d_base_frequencies(const mr3d_config *, int64_t heads, int64_t F, double *freqs /* [3,heads,F] */, mr3d_error *);

typedef struct mr3d_cis3d_in {
  int64_t heads, F, N;
  int64_t freq_axes;           /* 3, or 1: one set shared by the axes */
  const double *freqs;         /* [freq_axes,heads,F] */
  const double *axial_weights; /* [heads,F,3] or NULL: 1 */
  const double *coords;        /* [N,3] */
} mr3d_cis3d_in;
void mr3d_cis3d(const mr3d_context *, const mr3d_cis3d_in *, double *cos_table, double *sin_table /* [heads,N,F] */);
void mr3d_cis3d_scale(const mr3d_units *, const mr3d_cis3d_in *, double *cos_scale, double *sin_scale);

typedef struct mr3d_rope3d_in {
  int64_t B, heads, N, Ds;
  const double *x;                    /* [B,heads,N,Ds] */
  const double *cos_table, *sin_table; /* [heads,N,Ds/2] */
} mr3d_rope3d_in;
void mr3d_rope3d(const mr3d_context *, const mr3d_rope3d_in *, double *y);
void mr3d_rope3d_scale(const mr3d_units *, const mr3d_rope3d_in *, double *scale, double *turn);

typedef struct mr3d_normalize_coords_in {
  int64_t B, N;
  const double *coords;        /* [B,N,3] */
  const int64_t *point_counts; /* [B] or NULL: N */
} mr3d_normalize_coords_in;
/** out [B,N,3]; rows beyond a sample's count are 0. Errors: `grid` with reduced_grid_size 1, virtual_resolution missing. */
mr3d_status mr3d_normalize_coords(const mr3d_context *, const mr3d_config *, const mr3d_normalize_coords_in *, double *out, mr3d_error *);
void mr3d_normalize_coords_scale(const mr3d_units *, const mr3d_config *, const mr3d_normalize_coords_in *, double *scale, double *shared);

/** The points of one call (protocol.md, "Point tensors"); `mask` NULL: text only. */
typedef struct mr3d_points {
  const bool *mask;      /* [B,S] */
  int64_t N;             /* rows of coords per sample */
  const double *coords;  /* [B,N,3], before coord_norm */
  const int64_t *counts; /* [B] or NULL: N */
} mr3d_points;
/** Errors: "point_coords has 106328 rows, point_token_mask marks 556" and its likes, per sample. */
mr3d_status mr3d_points_check(const mr3d_points *, int64_t B, int64_t S, mr3d_error *);

/** Learned 3D parameters of one side (query or key); NULL where the options fix them. */
typedef struct mr3d_rotary_parameters {
  const double *freqs;         /* [3 or 1,heads,F] as learned_per_axis says */
  const double *axial_weights; /* [heads,F,3] */
} mr3d_rotary_parameters;

typedef struct mr3d_mixed_rope_in {
  int64_t B, H, G, S, D;
  const double *query, *key;   /* [B,H,S,D], [B,G,S,D] */
  int64_t position_rows;       /* B or 1 */
  const int64_t *position_ids; /* [position_rows,S] */
  mr3d_points points;
  mr3d_rotary_parameters q, kv;
} mr3d_mixed_rope_in;
mr3d_status mr3d_mixed_rope(const mr3d_context *, const mr3d_config *, const mr3d_mixed_rope_in *, double *query, double *key, mr3d_error *);
/** Scales and turns like query and key; turns may be NULL. */
mr3d_status mr3d_mixed_rope_scale(const mr3d_units *, const mr3d_config *, const mr3d_mixed_rope_in *, double *query_scale, double *key_scale,
                                  double *query_turn, double *key_turn, mr3d_error *);

/* ---- decoder parts (spec.md 6) ---- */
typedef struct mr3d_rmsnorm_in {
  int64_t rows, n;
  double eps;
  const double *x, *weight; /* [rows,n], [n] */
} mr3d_rmsnorm_in;
void mr3d_rmsnorm(const mr3d_context *, const mr3d_rmsnorm_in *, double *y);
void mr3d_rmsnorm_scale(const mr3d_units *, const mr3d_rmsnorm_in *, double *scale);

/** `stored`, where `weight` is NULL: the weight in the type that a file has it in, which mr3d_linear widens as it goes, in exact arithmetic only. */
typedef struct mr3d_linear_in {
  int64_t rows, in, out;
  const double *x, *weight, *bias; /* [rows,in], [out,in], [out] or NULL */
  const mr3d_tensor *stored;       /* [out,in] or NULL */
} mr3d_linear_in;
void mr3d_linear(const mr3d_context *, const mr3d_linear_in *, double *y);
void mr3d_linear_scale(const mr3d_units *, const mr3d_linear_in *, double *scale);

typedef struct mr3d_swiglu_in {
  int64_t rows, n;
  const double *gate, *up; /* [rows,n] */
} mr3d_swiglu_in;
void mr3d_swiglu(const mr3d_context *, const mr3d_swiglu_in *, double *y);
void mr3d_swiglu_scale(const mr3d_units *, const mr3d_swiglu_in *, double *scale);

typedef struct mr3d_attention_in {
  int64_t B, H, G, q, K, D;
  const double *query, *key, *value; /* [B,H,q,D], [B,G,K,D], [B,G,K,D] */
  const bool *visible;               /* [B,q,K] */
} mr3d_attention_in;
void mr3d_attention(const mr3d_context *, const mr3d_attention_in *, double *y);
void mr3d_attention_scale(const mr3d_units *, const mr3d_attention_in *, double *scale);

/* ---- raw scan (spec.md 7) ---- */
typedef struct mr3d_voxelize_out {
  int64_t M, columns; /* cells; 3 or 6 features */
  int64_t dropped;    /* rows with a non-finite value */
  int64_t *grid;      /* [M,3] */
  double *features;   /* [M,columns] */
  int64_t *row;       /* [M]: the raw row each cell kept */
} mr3d_voxelize_out;
/** points [N_raw,columns]. Errors: an empty cloud, an index beyond num_bins - 1 (unless `clip`), with the numbers. */
mr3d_status mr3d_voxelize(const mr3d_context *, const mr3d_config *, int64_t N_raw, int64_t columns, const double *points,
                          mr3d_voxelize_out *, mr3d_error *);
void mr3d_voxelize_free(mr3d_voxelize_out *);
void mr3d_voxelize_scale(const mr3d_units *, const mr3d_voxelize_out *, double *scale, double *shared /* [M,columns] */);

typedef struct mr3d_token_coords_out {
  int64_t N;
  int64_t *coords; /* [N,3] */
  int64_t *count;  /* [N] */
} mr3d_token_coords_out;
mr3d_status mr3d_token_coords(const mr3d_context *, int64_t M, const int64_t *grid, int64_t stages, mr3d_token_coords_out *, mr3d_error *);
void mr3d_token_coords_free(mr3d_token_coords_out *);

/* ---- composed operators and the table: mr3d/model.h ---- */

#ifdef __cplusplus
}
#endif
#endif
