/* A plug-in that does what it is told (metadata `do` of the request), for tests/conform/backend_lib.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/backend.h"

static int is(const mr3d_backend_request *r, const char *what) {
  const char *told = r->metadata(r, "do");
  return told && strcmp(told, what) == 0;
}

/* y = 2 x, or one of the mistakes. */
static int linear(void *state, const mr3d_backend_request *r, mr3d_backend_reply *reply) {
  int *calls = state;
  ++*calls;
  const DLTensor *x = r->tensor(r, "x");
  if (is(r, "refuse")) return reply->refuse(reply, "x is not to my taste: \xff");
  if (is(r, "unsupported")) return reply->unsupported(reply, "not today");
  if (is(r, "return-3")) return 3;
  if (is(r, "bad-dtype")) return !reply->output(reply, "y", "float32", 1, x->shape) ? 0 : 5;
  if (is(r, "twice")) return reply->output(reply, "y", "F32", 1, x->shape) && !reply->output(reply, "y", "F32", 1, x->shape) ? 0 : 5;
  if (is(r, "print")) puts("printed by the plug-in");
  if (is(r, "read-stdin")) getchar();

  const int64_t n = x->shape[0], written = n - (is(r, "unwritten") ? 2 : 0);
  DLTensor *y = reply->output(reply, "y", "F32", x->ndim, x->shape);
  float *out = y->data;
  for (int64_t i = 0; i < written; i++) out[i] = 2 * ((const float *)x->data)[i];
  if (!r->metadata(r, "trace")) return 0;
  if (reply->struct_size < sizeof *reply) return 6;
  reply->trace(reply, "3.query", "F32", x->ndim, x->shape, x->data);
  reply->trace(reply, "model.logits", "F32", x->ndim, x->shape, out);
  out[0] += reply->wants(reply, "3.query") ? 100 : 0; /* after the values were handed over */
  out[1] += reply->wants(reply, "model.logits") ? 100 : 0;
  if (is(r, "trace-twice")) reply->trace(reply, "3.query", "F32", x->ndim, x->shape, x->data);
  if (is(r, "trace-dtype")) reply->trace(reply, "3.query", "float", x->ndim, x->shape, x->data);
  return 0;
}

/* Reports what the request's getters say, as numbers. */
static int rmsnorm(void *state, const mr3d_backend_request *r, mr3d_backend_reply *reply) {
  double number = -1, values[16] = {0};
  int truth = -1;
  const char *text = "", *name = "";
  const DLTensor *x = r->tensor(r, "x"), *b = r->tensor(r, "b"), *h = r->tensor(r, "h"), *s = r->tensor(r, "s");
  values[0] = r->config_number(r, "rope_theta", &number) == MR3D_BACKEND_FOUND ? number : -1;
  values[1] = r->config_bool(r, "rope_mixed_3d", &truth) == MR3D_BACKEND_FOUND ? truth : -1;
  values[2] = r->config_text(r, "drift", &text) == MR3D_BACKEND_FOUND && strcmp(text, "average") == 0;
  values[3] = r->config_number(r, "drift", &number);
  values[4] = r->config_number(r, "head_dim", &number);
  values[5] = r->config_number(r, "spatial_ratio", &number); /* null */
  values[6] = r->n_tensors;
  values[7] = x->ndim == 2 && x->shape[0] == 2 && x->shape[1] == 3 && x->strides[0] == 3 && x->strides[1] == 1 && x->byte_offset == 0 &&
              x->dtype.code == kDLFloat && x->dtype.bits == 32;
  values[8] = b->dtype.code == kDLUInt && b->dtype.bits == 8 && strcmp(r->dtype(r, "b"), "BOOL") == 0;
  values[9] = h->dtype.code == kDLBfloat && h->dtype.bits == 16 && strcmp(r->dtype(r, "h"), "BF16") == 0;
  values[10] = s->ndim == 0 && s->shape && s->strides && ((const double *)s->data)[0] == 2.5;
  values[11] = r->tensor(r, "nothing") == NULL && r->dtype(r, "nothing") == NULL && r->metadata(r, "nothing") == NULL &&
               r->tensor_at(r, 4, &name) == NULL;
  values[12] = r->tensor_at(r, 0, &name) != NULL && *name;
  values[13] = strcmp(r->op, "rmsnorm") == 0 && strcmp(r->tier, "fp32") == 0 && r->config[0] == '{' && strcmp(r->session, "s1") == 0;
  values[14] = *(int *)state;
  const int64_t shape[1] = {16};
  DLTensor *y = reply->output(reply, "y", "F64", 1, shape);
  if ((uintptr_t)y->data % 64 != 0) return 4;
  memcpy(y->data, values, sizeof values);
  return 0;
}

static int supports(const char *op, const char *tier) {
  return strcmp(tier, "fp32") == 0 || (strcmp(op, "linear") == 0 && strcmp(tier, "bf16") == 0);
}

static int create(const mr3d_backend_host *host, void **state) {
  static int calls;
  if (host->threads == 99) {
    fputs("no device with 99 threads\n", stderr);
    return 2;
  }
  *state = &calls;
  return 0;
}

const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version) {
  static const mr3d_backend_plugin table = {.abi_version = MR3D_BACKEND_ABI_VERSION,
                                            .struct_size = sizeof table,
                                            .name = "told",
                                            .version = "1.2",
                                            .supports = supports,
                                            .create = create,
                                            .rmsnorm = rmsnorm,
                                            .linear = linear,
                                            .keeps = "probabilities",
                                            .traces = 1};
  return abi_version == MR3D_BACKEND_ABI_VERSION ? &table : NULL;
}
