/** What the point encoders share: tokens, parameters by name, and the list of them (encoders.md). */
#ifndef MR3D_ENCODER_H
#define MR3D_ENCODER_H

#include "mr3d/model.h"

#define MR3D_ENCODER_PREFIX "point_backbone."
#define MR3D_PROJECTOR_PREFIX "point_proj."
#define MR3D_ENCODER_EPS 1e-5 /* of every norm */
#define MR3D_NORM_GROUPS 8

/** Features and cells on the way: rows of both are one token's. */
typedef struct mr3d_tokens {
  int64_t n, C;
  double *x;      /**< [n,C] */
  int64_t *cells; /**< [n,3], sorted */
} mr3d_tokens;
void mr3d_tokens_free(mr3d_tokens *);

/** One encoder at work. */
typedef struct mr3d_encoder {
  mr3d_context context;
  const mr3d_config *config;
  const mr3d_encode_points_in *in;
  int64_t done, parts; /**< for the watch */
  mr3d_error *error;
} mr3d_encoder;

/** The values of the tensor of that name. */
mr3d_status mr3d_encoder_values(const mr3d_encoder *, const double **values, const char *format, ...) MR3D_PRINTF(3, 4);
/** NAME.weight and NAME.bias. */
mr3d_status mr3d_encoder_affine(const mr3d_encoder *, mr3d_affine *, const char *format, ...) MR3D_PRINTF(3, 4);
/** A part is done: its parameters are given back, the watch is told. */
void mr3d_encoder_part_done(mr3d_encoder *);

/** y [rows,columns] = x + y, stored. */
void mr3d_encoder_residual(const mr3d_encoder *, int64_t rows, int64_t columns, const double *x, double *y);
/** Hands tokens to the tracer as stageN and stageN_coords. */
void mr3d_encoder_trace_stage(const mr3d_encoder *, int64_t stage, const mr3d_tokens *);
/** Replaces x [n,C] by linear(concat(x, Fourier features of the cells)) [n,out], the matrix being `input_proj`. */
mr3d_status mr3d_encoder_input_proj(const mr3d_encoder *, mr3d_sonata_coord_norm, int64_t out, mr3d_tokens *);

/** From the grid and its features to tokens of the encoder's width. Ownership: mr3d_tokens_free. */
mr3d_status mr3d_scenescript(mr3d_encoder *, mr3d_tokens *);
mr3d_status mr3d_sonata(mr3d_encoder *, mr3d_tokens *);

/** Parts, as the watch counts them. */
int64_t mr3d_scenescript_parts(const mr3d_point_config *);
int64_t mr3d_sonata_parts(const mr3d_point_config *);
/** Adds their tensors to the list. */
void mr3d_scenescript_tensors(const mr3d_point_config *, mr3d_bundle *);
void mr3d_sonata_tensors(const mr3d_point_config *, mr3d_bundle *);
/** Adds one tensor to a list, under MR3D_ENCODER_PREFIX; sizes of 0 end the shape. */
void mr3d_encoder_declare(mr3d_bundle *, const int64_t shape[MR3D_MAX_RANK], const char *format, ...) MR3D_PRINTF(3, 4);
/** NAME.weight [out,in] and NAME.bias [out]; `in` 0: NAME.weight [out]. */
void mr3d_encoder_declare_affine(mr3d_bundle *, int64_t out, int64_t in, const char *format, ...) MR3D_PRINTF(4, 5);

#endif
