/**
 * The operators of the point encoders, in binary64 (encoders.md).
 *
 * Arrays are dense, row-major, shapes in brackets. Sizes: n cells (or tokens) of one sample, C channels. `cells [n,3]` are grid indices
 * x, y, z >= 0; where a comment says "sorted" they are in lexicographic order and distinct.
 *
 * All of them go through the context's table of operators (mr3d/model.h), so that one can be replaced alone.
 */
#ifndef MR3D_ENCODERS_H
#define MR3D_ENCODERS_H

#include "mr3d/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A matrix, a convolution or a norm: its weight and its bias (NULL: none). */
typedef struct mr3d_affine {
  const double *weight, *bias;
} mr3d_affine;

/* ---- cells ---- */

/** Indices of z-order codes are below 2^21: three of them fill 63 bits. */
#define MR3D_Z_ORDER_BITS 21
/** codes [n]: bit i of x, y, z goes to bit 3i+2, 3i+1, 3i; under MR3D_Z_TRANS x and y are exchanged. Requires: indices below 2^21. */
void mr3d_z_order(const mr3d_context *, mr3d_point_order, int64_t n, const int64_t *cells, uint64_t *codes);

/** What is left of cells that are floor-divided. Ownership: arrays are the caller's after success; mr3d_coarse_cells_free releases them. */
typedef struct mr3d_coarse_cells_out {
  int64_t n;
  int64_t *cells;  /* [n,3], sorted */
  int64_t *parent; /* [n of the finer cells]: the coarse cell each went to */
} mr3d_coarse_cells_out;
/** Every floor(cell / stride) that has a child. Requires: stride >= 1. */
void mr3d_coarse_cells(const mr3d_context *, int64_t n, const int64_t *cells, int64_t stride, mr3d_coarse_cells_out *);
void mr3d_coarse_cells_free(mr3d_coarse_cells_out *);

/** How the taps of a k x k x k kernel are numbered, each axis counted from 0, and where its weights lie. */
typedef enum mr3d_kernel_layout {
  MR3D_KERNEL_X_FASTEST, /**< [k^3,c_in,c_out], tap dx + k (dy + k dz) */
  MR3D_KERNEL_Z_FASTEST, /**< [k^3,c_in,c_out], tap dz + k (dy + k dx) */
  MR3D_KERNEL_OUT_FIRST  /**< [c_out,k,k,k,c_in], axes x, y, z: tap dz + k (dy + k dx) */
} mr3d_kernel_layout;

/** Which input cell each tap of each output cell sees: the cell at stride * output + tap + first. */
typedef struct mr3d_neighbours_in {
  int64_t n, n_out;
  const int64_t *cells, *out_cells; /* [n,3] distinct, [n_out,3] */
  int64_t k, stride, first;         /* `first` is added to each axis of the tap's place 0 .. k-1 */
  mr3d_kernel_layout layout;
} mr3d_neighbours_in;
/** rows [k^3,n_out]: the row of that cell, -1 where it is missing. */
void mr3d_neighbours(const mr3d_context *, const mr3d_neighbours_in *, int64_t *rows);

/* ---- convolutions ---- */

typedef struct mr3d_sparse_conv_in {
  int64_t n, n_out;
  const int64_t *cells, *out_cells; /* [n,3] distinct, [n_out,3]; a submanifold convolution has out_cells = cells */
  int64_t k, c_in, c_out;
  const double *x; /* [n,c_in] */
  mr3d_kernel_layout layout;
  mr3d_affine kernel; /* weight as `layout` says, bias [c_out] or NULL */
} mr3d_sparse_conv_in;
/** y [n_out,c_out]; stride 1, taps centred, output cells = input cells. Requires: odd k. */
void mr3d_submanifold_conv(const mr3d_context *, const mr3d_sparse_conv_in *, double *y);
/** y [n_out,c_out]; kernel k, stride k. */
void mr3d_strided_conv(const mr3d_context *, const mr3d_sparse_conv_in *, double *y);

/* ---- norms and activations: x and y may be one array ---- */

