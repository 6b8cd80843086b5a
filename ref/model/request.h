/**
 * Taking a request apart: which tensors an operator takes is written down in tables of slots, and one function checks them all.
 *
 * Every rule of docs/protocol.md about types, shapes, values and presence lives in request.c; the operators' own files
 * (ref/model/request/) only name their slots, call the typed operator and pack what it returns.
 */
#ifndef MR3D_REQUEST_H
#define MR3D_REQUEST_H

#include "mr3d/server.h"
#include "mr3d/trace.h"
#include "sizes.h"

/** What a tensor may hold (docs/protocol.md, "Types"). */
typedef enum mr3d_kind {
  MR3D_KIND_FLOAT,    /**< the tier's storage type, finite */
  MR3D_KIND_WEIGHT,   /**< any floating type, finite: tensors of a weights file */
  MR3D_KIND_COORDS,   /**< I64, F32 or F64, finite */
  MR3D_KIND_POINTS,   /**< I64, F32 or F64, non-finite values allowed */
  MR3D_KIND_ANGLE,    /**< F32 or F64, finite: cos and sin */
  MR3D_KIND_INTEGER,  /**< I64 */
  MR3D_KIND_COUNT,    /**< I64, >= 0 */
  MR3D_KIND_POSITION, /**< I64, >= 0 */
  MR3D_KIND_TOKEN,    /**< I64, >= 0 and below the vocabulary's size where that is known ("V") */
  MR3D_KIND_MASK,     /**< I64, 0 or 1 */
  MR3D_KIND_FLAG      /**< BOOL */
} mr3d_kind;

/** When a tensor must, may or must not be there. */
typedef enum mr3d_when {
  MR3D_ALWAYS,
  MR3D_OPTIONAL,
  MR3D_WITH_COORDS,     /**< point_token_mask: exactly when point_coords is there */
  MR3D_WITH_POINT_MASK, /**< point_coords: exactly when point_token_mask is there */
  MR3D_IF_POINTS,       /**< point_counts: may be there when both are */
  MR3D_IF_SPLICED,      /**< prefill_mask: may be there under decode_mask spliced */
  MR3D_WITH_PAST_KEY,   /**< past_value */
  MR3D_WITH_PAST_VALUE, /**< past_key */
  MR3D_IF_LEARNED,      /**< 3D frequencies: learned ones, needed where the call has points */
  MR3D_IF_WEIGHTED,     /**< axial weights: likewise, unless the options fix them at 1 */
  MR3D_IF_FREE          /**< cis3d's parameters: may be there unless the options fix all frequencies */
} mr3d_when;

/** One tensor that an operator takes; `field` is where its values' address goes in the operator's input structure. */
typedef struct mr3d_slot {
  const char *name;
  mr3d_kind kind;
  const char *shape; /**< pattern of sizes.h */
  mr3d_when when;
  size_t field;
} mr3d_slot;

#define MR3D_SLOTS(table) (table), (int)(sizeof(table) / sizeof *(table))
#define MR3D_TRY(call)                                   \
  do {                                                   \
    mr3d_status status_of_call = (call);                 \
    if (status_of_call != MR3D_OK) return status_of_call; \
  } while (0)

typedef struct mr3d_session mr3d_session;

#define MR3D_TRACE_GLOBS 512 /* bytes of metadata trace, its end included */

/** One request while it is answered. All memory taken through it is released with it. */
typedef struct mr3d_request {
  mr3d_server *server;
  const mr3d_bundle *bundle;
  mr3d_bundle *answer;
  const char *op;
  const char *config_json; /**< the request's */
  mr3d_config config;      /**< the request's, or its session's where one is open */
  mr3d_tier tier;
  mr3d_context context;
  bool with_scale, finite; /**< of the server */
  mr3d_units units;
  mr3d_session *session;   /**< the open session of the name asked for, or NULL */
  bool has_points;         /**< the call marks at least one token as a point */
  mr3d_sizes sizes;
  int n_taken;
  const mr3d_tensor *taken[64];
  int n_owned, owned_room;
  void **owned;
  char trace_globs[MR3D_TRACE_GLOBS];
  mr3d_tracer tracer;
  mr3d_error *error;
} mr3d_request;

/** Sets the context's tracer where the request's metadata has `trace`. Errors: a glob that no point can match, with the points there are. */
mr3d_status mr3d_request_trace(mr3d_request *);

/** Binds H, G, D, hidden, I and V to the configuration's values, those that it gives. */
void mr3d_sizes_bind_config(mr3d_sizes *, const mr3d_config *);
/** Binds Ds, F (= Ds/2) and the number of frequency axes A by the configuration's options. Requires: D is bound. */
mr3d_status mr3d_sizes_bind_split(mr3d_sizes *, const mr3d_config *, mr3d_error *);
/** mr3d_config_need for each of the NULL-terminated keys. */
mr3d_status mr3d_request_need(mr3d_request *, const char *const keys[]);

