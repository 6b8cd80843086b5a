/** Attention within runs of tokens (encoders.md, "Attention in patches"). */
#include <stdlib.h>
#include <string.h>

#include "mr3d/model.h"

/** One run's queries, keys or values (part 0, 1, 2): rows of qkv [n,3C] to [heads,K,C/heads]. */
static void gather(const mr3d_patch_attention_in *in, const double *qkv, int64_t run, int64_t part, double *rows) {
  const int64_t K = in->patches->K, D = in->C / in->heads;
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t r = 0; r < K; r++)
      memcpy(rows + (h * K + r) * D, qkv + (in->patches->token[run * K + r] * 3 + part) * in->C + h * D, (size_t)D * sizeof *rows);
}

/** The run's outputs [heads,K,C/heads] to their tokens' rows of y [n,C]; those of fillers are dropped. */
static void scatter(const mr3d_patch_attention_in *in, const double *rows, int64_t run, double *y) {
  const int64_t K = in->patches->K, D = in->C / in->heads;
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t r = 0; r < K; r++)
      if (in->patches->keep[run * K + r])
        memcpy(y + in->patches->token[run * K + r] * in->C + h * D, rows + (h * K + r) * D, (size_t)D * sizeof *rows);
}

/**
 * y [n,C] = proj(softmax(q k / sqrt(C/heads)) v), every token seeing all tokens of its run, fillers among them; q, k, v are the thirds of qkv(x) [n,3C],
 * each [heads,C/heads].
 *
 * The attention of a run is that of the decoder (mr3d_attention) with as many key heads as query heads and nothing hidden; emulation and error are those
 * of mr3d_linear and mr3d_attention. The points that it traces are a decoder layer's, so of a run none is.
 */
void mr3d_patch_attention(const mr3d_context *context, const mr3d_patch_attention_in *in, double *y) {
  const int64_t n = in->n, C = in->C, K = in->patches->K, D = C / in->heads;
  double *qkv = mr3d_allocate(n * 3 * C, sizeof *qkv), *attended = mr3d_allocate(n * C, sizeof *attended);
  double *query = mr3d_allocate(K * C, sizeof *query), *key = mr3d_allocate(K * C, sizeof *key), *value = mr3d_allocate(K * C, sizeof *value);
  double *rows = mr3d_allocate(K * C, sizeof *rows);
  bool *visible = mr3d_allocate(K * K, sizeof *visible);
  mr3d_context untraced = *context;
  untraced.tracer = NULL;
  memset(visible, true, (size_t)(K * K));

  context->op->linear(context, &(mr3d_linear_in){n, C, 3 * C, in->x, in->qkv.weight, in->qkv.bias}, qkv);
  for (int64_t run = 0; run < in->patches->runs; run++) {
    gather(in, qkv, run, 0, query);
    gather(in, qkv, run, 1, key);
    gather(in, qkv, run, 2, value);
    context->op->attention(&untraced, &(mr3d_attention_in){1, in->heads, in->heads, K, K, D, query, key, value, visible}, rows);
    scatter(in, rows, run, attended);
  }
  context->op->linear(context, &(mr3d_linear_in){n, C, C, attended, in->proj.weight, in->proj.bias}, y);
  free(qkv);
  free(attended);
  free(query);
  free(key);
  free(value);
  free(rows);
  free(visible);
}
