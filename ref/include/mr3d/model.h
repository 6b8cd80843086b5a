/** Composed operators: attention block, decoder layer (spec.md 4 to 6), point encoders (encoders.md), and the table of all operators. */
#ifndef MR3D_MODEL_H
#define MR3D_MODEL_H

#include "mr3d/encoders.h"
#include "mr3d/ops.h"
#include "mr3d/tensor.h"
#include "mr3d/watch.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * One layer's parameters in binary64, Hugging Face names below `model.layers.N.`; NULL where absent. Where the decoder itself is the caller, on few rows and with the
 * reference's own operators, a matrix may be NULL and `*_stored` hold it in the type of its file (mr3d_linear_in.stored).
 */
typedef struct mr3d_layer {
  const double *input_layernorm, *post_attention_layernorm;                 /* [hidden] */
  const double *q_weight, *q_bias, *k_weight, *k_bias, *v_weight, *v_bias;  /* [heads*D,hidden], [heads*D] */
  const double *o_weight;                                                   /* [hidden,H*D] */
  const double *gate_weight, *up_weight, *down_weight;                      /* [I,hidden], [I,hidden], [hidden,I] */
  const mr3d_tensor *q_stored, *k_stored, *v_stored, *o_stored, *gate_stored, *up_stored, *down_stored;
  mr3d_rotary_parameters rotary_q, rotary_kv;
} mr3d_layer;

typedef struct mr3d_block_in {
  int64_t B, q, L;
  const double *hidden;                  /* [B,q,hidden] */
  const double *past_key, *past_value;   /* [B,G,L,D] or NULL when L is 0 */
  mr3d_mask_in mask;                     /* B, L, q filled in */
  int64_t position_rows;                 /* 0: positions are L .. L+q-1 */
  const int64_t *position_ids;
  mr3d_points points;
} mr3d_block_in;

/** hidden [B,q,hidden]; key, value [B,G,L+q,D]: the whole cache, rotated keys. Ownership: caller's arrays. */
typedef struct mr3d_block_out {
  double *hidden, *key, *value;
} mr3d_block_out;

/** Require a configuration that holds all its sizes. Errors: of mask and mixed_rope; what `out` points at is then undefined. */
mr3d_status mr3d_attention_block(const mr3d_context *, const mr3d_config *, const mr3d_layer *, const mr3d_block_in *, mr3d_block_out *, mr3d_error *);
mr3d_status mr3d_decoder_layer(const mr3d_context *, const mr3d_config *, const mr3d_layer *, const mr3d_block_in *, mr3d_block_out *, mr3d_error *);

/** Where an encoder's parameters come from, tensor by tensor, in binary64. */
typedef struct mr3d_parameters {
  void *user;
  /** The values of the tensor of that name (encoders.md). Valid until `release`. Errors: it cannot be read, or is not finite. */
  mr3d_status (*values)(void *user, const char *name, const double **values, mr3d_error *);
  /** Gives back all that `values` handed out. */
  void (*release)(void *user);
} mr3d_parameters;

/**
 * The tensors of the configuration's encoder and projector in the network's order: names and shapes, no data. `inner` is the width between the two
 * matrices of an mlp projector. Requires: a point_backbone whose sizes fit each other. Ownership: the caller's.
 */
mr3d_bundle *mr3d_encoder_tensors(const mr3d_config *, int64_t inner, int64_t hidden);

typedef struct mr3d_encode_points_in {
  int64_t M;
  const int64_t *grid;           /* [M,3], sorted: what mr3d_voxelize gives */
  const double *features;        /* [M,input_channels or in_channels] */
  int64_t inner, hidden;         /* widths of the projector */
  const mr3d_parameters *parameters; /* hold every tensor of mr3d_encoder_tensors */
  const mr3d_watch *watch;       /* NULL: none */
} mr3d_encode_points_in;

/** features [N,hidden], coords [N,3] sorted: one row a token in both. Ownership: caller's; mr3d_encode_points_free releases them. */
typedef struct mr3d_encode_points_out {
  int64_t N;
  double *features;
  int64_t *coords;
} mr3d_encode_points_out;

/**
 * Grid cells to point tokens by the configuration's point_backbone. Errors: an empty grid; cells unsorted, twice, negative or beyond num_bins - 1, with the
 * row; reduced_grid_size 1; those of the parameters.
 */
