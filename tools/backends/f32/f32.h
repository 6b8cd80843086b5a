/*
 * A backend in binary32: MixedRoPE3D's operators as an engine would compute them, blocked and threaded.
 *
 *   plugin.c    the table, one function an operator        sequence.c  splice, mask
 *   call.c      a request taken apart and checked          rotary.c    both rotations, the mixed one, coordinates
 *   options.c   the configuration                          layer.c     norm, attention, block, layer
 *   product.c   matrix product                             session.c   weights file, KV cache, prefill, decode
 *   encoder_options.c  the encoders' sizes                 scan.c      raw scan to cells and tokens
 *                                                          encoder.c   cells to point tokens
 *
 * Section numbers are those of docs/spec.md. Everything computes in float; only tables of angles and coordinates, which are small, are made
 * in double and then rounded. bf16 and fp16 inputs are widened first, which a tier always allows.
 */
#ifndef F32_H
#define F32_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "mr3d/backend.h"

/* ---- options.c: the configuration (spec.md 8, protocol.md "Configuration") ---- */

enum { HALF, FULL_SPATIAL, FULL_TEMPORAL, CUSTOM_RATIO };
enum { CONTIGUOUS, INTERLEAVED };
enum { GATHERED, NATIVE };
enum { MIXED, AXIAL };
enum { GRID, NONE, UNIT_RANGE, VIRTUAL_RESOLUTION };
enum { NO_DRIFT, AVERAGE, POINTWISE };
enum { PAD_END, SPLICED };
enum { OVERFLOW_ERROR, OVERFLOW_CLIP };
enum { NO_BACKBONE = -1, SCENESCRIPT, SONATA };
enum { PROJECT_LINEAR, PROJECT_MLP };
enum { OF_GRID, OF_SCENE };

/* point_config (docs/encoders.md): the sizes of both encoders. */
enum { MOST_STAGES = 16 };
typedef struct stage_list {
  int64_t n, at[MOST_STAGES];
} stage_list;
typedef struct encoder_sizes {
  int64_t input_channels, embed_channels, in_channels;
  stage_list widths;                                        /* SceneScript */
  stage_list orders, strides, depths, channels, heads, patches; /* Sonata; order 1 is z-trans */
  double mlp_ratio;
} encoder_sizes;

/* Sizes and constants without default are 0 where they were not given; tie is -1 then. */
typedef struct options {
  int64_t hidden, intermediate, layers, H, G, D, vocab;
  double rope_theta, eps;
  int64_t tie;
  double theta_3d, ratio, virtual_resolution, cell;
  int64_t strategy, layout, temporal, kind, norm, drift, decode_mask, overflow;
  int64_t learned, per_axis, axial_weights;
  int64_t bins, downsamplings, reduced_grid, start_id, end_id, pad_id;
  int64_t backbone, projector, sonata_norm;
  encoder_sizes encoder;
} options;

/* encoder_options.c. `point_config` is the configuration's member, a cJSON, or NULL. Return a message where something is wrong. */
bool wrong_encoder_sizes(const void *point_config, encoder_sizes *, char message[400]);
bool unfit_encoder_sizes(const options *, char message[400]);

/* ---- call.c: one request ---- */

typedef struct state state; /* the plug-in's sessions and weights */

/* A tensor of the request in the form that the operators compute with; only the pointer of its element is set. */
typedef struct array {
  int rank;
  int64_t shape[8];
  const float *f;     /* FLOAT, TABLE */
  const double *d;    /* COORDS */
  const int64_t *i;   /* WHOLE, ZERO_ONE */
  const uint8_t *b;   /* TRUTH */
} array;

typedef enum element { FLOAT /* the tier's type */, TABLE /* F32 or F64 */, COORDS /* I64, F32, F64 */, WHOLE, ZERO_ONE, TRUTH } element;

