/* The plug-in's table. */
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "f32.h"

static int supports(const char *op, const char *tier) {
  (void)op;
  return strcmp(tier, "fp32") == 0 || strcmp(tier, "bf16") == 0 || strcmp(tier, "fp16") == 0;
}

static int create(const mr3d_backend_host *host, void **out) {
#ifdef _OPENMP
  if (host->threads > 0) omp_set_num_threads(host->threads);
#else
  (void)host;
#endif
  *out = new_state();
  return 0;
}

static void destroy(void *s) { free_state(s); }

#define OPS(X)                                                                                                        \
  X(splice) X(mask) X(rope1d) X(cis3d) X(rope3d) X(normalize_coords) X(mixed_rope) X(rmsnorm) X(linear) X(swiglu)     \
  X(attention) X(attention_block) X(decoder_layer) X(prefill) X(decode) X(drop_session) X(voxelize) X(token_coords) \
  X(encode_points)

#define CALL(op)                                                                                  \
  static int call_##op(void *s, const mr3d_backend_request *request, mr3d_backend_reply *reply) { \
    return run_call(s, request, reply, op_##op);                                                  \
  }
OPS(CALL)

const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version) {
#define ENTRY(op) .op = call_##op,
  static const mr3d_backend_plugin table = {
    .abi_version = MR3D_BACKEND_ABI_VERSION, .struct_size = sizeof table, .name = "f32", .version = "1",
    .supports = supports, .create = create, .destroy = destroy, OPS(ENTRY)
    .keeps = "scores probabilities products", /* nothing is narrowed before it is an output */
    .traces = 1};
  return abi_version == MR3D_BACKEND_ABI_VERSION ? &table : NULL;
}