mr3d_status mr3d_encode_points(const mr3d_context *, const mr3d_config *, const mr3d_encode_points_in *, mr3d_encode_points_out *, mr3d_error *);
void mr3d_encode_points_free(mr3d_encode_points_out *);

/**
 * The operator table: composed operators call through it, so one entry can be replaced without the others knowing
 * (tools/conform/mutants). mr3d_reference_operators is the reference; it is never changed.
 */
struct mr3d_operators {
  mr3d_status (*splice)(const mr3d_context *, const mr3d_splice_in *, mr3d_splice_out *, mr3d_error *);
  mr3d_status (*mask)(const mr3d_context *, const mr3d_mask_in *, bool *, mr3d_error *);
  void (*rotary_table)(const mr3d_context *, int64_t, int64_t, double, const int64_t *, double *, double *);
  void (*rope1d)(const mr3d_context *, const mr3d_rope1d_in *, double *);
  void (*cis3d)(const mr3d_context *, const mr3d_cis3d_in *, double *, double *);
  void (*rope3d)(const mr3d_context *, const mr3d_rope3d_in *, double *);
  mr3d_status (*normalize_coords)(const mr3d_context *, const mr3d_config *, const mr3d_normalize_coords_in *, double *, mr3d_error *);
  mr3d_status (*points_check)(const mr3d_points *, int64_t, int64_t, mr3d_error *);
  mr3d_status (*mixed_rope)(const mr3d_context *, const mr3d_config *, const mr3d_mixed_rope_in *, double *, double *, mr3d_error *);
  void (*rmsnorm)(const mr3d_context *, const mr3d_rmsnorm_in *, double *);
  void (*linear)(const mr3d_context *, const mr3d_linear_in *, double *);
  void (*swiglu)(const mr3d_context *, const mr3d_swiglu_in *, double *);
  void (*attention)(const mr3d_context *, const mr3d_attention_in *, double *);
  mr3d_status (*attention_block)(const mr3d_context *, const mr3d_config *, const mr3d_layer *, const mr3d_block_in *, mr3d_block_out *, mr3d_error *);
  mr3d_status (*decoder_layer)(const mr3d_context *, const mr3d_config *, const mr3d_layer *, const mr3d_block_in *, mr3d_block_out *, mr3d_error *);
  mr3d_status (*voxelize)(const mr3d_context *, const mr3d_config *, int64_t, int64_t, const double *, mr3d_voxelize_out *, mr3d_error *);
  mr3d_status (*token_coords)(const mr3d_context *, int64_t, const int64_t *, int64_t, mr3d_token_coords_out *, mr3d_error *);
  void (*z_order)(const mr3d_context *, mr3d_point_order, int64_t, const int64_t *, uint64_t *);
  void (*coarse_cells)(const mr3d_context *, int64_t, const int64_t *, int64_t, mr3d_coarse_cells_out *);
  void (*neighbours)(const mr3d_context *, const mr3d_neighbours_in *, int64_t *);
  void (*submanifold_conv)(const mr3d_context *, const mr3d_sparse_conv_in *, double *);
  void (*strided_conv)(const mr3d_context *, const mr3d_sparse_conv_in *, double *);
  void (*group_norm_sparse)(const mr3d_context *, const mr3d_norm_in *, double *);
  void (*group_norm_rows)(const mr3d_context *, const mr3d_norm_in *, double *);
  void (*layernorm)(const mr3d_context *, const mr3d_norm_in *, double *);
  void (*gelu)(const mr3d_context *, int64_t, int64_t, const double *, double *);
  void (*relu)(const mr3d_context *, int64_t, int64_t, const double *, double *);
  void (*fourier_features)(const mr3d_context *, const mr3d_fourier_in *, double *);
  void (*patches)(const mr3d_context *, const mr3d_patches_in *, mr3d_patches_out *);
  void (*patch_attention)(const mr3d_context *, const mr3d_patch_attention_in *, double *);
  void (*grid_pooling)(const mr3d_context *, const mr3d_grid_pooling_in *, double *);
  void (*project)(const mr3d_context *, const mr3d_projector_in *, double *);
  mr3d_status (*encode_points)(const mr3d_context *, const mr3d_config *, const mr3d_encode_points_in *, mr3d_encode_points_out *, mr3d_error *);
};
extern const mr3d_operators mr3d_reference_operators;

#ifdef __cplusplus
}
#endif
#endif
