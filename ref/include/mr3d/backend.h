/**
 * The C interface of a backend plug-in (docs/writing-a-backend.md): what `lib:PATH.so` loads.
 *
 * A plug-in is a shared library that exports mr3d_backend_entry. It needs nothing of this project but this header and
 * dlpack/dlpack.h, and it never sees the suite: a host process of its own, mr3d-host, loads it and lends it one request at a time, from one
 * thread. Which tensors an operator takes and returns: docs/protocol.md, "Operators".
 *
 * Tensors are dense and row-major on the CPU, with shape and strides always filled (rank 0: both point to nothing that may be read) and
 * byte_offset 0. Types map to DLPack so:
 *
 *   F16 F32 F64   kDLFloat 16 32 64        I8 .. I64   kDLInt      U8 .. U64   kDLUInt
 *   BF16          kDLBfloat 16             BOOL        kDLUInt 8, one byte of 0 or 1 (also where a newer dlpack.h has kDLBool)
 *
 * Where that leaves doubt (BOOL or U8?), `dtype` gives the name.
 *
 * Growth: fields are only ever added at the end of a struct, and every struct begins with, or contains, its size. A plug-in compiled with
 * an older header keeps working in a newer host, which reads no further than struct_size. A plug-in that uses a field of the request,
 * reply or host that version 1 did not have checks their struct_size first.
 */
#ifndef MR3D_BACKEND_H
#define MR3D_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include <dlpack/dlpack.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MR3D_BACKEND_ABI_VERSION 1

/** What getters of numbers and texts return. */
enum { MR3D_BACKEND_ABSENT = 0, MR3D_BACKEND_FOUND = 1, MR3D_BACKEND_OTHER_TYPE = -1 };

/**
 * One request. Ownership: everything in it, and everything its getters return, is lent until the operator's function returns. Tensor data
 * lies in read-only pages, aligned to its element size: writing to it ends the process, which is reported as the plug-in's mistake.
 */
typedef struct mr3d_backend_request {
  uint32_t struct_size;
  int32_t n_tensors;
  const char *op;       /**< "rope1d" */
  const char *tier;     /**< "fp32" */
  const char *config;   /**< JSON object, as text */
  const char *session;  /**< metadata `session`, or NULL */

  /** The i-th tensor and its name, in the order sent; NULL beyond the last. `name` may be NULL. */
  const DLTensor *(*tensor_at)(const struct mr3d_backend_request *, int32_t i, const char **name);
  /** The tensor of that name, or NULL. */
  const DLTensor *(*tensor)(const struct mr3d_backend_request *, const char *name);
  /** Its type as safetensors spells it: "F32", "BOOL"; NULL where there is no such tensor. */
  const char *(*dtype)(const struct mr3d_backend_request *, const char *name);
  /** A metadata string (`past_len`, `weights` ...), or NULL. */
  const char *(*metadata)(const struct mr3d_backend_request *, const char *key);
  /**
   * A member of the configuration: FOUND and the value, ABSENT (also for null), or OTHER_TYPE. They check nothing else: misspelt and
   * invalid options are the plug-in's to refuse.
   */
  int (*config_number)(const struct mr3d_backend_request *, const char *key, double *value);
  int (*config_bool)(const struct mr3d_backend_request *, const char *key, int *value);
  int (*config_text)(const struct mr3d_backend_request *, const char *key, const char **value);

  void *host; /**< the host's; leave it alone */
} mr3d_backend_request;

/**
 * The answer in the making. An operator either asks for its outputs and fills them, or refuses, or says that it is unsupported; the last of
 * refuse and unsupported called wins over any outputs. Messages are copied.
 */
