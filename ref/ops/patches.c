/** Runs of tokens along a curve (encoders.md, "Attention in patches"). */
#include <stdlib.h>

#include "mr3d/model.h"

typedef struct place {
  uint64_t code;
  int64_t token;
} place;

/* Codes of distinct cells are distinct. */
static int by_code(const void *left, const void *right) {
  const place *a = left, *b = right;
  return a->code < b->code ? -1 : a->code > b->code;
}

/**
 * token, keep [runs,K], K = min(n, patch_size): tokens sorted by their code along order number block mod n_orders, cut in runs of K. If K does not divide
 * n, the last run holds the last n mod K tokens at its front, and its places r >= n mod K are filled with the tokens at places r of the run before:
 * fillers, keep false. Exact.
 */
void mr3d_patches(const mr3d_context *context, const mr3d_patches_in *in, mr3d_patches_out *out) {
  const int64_t n = in->n, K = n < in->patch_size ? n : in->patch_size, runs = K > 0 ? (n + K - 1) / K : 0;
  uint64_t *codes = mr3d_allocate(n, sizeof *codes);
  place *places = mr3d_allocate(n, sizeof *places);
  context->op->z_order(context, in->orders[in->block % in->n_orders], n, in->cells, codes);
  for (int64_t t = 0; t < n; t++)
    places[t] = (place){codes[t], t};
  qsort(places, (size_t)n, sizeof *places, by_code);

  *out = (mr3d_patches_out){.runs = runs, .K = K, .token = mr3d_allocate(runs * K, sizeof(int64_t)), .keep = mr3d_allocate(runs * K, sizeof(bool))};
  for (int64_t i = 0; i < runs * K; i++) {
    out->keep[i] = i < n;
    out->token[i] = i < n ? places[i].token : out->token[i - K];
  }
  free(codes);
  free(places);
}

void mr3d_patches_free(mr3d_patches_out *out) {
  free(out->token);
  free(out->keep);
  *out = (mr3d_patches_out){0};
}
