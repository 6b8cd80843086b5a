/** Attention within runs of tokens (encoders.md, "Attention in patches"). */
#include "cells_test.h"

enum { HEADS = 3, D = 4, C = HEADS * D };

/** One token at a time: it sees the tokens of the run in which it is kept, a filler as often as it stands there. */
static void attend(const mr3d_patches_out *patches, int64_t token, const long double *qkv, long double *context) {
  int64_t run = 0;
  for (int64_t i = 0; i < patches->runs * patches->K; i++)
    if (patches->keep[i] && patches->token[i] == token)
      run = i / patches->K;
  for (int64_t h = 0; h < HEADS; h++) {
    long double sum = 0, mixed[D] = {0};
    for (int64_t r = 0; r < patches->K; r++) {
      const long double *query = qkv + token * 3 * C + h * D, *key = qkv + patches->token[run * patches->K + r] * 3 * C + C + h * D;
      long double score = 0;
      for (int64_t d = 0; d < D; d++)
        score += query[d] * key[d];
      const long double p = expl(score / sqrtl(D));
      sum += p;
      for (int64_t d = 0; d < D; d++)
        mixed[d] += p * key[C + d];
    }
    for (int64_t d = 0; d < D; d++)
      context[h * D + d] = mixed[d] / sum;
  }
}

static long double *affine(int64_t n, int64_t in, int64_t out, const long double *x, const double *weight, const double *bias) {
  long double *y = calloc((size_t)(n * out), sizeof *y);
  for (int64_t p = 0; p < n; p++)
    for (int64_t o = 0; o < out; o++) {
      y[p * out + o] = (long double)bias[o];
      for (int64_t i = 0; i < in; i++)
        y[p * out + o] += x[p * in + i] * (long double)weight[o * in + i];
    }
  return y;
}

static void every_token_attends_to_the_tokens_of_its_run(void **state) {
  (void)state;
  int64_t n, *cells = some_cells(4, 5, &n);
  double *x = numbers(n * C, 1.5, 1), *w_qkv = numbers(3 * C * C, 0.6, 2), *b_qkv = numbers(3 * C, 0.5, 3), *w_proj = numbers(C * C, 0.6, 4), *b_proj = numbers(C, 0.5, 5);
  double *y = unwritten(n * C);
  long double *wide = calloc((size_t)(n * C), sizeof *wide), *context = calloc((size_t)(n * C), sizeof *context);
  for (int64_t i = 0; i < n * C; i++)
    wide[i] = (long double)x[i];
  const int64_t sizes[] = {n, n - 1, 5, 1, 2 * n};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    const mr3d_point_order orders[] = {MR3D_Z_TRANS};
    mr3d_patches_out patches;
    mr3d_patches(&exact, &(mr3d_patches_in){n, cells, 1, orders, 0, 0, sizes[k]}, &patches);
    mr3d_patch_attention(&exact, &(mr3d_patch_attention_in){n, C, HEADS, x, {w_qkv, b_qkv}, {w_proj, b_proj}, &patches}, y);
    long double *qkv = affine(n, C, 3 * C, wide, w_qkv, b_qkv);
    for (int64_t t = 0; t < n; t++)
      attend(&patches, t, qkv, context + t * C);
    long double *expected = affine(n, C, C, context, w_proj, b_proj);
    for (int64_t i = 0; i < n * C; i++)
      assert_near_at(i, y[i], (double)expected[i], 1e-13);
    free(qkv);
    free(expected);
    mr3d_patches_free(&patches);
  }
  free(cells);
  free(x);
  free(w_qkv);
  free(b_qkv);
  free(w_proj);
  free(b_proj);
  free(y);
  free(wide);
  free(context);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_token_attends_to_the_tokens_of_its_run)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