typedef struct mr3d_backend_reply {
  uint32_t struct_size;

  /**
   * Memory for one output: dtype as safetensors spells it ("F32"), shape of `rank` sizes. Every element must be written: the memory holds
   * NaN and nonsense at first, and lies between guard pages. Data is aligned to 64 bytes. Ownership: the host's; filled until the function
   * returns. NULL, and the request fails with a message, where the name is taken, the dtype unknown, a size negative or the rank above 8.
   */
  DLTensor *(*output)(struct mr3d_backend_reply *, const char *name, const char *dtype, int32_t rank, const int64_t *shape);
  /** The request must be refused (protocol: `error`); says why in the user's terms. Returns 1, for `return reply->refuse(...)`. */
  int (*refuse)(struct mr3d_backend_reply *, const char *message);
  /** The request is fine, but this plug-in lacks it. Returns 1. */
  int (*unsupported)(struct mr3d_backend_reply *, const char *message);

  void *host; /**< the host's; leave it alone */

  /**
   * Traces (docs/protocol.md, "Traces"), for plug-ins whose table sets `traces`: a point is "3.query_rotated", or "model.logits" for what belongs to no
   * layer. `wants` says whether the request asks for it; `trace` copies the values of one that it asks for into the answer, and does nothing with any other.
   * Both are new: check that struct_size reaches behind them, as in tools/backends/f32/call.c.
   */
  int (*wants)(struct mr3d_backend_reply *, const char *point);
  void (*trace)(struct mr3d_backend_reply *, const char *point, const char *dtype, int32_t rank, const int64_t *shape, const void *values);
} mr3d_backend_reply;

/**
 * One operator. `state` is what `create` made. Returns 0 when outputs are complete, else anything else: without a message through the reply
 * that is reported as this function's failure, with its number. Sessions are the plug-in's to keep, by name, in `state`; a refused request
 * changes nothing.
 */
typedef int (*mr3d_backend_op)(void *state, const mr3d_backend_request *request, mr3d_backend_reply *reply);

/** What the host tells `create`. Lent until `destroy` has returned. */
typedef struct mr3d_backend_host {
  uint32_t struct_size;
  uint32_t abi_version;
  int32_t threads; /**< to compute with; 0: as many as the plug-in likes */
} mr3d_backend_host;

/** The plug-in's table: static, constant, never freed. */
typedef struct mr3d_backend_plugin {
  uint32_t abi_version;  /**< MR3D_BACKEND_ABI_VERSION */
  uint32_t struct_size;  /**< sizeof(mr3d_backend_plugin) */
  const char *name, *version;
  /** Whether the pair is offered (1 or 0): tiers are fp64 fp32 tf32 bf16 fp16. Operators whose function is NULL are not asked about. */
  int (*supports)(const char *op, const char *tier);
  /** Optional. Called once before the first request; stores what operators get as `state`. Not 0: could not start, say why on stderr. */
  int (*create)(const mr3d_backend_host *host, void **state);
  /** Optional. Called once after the last request, not after a crash. */
  void (*destroy)(void *state);

  /* One function an operator, in the protocol's order; NULL: not offered. */
  mr3d_backend_op splice, mask, rope1d, cis3d, rope3d, normalize_coords, mixed_rope, rmsnorm, linear, swiglu, attention, attention_block,
    decoder_layer, prefill, decode, drop_session, voxelize, token_coords, encode_points;

  /**
   * Optional: what is kept in binary32 at narrow tiers where others store it in the tier's type, to be judged by that (docs/protocol.md,
   * "Promises"): names with blanks between them, of scores, probabilities, products. NULL: nothing is promised.
   */
  const char *keeps;
  /** Optional: 1 where prefill and decode call reply->trace; requests for traces are else answered as unsupported. */
  int32_t traces;
} mr3d_backend_plugin;

#if defined(__GNUC__)
#define MR3D_BACKEND_EXPORT __attribute__((visibility("default")))
#elif defined(_WIN32)
#define MR3D_BACKEND_EXPORT __declspec(dllexport)
#else
#define MR3D_BACKEND_EXPORT
#endif

/** The one symbol a plug-in exports. `abi_version` is the host's; a plug-in may answer NULL when that is too old for it. */
MR3D_BACKEND_EXPORT const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version);

#ifdef __cplusplus
}
#endif
#endif