typedef struct mr3d_norm_in {
  int64_t n, C, groups; /* `groups` divides C; the layer norm does not read it */
  double eps;
  const double *x;   /* [n,C] */
  mr3d_affine norm;  /* [C], [C] */
} mr3d_norm_in;
/** y [n,C]: mean and variance over all rows and the group's channels. */
void mr3d_group_norm_sparse(const mr3d_context *, const mr3d_norm_in *, double *y);
/** y [n,C]: mean and variance of each row over the group's channels. */
void mr3d_group_norm_rows(const mr3d_context *, const mr3d_norm_in *, double *y);
/** y [n,C]: mean and variance of each row. */
void mr3d_layernorm(const mr3d_context *, const mr3d_norm_in *, double *y);

/** y [n,C] = x Phi(x), the exact GELU. */
void mr3d_gelu(const mr3d_context *, int64_t n, int64_t C, const double *x, double *y);
/** y [n,C] = max(x, 0). */
void mr3d_relu(const mr3d_context *, int64_t n, int64_t C, const double *x, double *y);

/* ---- positions ---- */

#define MR3D_FOURIER_BANDS 10
#define MR3D_FOURIER_FEATURES (3 + 6 * MR3D_FOURIER_BANDS)

typedef struct mr3d_fourier_in {
  int64_t n;
  const int64_t *coords; /* [n,3] */
  mr3d_sonata_coord_norm norm;
  int64_t reduced_grid_size; /* at least 2 where the norm is `grid` */
} mr3d_fourier_in;
/** y [n,63]: v, then sin and cos of pi s_b v for each band. */
void mr3d_fourier_features(const mr3d_context *, const mr3d_fourier_in *, double *y);

/* ---- attention in patches ---- */

/** Which tokens attend to each other. */
typedef struct mr3d_patches_in {
  int64_t n;
  const int64_t *cells; /* [n,3] */
  int64_t n_orders;
  const mr3d_point_order *orders;
  int64_t stage, block; /* block i of a stage takes order i mod n_orders */
  int64_t patch_size;
} mr3d_patches_in;
/** Ownership: arrays are the caller's; mr3d_patches_free releases them. */
typedef struct mr3d_patches_out {
  int64_t runs, K;
  int64_t *token; /* [runs,K]: the token at each place */
  bool *keep;     /* [runs,K]: false for fillers, whose outputs are dropped */
} mr3d_patches_out;
void mr3d_patches(const mr3d_context *, const mr3d_patches_in *, mr3d_patches_out *);
void mr3d_patches_free(mr3d_patches_out *);

typedef struct mr3d_patch_attention_in {
  int64_t n, C, heads;
  const double *x;        /* [n,C] */
  mr3d_affine qkv, proj;  /* [3C,C], [C,C] */
  const mr3d_patches_out *patches;
} mr3d_patch_attention_in;
/** y [n,C] = proj(attention(qkv(x))). */
void mr3d_patch_attention(const mr3d_context *, const mr3d_patch_attention_in *, double *y);

/* ---- between stages, and out ---- */

typedef struct mr3d_grid_pooling_in {
  int64_t n, C, C_out;
  const double *x;       /* [n,C] */
  const int64_t *parent; /* [n] */
  int64_t n_out;
  double eps;
  mr3d_affine proj, norm; /* [C_out,C], [C_out] */
} mr3d_grid_pooling_in;
/** y [n_out,C_out] = GELU(LayerNorm(max over children of Linear(x))). */
void mr3d_grid_pooling(const mr3d_context *, const mr3d_grid_pooling_in *, double *y);

typedef struct mr3d_projector_in {
  int64_t n, C, inner, hidden;
  const double *x; /* [n,C] */
  mr3d_projector kind;
  mr3d_affine first, second; /* linear: [hidden,C] and nothing; mlp: [inner,C], [hidden,inner] */
} mr3d_projector_in;
/** y [n,hidden]. */
void mr3d_project(const mr3d_context *, const mr3d_projector_in *, double *y);

#ifdef __cplusplus
}
#endif
#endif