/*
 * A refusal may be found anywhere below an operator; `refuse` then jumps straight back to where the call began, and everything
 * taken from `scratch` is freed. So no function needs to pass failures upwards, and nothing of `state` may change before the last check.
 */
typedef struct call {
  const mr3d_backend_request *request;
  mr3d_backend_reply *reply;
  state *state;
  options o;
  int64_t size[128];       /* of the letter, -1: not known yet */
  const char *said_by[128];
  bool *taken;
  struct block *blocks;
  struct weights *opened; /* by a call that may still be refused */
  int64_t layer;          /* of the points that are traced; -1: of none */
  jmp_buf refused;
  char message[900];
} call;

typedef void (*op_function)(call *);
int run_call(state *, const mr3d_backend_request *, mr3d_backend_reply *, op_function);

_Noreturn void refuse(call *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Zeroed memory that lives as long as the call, unless it is kept: then until it is released. */
void *scratch(call *, int64_t count, size_t size);
void *keep(call *, void *);
void release(void *); /* NULL is fine */

/*
 * Takes a tensor. `shape` has one character a dimension: a letter is a size, the same wherever the letter stands in the request, a digit is
 * itself, a leading '.' any further dimensions. Refuses another type or shape, non-finite floats, masks of other values than 0 and 1.
 */
const array *need(call *, const char *name, element, const char *shape);
const array *may(call *, const char *name, element, const char *shape); /* NULL where absent */
int rank_of(call *, const char *name);                               /* -1 where absent */
void ignore(call *, const char *name);
void only_these(call *); /* refuses tensors that were neither taken nor ignored */

/* A whole number of the metadata; refuses text that is none, a number below `least`, and absence where `absent` is below `least`. */
int64_t whole(call *, const char *key, int64_t least, int64_t absent);
const char *word(call *, const char *key);
/* Refuses a configuration without the key (Hugging Face name), whose value would be 0. */
void need_option(call *, const char *key, double value);

float *out_floats(call *, const char *name, int rank, const int64_t *shape);
int64_t *out_wholes(call *, const char *name, int rank, const int64_t *shape);
uint8_t *out_truths(call *, const char *name, int rank, const int64_t *shape);
#define SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

/*
 * Points of a trace (protocol.md, "Traces"): of the layer that the call is at, or of the model. They cost nothing where the request asks for none. Those
 * of heads apart are [B,heads,q,D].
 */
bool wants_point(call *, const char *point);
void trace_floats(call *, const char *point, int rank, const int64_t *shape, const float *values);
void trace_wholes(call *, const char *point, int rank, const int64_t *shape, const int64_t *values);
void trace_truths(call *, const char *point, int rank, const int64_t *shape, const uint8_t *values);

/* Stored floats of any of safetensors' types, widened or rounded to float. false: not such a type. */
bool to_floats(const char *dtype, const void *data, int64_t count, float *out);
/* Refuses an infinity or NaN. */
void all_finite(call *, const char *name, const float *values, int64_t count);

void parse_options(call *);
/* Where the request's configuration says something else than the session's, by key; else NULL. */
const char *differing_option(call *, const options *session);

/* ---- product.c ---- */

/* y[r][o] = sum_k x[r][k] w[o][k] + bias[o] (bias NULL: none). */
void product(int64_t rows, int64_t in, int64_t out, const float *x, const float *w, const float *bias, float *y);
float dot(int64_t n, const float *a, const float *b);

/* ---- sequence.c ---- */

void op_splice(call *);
void op_mask(call *);
/* Which keys new token i of sample b sees: [batch][q][L+q] (spec.md 4). batch is 1 or B. */
typedef struct visibility {
  int64_t batch;
  const uint8_t *at;
} visibility;
typedef struct masks {
  int64_t B; /* rows, where one is given */
  int64_t M, L0;
  const int64_t *key, *prefill; /* NULL where absent */
} masks;
visibility visible_keys(call *, const masks *, int64_t L, int64_t q);

/* ---- rotary.c ---- */

void op_rope1d(call *);
void op_cis3d(call *);
void op_rope3d(call *);
void op_normalize_coords(call *);
void op_mixed_rope(call *);

/* Ds and Dt, and which head dimensions they are (spec.md 3.3). */
typedef struct split {
  int64_t D, Ds, Dt, *spatial, *temporal;
} split;
split split_head(call *, int64_t D); /* refuses what does not split */
/* Refuses heads of other numbers or sizes than the configuration gives, where it gives them. */
void check_heads(call *, int64_t H, int64_t G, int64_t D);

/* The points of a call: for each sample the mask, and its rows' coordinates after normalisation and drift. */
typedef struct point_set {
  bool any;
  const uint8_t *mask;  /* [B,q] */
  int64_t N;
  const double *coords; /* [B,N,3] */
} point_set;
point_set take_points(call *, int64_t B, int64_t q); /* point_token_mask, point_coords, point_counts */

/* Learned parameters of one side; NULL where the options fix them. */
typedef struct learned {
  const float *freqs;   /* [axes,heads,F] */
  const float *weights; /* [heads,F,3] */
} learned;
learned take_learned(call *, const char *freqs, const char *weights, int64_t heads, int64_t D, bool any_points);
/* The rules for what must and must not be there, told apart from where it comes from. */
bool wants_freqs(const options *, int64_t Ds);
bool wants_weights(const options *, int64_t Ds);

typedef struct positions {
  int64_t rows; /* 1 or B */
  const int64_t *at; /* [rows,q] */
} positions;
positions take_positions(call *, int64_t B, int64_t q, int64_t L); /* position_ids, or L .. L+q-1 */

/* Rotates query [B,H,S,D] and key [B,G,S,D] in place. */
void rotate(call *, int64_t B, int64_t S, int64_t D, int64_t H, float *query, int64_t G, float *key, const positions *, const point_set *,
            const learned *for_query, const learned *for_key);

/* ---- layer.c ---- */

void op_rmsnorm(call *);
void op_linear(call *);
void op_swiglu(call *);
void op_attention(call *);
void op_attention_block(call *);
void op_decoder_layer(call *);

/* Hugging Face's names below model.layers.N. */
typedef struct layer {
  const float *input_norm, *post_norm;
  const float *q, *q_bias, *k, *k_bias, *v, *v_bias, *o;
  const float *gate, *up, *down;
  learned for_query, for_key;
} layer;

void need_decoder_options(call *, bool whole_layer);
void rmsnorm(int64_t rows, int64_t n, double eps, const float *x, const float *weight, float *y);
void attend(call *, int64_t B, int64_t H, int64_t G, int64_t q, int64_t K, int64_t D, const float *query, const float *key,
            const float *value, const visibility *, float *y);
/* x [B,q,hidden] in place; past [B,G,L,D]; key and value [B,G,L+q,D] receive the whole cache. */
void run_block(call *, const layer *, int64_t B, int64_t q, int64_t L, float *x, const float *past_key, const float *past_value,
               const positions *, const visibility *, const point_set *, float *key, float *value);
void run_layer(call *, const layer *, int64_t B, int64_t q, int64_t L, float *x, const float *past_key, const float *past_value,
               const positions *, const visibility *, const point_set *, float *key, float *value);

/* ---- session.c, scan.c ---- */

void op_prefill(call *);
void op_decode(call *);
void op_drop_session(call *);
bool joins_session(call *); /* whether it is a request on an open session */
void abandon(call *); /* undoes what a refused call began */
state *new_state(void);
void free_state(state *);

void op_voxelize(call *);
void op_token_coords(call *);

/* ---- encoder.c ---- */

void op_encode_points(call *);
struct weights *call_weights(call *, const char *path); /* open until the call ends, or is refused */
void close_call_weights(call *);

#endif
