/* A plug-in whose RMSNorm depends on how many threads it is given, a little: for tests of what is found when cases are asked again. */
#include <math.h>
#include <string.h>

#include "mr3d/backend.h"

static int supports(const char *op, const char *tier) { return strcmp(op, "rmsnorm") == 0 && strcmp(tier, "fp32") == 0; }

static int create(const mr3d_backend_host *host, void **state) {
  static int threads;
  threads = host->threads;
  *state = &threads;
  return 0;
}

static int rmsnorm(void *state, const mr3d_backend_request *request, mr3d_backend_reply *reply) {
  const DLTensor *shape = request->tensor(request, "x");
  const float *x = shape->data, *weight = request->tensor(request, "weight")->data;
  const int64_t n = shape->shape[shape->ndim - 1];
  int64_t rows = 1;
  double eps = 0;
  for (int i = 0; i + 1 < shape->ndim; i++) rows *= shape->shape[i];
  request->config_number(request, "rms_norm_eps", &eps);
  float *y = reply->output(reply, "y", "F32", shape->ndim, shape->shape)->data;
  for (int64_t r = 0; r < rows; r++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[r * n + i] * (double)x[r * n + i];
    for (int64_t i = 0; i < n; i++) y[r * n + i] = (float)((double)x[r * n + i] / sqrt(sum / (double)n + eps) * (double)weight[i]);
  }
  if (*(const int *)state == 1) y[2] = nextafterf(y[2], INFINITY);
  return 0;
}

const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version) {
  static const mr3d_backend_plugin plugin = {.abi_version = MR3D_BACKEND_ABI_VERSION, .struct_size = sizeof plugin, .name = "threads", .version = "1",
                                             .supports = supports, .create = create, .rmsnorm = rmsnorm};
  return abi_version == MR3D_BACKEND_ABI_VERSION ? &plugin : NULL;
}
