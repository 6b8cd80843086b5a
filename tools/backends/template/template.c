/*
 * The smallest useful plug-in: one operator, and how to refuse. Copy it, then fill in mr3d_backend_plugin's other functions one by one.
 *
 *   cc -std=c11 -O2 -shared -fPIC -o my_backend.so template.c -lm
 *   mr3d check --backend lib:my_backend.so
 */
#include <math.h>
#include <string.h>

#include "mr3d/backend.h"

static int supports(const char *op, const char *tier) {
  return strcmp(op, "rmsnorm") == 0 && strcmp(tier, "fp32") == 0;
}

static const float *floats(const mr3d_backend_request *request, const char *name, int64_t *count) {
  const DLTensor *t = request->tensor(request, name);
  const char *dtype = request->dtype(request, name);
  if (!t || strcmp(dtype, "F32") != 0) return NULL;
  *count = 1;
  for (int i = 0; i < t->ndim; i++) *count *= t->shape[i];
  for (int64_t i = 0; i < *count; i++)
    if (!isfinite(((const float *)t->data)[i])) return NULL;
  return t->data;
}

/* y = x / sqrt(mean(x^2) + eps) * weight over the last axis. */
static int rmsnorm(void *state, const mr3d_backend_request *request, mr3d_backend_reply *reply) {
  (void)state;
  double eps;
  int64_t count, n;
  const float *x = floats(request, "x", &count), *weight = floats(request, "weight", &n);
  const DLTensor *shape = request->tensor(request, "x");
  if (!x || !weight) return reply->refuse(reply, "x and weight must be finite F32 tensors");
  if (request->n_tensors != 2) return reply->refuse(reply, "rmsnorm takes x and weight, nothing else");
  if (request->config_number(request, "rms_norm_eps", &eps) != MR3D_BACKEND_FOUND) return reply->refuse(reply, "rms_norm_eps is missing");
  if (shape->ndim < 1 || n < 1 || shape->shape[shape->ndim - 1] != n) return reply->refuse(reply, "weight must be as long as x's rows");
  float *y = reply->output(reply, "y", "F32", shape->ndim, shape->shape)->data;
  for (int64_t row = 0; row < count / n; row++) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[row * n + i] * x[row * n + i];
    const float scale = 1 / sqrtf(sum / (float)n + (float)eps);
    for (int64_t i = 0; i < n; i++) y[row * n + i] = x[row * n + i] * scale * weight[i];
  }
  return 0;
}

const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version) {
  static const mr3d_backend_plugin plugin = {.abi_version = MR3D_BACKEND_ABI_VERSION,
                                             .struct_size = sizeof plugin,
                                             .name = "template",
                                             .version = "1",
                                             .supports = supports,
                                             .rmsnorm = rmsnorm};
  return abi_version == MR3D_BACKEND_ABI_VERSION ? &plugin : NULL;
}