/** Takes the tensors of a table: presence, type, shape, values; stores the addresses of their values in `in`. */
mr3d_status mr3d_request_take(mr3d_request *, const mr3d_slot *slots, int n_slots, void *in);
/** Errors: the request holds a tensor that no table has taken. Also checks that H is a multiple of G. */
mr3d_status mr3d_request_done(mr3d_request *);
int64_t mr3d_request_size(const mr3d_request *, const char *name);
/** Refuses a call without samples or without new tokens: B and q are at least 1. */
mr3d_status mr3d_request_need_tokens(mr3d_request *);

/** The metadata string. Errors: missing. */
mr3d_status mr3d_request_text(mr3d_request *, const char *key, const char **text);
/** A decimal integer in 0 .. most. `fallback` < 0: the key must be there. */
mr3d_status mr3d_request_integer(mr3d_request *, const char *key, int64_t most, int64_t fallback, int64_t *value);
/** Upper bound for sizes that only metadata gives. */
#define MR3D_METADATA_SIZE_LIMIT ((int64_t)1 << 24)

/** Memory that lives as long as the request. */
void *mr3d_request_memory(mr3d_request *, int64_t count, size_t size);
/** Hands malloc'ed memory to the request. */
void mr3d_request_own(mr3d_request *, void *memory);

/** Adds an output and returns where its values go. Errors: larger than a frame may be, with the numbers. */
mr3d_status mr3d_request_output(mr3d_request *, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[], void *values);
/** Adds `prefix:name` of the output's shape when the judge's tensors are asked for; else *values is NULL. */
mr3d_status mr3d_request_extra(mr3d_request *, const char *prefix, const char *name, double **values);
/** Adds `skip:name` [rows] when any row is set and the judge's tensors are asked for. */
mr3d_status mr3d_request_skip(mr3d_request *, const char *name, int rank, const int64_t shape[], const bool *skip);

typedef enum mr3d_presence { MR3D_MUST, MR3D_MAY, MR3D_MUST_NOT } mr3d_presence;
/** The rule of a learned 3D parameter (MR3D_IF_LEARNED, WEIGHTED, FREE), for requests and weights files; *why says why it must be there or must not. */
mr3d_presence mr3d_rotary_presence(const mr3d_config *, bool has_points, mr3d_when, const char **why);

/** Whether a tensor's type is one of the kind's; the message lists those. */
mr3d_status mr3d_kind_check_type(mr3d_kind, mr3d_tier, const char *label, const mr3d_tensor *, mr3d_error *);
/** Errors: a value is NaN or infinite; names the element. */
mr3d_status mr3d_check_finite(const char *label, const mr3d_tensor *, const double *values, mr3d_error *);

/** Tensors of a decoder layer below `model.layers.N.`, those of its attention block first; `field` points into mr3d_layer. */
#define MR3D_N_BLOCK_SLOTS 11
#define MR3D_N_LAYER_SLOTS 16
extern const mr3d_slot mr3d_layer_slots[MR3D_N_LAYER_SLOTS];
/** position_ids [B,q] or [1,q]: 0 rows where there are none. */
int64_t mr3d_request_position_rows(const mr3d_request *);
/** Point tensors for [B,q] tokens; `field` points into mr3d_points. Binds N. */
mr3d_status mr3d_request_take_points(mr3d_request *, mr3d_points *);

/** One function an operator (ref/model/request/). */
mr3d_status mr3d_answer_splice(mr3d_request *);
mr3d_status mr3d_answer_mask(mr3d_request *);
mr3d_status mr3d_answer_rope1d(mr3d_request *);
mr3d_status mr3d_answer_cis3d(mr3d_request *);
mr3d_status mr3d_answer_rope3d(mr3d_request *);
mr3d_status mr3d_answer_normalize_coords(mr3d_request *);
mr3d_status mr3d_answer_mixed_rope(mr3d_request *);
mr3d_status mr3d_answer_rmsnorm(mr3d_request *);
mr3d_status mr3d_answer_linear(mr3d_request *);
mr3d_status mr3d_answer_swiglu(mr3d_request *);
mr3d_status mr3d_answer_attention(mr3d_request *);
mr3d_status mr3d_answer_attention_block(mr3d_request *);
mr3d_status mr3d_answer_decoder_layer(mr3d_request *);
mr3d_status mr3d_answer_prefill(mr3d_request *);
mr3d_status mr3d_answer_decode(mr3d_request *);
mr3d_status mr3d_answer_drop_session(mr3d_request *);
mr3d_status mr3d_answer_voxelize(mr3d_request *);
mr3d_status mr3d_answer_token_coords(mr3d_request *);
mr3d_status mr3d_answer_encode_points(mr3d_request *);

#endif
