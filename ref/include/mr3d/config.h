/** Configuration: Hugging Face's decoder keys and the options of spec.md section 8 (docs/protocol.md, "Configuration"). */
#ifndef MR3D_CONFIG_H
#define MR3D_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "mr3d/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { MR3D_HALF_SPATIAL_HALF_TEMP, MR3D_FULL_SPATIAL, MR3D_FULL_TEMPORAL, MR3D_CUSTOM_RATIO } mr3d_strategy;
typedef enum { MR3D_CONTIGUOUS, MR3D_INTERLEAVED } mr3d_layout;
typedef enum { MR3D_GATHERED, MR3D_NATIVE } mr3d_temporal;
typedef enum { MR3D_MIXED, MR3D_AXIAL } mr3d_rope3d_kind;
typedef enum { MR3D_NORM_GRID, MR3D_NORM_NONE, MR3D_NORM_UNIT_RANGE, MR3D_NORM_VIRTUAL_RESOLUTION } mr3d_coord_norm;
typedef enum { MR3D_DRIFT_NONE, MR3D_DRIFT_AVERAGE, MR3D_DRIFT_POINTWISE } mr3d_drift;
typedef enum { MR3D_PAD_END, MR3D_SPLICED } mr3d_decode_mask;
typedef enum { MR3D_OVERFLOW_ERROR, MR3D_OVERFLOW_CLIP } mr3d_grid_overflow;
typedef enum { MR3D_NO_BACKBONE, MR3D_SCENESCRIPT, MR3D_SONATA } mr3d_point_backbone;
typedef enum { MR3D_PROJECTOR_LINEAR, MR3D_PROJECTOR_MLP } mr3d_projector;
typedef enum { MR3D_SONATA_NORM_GRID, MR3D_SONATA_NORM_SCENE } mr3d_sonata_coord_norm;
typedef enum { MR3D_Z, MR3D_Z_TRANS } mr3d_point_order;

#define MR3D_MAX_STAGES 16 /* of an encoder */

/** A list of sizes, one a stage; unused places are 0. */
typedef struct mr3d_stages {
  int64_t count, at[MR3D_MAX_STAGES];
} mr3d_stages;

/** `point_config` (encoders.md): the sizes of both encoders, of which point_backbone uses one's. Members are int64_t or double alone: no padding. */
typedef struct mr3d_point_config {
  /* SceneScript */
  int64_t input_channels, embed_channels;
  mr3d_stages conv_layers;
  /* Sonata */
  int64_t in_channels;
  mr3d_stages order; /* of mr3d_point_order, one a block, again from the first after the last */
  mr3d_stages stride, enc_depths, enc_channels, enc_num_head, enc_patch_size;
  double mlp_ratio;
} mr3d_point_config;

/**
 * A checked configuration. Sizes, rope_theta and rms_norm_eps have no default: 0 means "not given", and the operator
 * that needs one calls mr3d_config_need. Everything else holds its default when the key is absent.
 */
typedef struct mr3d_config {
  int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, vocab_size;
  double rope_theta, rms_norm_eps;
  int tie_word_embeddings; /**< 1, 0, or -1: not given, decided by the weights */

  double rope_theta_3d;
  mr3d_strategy strategy;
  double spatial_ratio; /**< -1: not given */
  mr3d_layout layout;
  mr3d_temporal temporal_rope;
  bool rope_mixed_3d, learned_per_axis, learned_axial_weights;
  mr3d_rope3d_kind rope_3d_kind;
  mr3d_coord_norm coord_norm;
  mr3d_drift drift;
  double virtual_resolution; /**< 0: not given */
  int64_t num_bins, downsamplings, reduced_grid_size;
  double cell_size;
  int64_t point_start_token_id, point_end_token_id, point_token_id;
  mr3d_decode_mask decode_mask;
  mr3d_grid_overflow grid_overflow;
  mr3d_point_backbone point_backbone;
  mr3d_projector projector;
  mr3d_sonata_coord_norm sonata_coord_norm;
  mr3d_point_config point_config;
} mr3d_config;

/**
 * Parses a JSON object (the text of a checkpoint's config.json, or a request's `config`).
 *
 * null counts as absent where the key has no default. Unknown keys are ignored unless they look like a misspelt known one.
 *
 * Errors (MR3D_INVALID): not an object; duplicate key; misspelt key (names the key meant); a value of another type or outside its list
 * (lists the valid ones); numbers out of range; null where there is a default; heads not divisible by KV heads; a head_dim that cannot be split as
 * asked; options that do not fit each other.
 */
mr3d_status mr3d_config_parse(const char *json, mr3d_config *config, mr3d_error *error);

/**
 * Reads a part of a configuration, as a request on an open session may hold: keys, types and ranges are checked, what belongs
 * together is not (num_bins alone may not fit the default of downsamplings), and nothing is derived.
 */
mr3d_status mr3d_config_parse_part(const char *json, mr3d_config *config, mr3d_error *error);

/** Checks a configuration whose point_backbone was set after it was parsed: whether the encoder's sizes fit each other. */
mr3d_status mr3d_config_check_encoder(const mr3d_config *config, mr3d_error *error);

/**
 * Checks that a key without default was given, by Hugging Face name ("rope_theta", "hidden_size", "head_dim" ...); head_dim is
 * derived as hidden_size / num_attention_heads when only those are given (an error, with the numbers, where that is no integer).
 */
mr3d_status mr3d_config_need(const mr3d_config *config, const char *key, mr3d_error *error);

/**
 * Whether a session's configuration gives every key that `json` holds the same value (protocol.md, "Sessions"); keys that
 * `session_json` lacks have their default there. Ignored keys and null for a key without default claim nothing, nor does
 * `tie_word_embeddings` where the session leaves it to its weights.
 * Errors: MR3D_INVALID, names the first key that differs, with both values.
 */
mr3d_status mr3d_config_agrees(const char *json, const char *session_json, mr3d_error *error);

/** Where the head's dimensions go (spec.md 3.3): Ds and Dt, and the head dimensions of each part, ascending. */
typedef struct mr3d_split {
  int64_t D, Ds, Dt;
  int64_t *spatial, *temporal; /**< [Ds], [Dt]; owned, freed by mr3d_split_free */
} mr3d_split;

/**
 * Splits a head of D dimensions. D times `spatial_ratio` counts as whole within 1e-9 of D (0.58 times 100 is not 58 in binary64).
 * Errors: Ds or Dt odd, ratio missing or outside 0..1, an interleaved unit longer than 8 - with the numbers.
 */
mr3d_status mr3d_split_head(const mr3d_config *config, int64_t D, mr3d_split *split, mr3d_error *error);
void mr3d_split_free(mr3d_split *split);

#ifdef __cplusplus
}
#endif
#endif
