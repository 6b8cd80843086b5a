/** The reference as a server of protocol requests: one bundle in, one bundle out (docs/protocol.md). */
#ifndef MR3D_SERVER_H
#define MR3D_SERVER_H

#include "mr3d/model.h"
#include "mr3d/tensor.h"
#include "mr3d/trace.h"
#include "mr3d/watch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mr3d_server mr3d_server;
/** Weights files in use, opened once and shared by servers (the reference and its yardstick runs). Not thread-safe by itself. */
typedef struct mr3d_weights_cache mr3d_weights_cache;

mr3d_weights_cache *mr3d_weights_cache_new(void);
/** Requires: the servers that were given it are freed. Sets the pointer to NULL; NULL is fine. */
void mr3d_weights_cache_free(mr3d_weights_cache **);

typedef struct mr3d_server_options {
  const mr3d_operators *operators;   /**< NULL: the reference */
  mr3d_arithmetic arithmetic;
  bool emulate;                      /**< use `arithmetic`; false: exact binary64 */
  mr3d_kept_squares *squares;        /**< that emulated runs of one request share; borrowed, NULL: none */
  int threads;                       /**< 0: as many as the processor has */
  mr3d_weights_cache *weights;       /**< NULL: the server's own */
  uint32_t kept;                     /**< mr3d_units.kept of the scales: what the judged backend promises */
  bool with_scale;                   /**< add the judge's extra tensors, see mr3d_server_answer */
  bool finite;                       /**< another server has answered these requests before: no value is looked at for NaN or infinity again */
  bool init_missing;                 /**< learned rotary parameters that a checkpoint lacks are drawn, by init_seed; false: refused */
  uint64_t init_seed;
  const mr3d_tracer *tracer;         /**< takes points of requests without metadata `trace` as they are computed, where answers would hold too much; NULL: no one */
  const mr3d_watch *watch;           /**< told of each layer of a prefill or decode; NULL: no one. Not with `emulate`, whose roundings are numbered from the first layer */
} mr3d_server_options;

/** A server with an empty session table. */
mr3d_server *mr3d_server_new(const mr3d_server_options *options);
void mr3d_server_free(mr3d_server **);

/**
 * Answers one request: metadata `op`, `tier`, `config`, `session`, ... and the input tensors.
 *
 * Outputs are F64 (or I64, BOOL as protocol.md says). A refused request changes nothing.
 * With `with_scale` the answer also holds, for the judge: `scale:NAME` [like NAME] F64, the L0 error scale at the request's tier;
 * `turn:NAME`, for rotations, the derivative to the angle; `skip:NAME` BOOL, one per leading index [B,q] (hidden, logits) or
 * [B,1,K] (key, value), true on rows that belong to padding, where there are any.
 * Errors: MR3D_INVALID, it must be refused, and the message says why.
 * Ownership: on success *answer is the caller's.
 */
mr3d_status mr3d_server_answer(mr3d_server *, const mr3d_bundle *request, mr3d_bundle **answer, mr3d_error *error);

/** NULL-terminated list of the operators answered. */
const char *const *mr3d_server_ops(void);

#ifdef __cplusplus
}
#endif
#endif
