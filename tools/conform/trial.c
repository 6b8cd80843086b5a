#include "trial.h"

#include <stdlib.h>
#include <string.h>

#include "mr3d/format.h"

#define THIN_FROM 64 /* tokens: below, all are computed */

/** A projection that was computed for an earlier mutant. */
typedef struct projection {
  struct projection *next;
  mr3d_linear_in in;   /* x and bias by content, weight by place: widened weights stay where they are */
  uint64_t x_hash;
  void (*linear)(const mr3d_context *, const mr3d_linear_in *, double *);
  double *y;
} projection;

struct mr3d_trial {
  int n_requests;
  mr3d_bundle **requests;
  mr3d_weights_cache *weights;
  int threads;
  bool thin;
  int64_t q, n_tokens;
  const int64_t *tokens;
  projection *projections;
  const mr3d_operators *mutant; /* whose operators the thin ones call */
};

static mr3d_trial *current; /* operators have no place for it */

/* ---- requests ---- */

/** The same request at fp64: the reference computes in binary64 at every tier, and takes F64 as it lies. */
static mr3d_bundle *widened(const mr3d_bundle *request) {
  mr3d_bundle *wide = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    mr3d_bundle_set(wide, key, strcmp(key, "tier") == 0 ? mr3d_tier_name(MR3D_FP64) : value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(request, i);
    if (mr3d_dtype_is_float(tensor->dtype) && tensor->dtype != MR3D_F64)
      mr3d_tensor_to_double(tensor, mr3d_bundle_add(wide, tensor->name, MR3D_F64, tensor->rank, tensor->shape)->data);
    else mr3d_bundle_borrow(wide, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  return wide;
}

mr3d_trial *mr3d_trial_new(int n_requests, mr3d_bundle *const requests[], int64_t n_tokens, const int64_t tokens[], mr3d_weights_cache *weights, int threads) {
  mr3d_trial *trial = mr3d_allocate(1, sizeof *trial);
  *trial = (mr3d_trial){.n_requests = n_requests, .weights = weights, .threads = threads, .n_tokens = n_tokens, .tokens = tokens};
  trial->requests = mr3d_allocate(n_requests, sizeof *trial->requests);
  for (int i = 0; i < n_requests; i++) trial->requests[i] = widened(requests[i]);
  const char *op = mr3d_bundle_get(requests[n_requests - 1], "op");
  const mr3d_tensor *hidden = mr3d_bundle_find(requests[n_requests - 1], "hidden");
  bool layer = op && (strcmp(op, "decoder_layer") == 0 || strcmp(op, "attention_block") == 0);
  if (layer && hidden && hidden->rank == 3) trial->q = hidden->shape[1];
  trial->thin = trial->q >= THIN_FROM && n_tokens > 0;
  if (trial->thin) trial->threads = 1; /* what is left is too little to share */
  return trial;
}

void mr3d_trial_free(mr3d_trial **trial_pointer) {
  mr3d_trial *trial = *trial_pointer;
  if (!trial) return;
  for (projection *p = trial->projections, *next; p; p = next) {
    next = p->next;
    free(p->y);
    free(p);
  }
  for (int i = 0; i < trial->n_requests; i++) mr3d_bundle_free(&trial->requests[i]);
  free(trial->requests);
  free(trial);
  *trial_pointer = NULL;
}

bool mr3d_trial_has(const mr3d_trial *trial, int64_t token) {
  for (int64_t k = 0; trial->thin && k < trial->n_tokens; k++)
    if (trial->tokens[k] == token) return true;
  return !trial->thin;
}

/* ---- thinned operators ---- */

/** The kept tokens of [blocks,q,width], or the way back. */
static void gather(int64_t blocks, int64_t width, const double *from, double *kept) {
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t k = 0; k < current->n_tokens; k++)
      memcpy(kept + (b * current->n_tokens + k) * width, from + (b * current->q + current->tokens[k]) * width, (size_t)width * sizeof *kept);
}

static void scatter(int64_t blocks, int64_t width, const double *kept, double *to) {
  memset(to, 0, (size_t)(blocks * current->q * width) * sizeof *to);
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t k = 0; k < current->n_tokens; k++)
      memcpy(to + (b * current->q + current->tokens[k]) * width, kept + (b * current->n_tokens + k) * width, (size_t)width * sizeof *to);
}

static uint64_t hash_of(int64_t count, const double *x) {
  uint64_t hash = 0, bits;
  for (int64_t i = 0; i < count; i++) {
    memcpy(&bits, &x[i], sizeof bits);
    hash = (hash ^ bits) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

/** Projections of query, key and value are those with a bias; every token's are needed. */
static void remembered_linear(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  uint64_t hash = hash_of(in->rows * in->in, in->x);
  size_t size = (size_t)(in->rows * in->out) * sizeof *y;
  for (projection *p = current->projections; p; p = p->next)
    if (p->linear == current->mutant->linear && p->in.weight == in->weight && p->in.bias == in->bias && p->in.rows == in->rows && p->x_hash == hash) {
      memcpy(y, p->y, size);
      return;
    }
  current->mutant->linear(context, in, y);
  projection *fresh = mr3d_allocate(1, sizeof *fresh);
  *fresh = (projection){.next = current->projections, .in = *in, .x_hash = hash, .linear = current->mutant->linear, .y = mr3d_allocate(in->rows * in->out, sizeof *y)};
  memcpy(fresh->y, y, size);
  current->projections = fresh;
}

static void thin_linear(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  if (in->bias) {
    remembered_linear(context, in, y);
    return;
  }
  int64_t blocks = in->rows / current->q, rows = blocks * current->n_tokens;
  double *x = mr3d_allocate(rows * in->in, sizeof *x), *kept = mr3d_allocate(rows * in->out, sizeof *kept);
  mr3d_linear_in few = *in;
  few.rows = rows;
  few.x = x;
  gather(blocks, in->in, in->x, x);
  current->mutant->linear(context, &few, kept);
  scatter(blocks, in->out, kept, y);
  free(x);
  free(kept);
}

static void thin_swiglu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  int64_t blocks = in->rows / current->q, rows = blocks * current->n_tokens;
  double *gate = mr3d_allocate(3 * rows * in->n, sizeof *gate), *up = gate + rows * in->n, *kept = up + rows * in->n;
  gather(blocks, in->n, in->gate, gate);
  gather(blocks, in->n, in->up, up);
  current->mutant->swiglu(context, &(mr3d_swiglu_in){.rows = rows, .n = in->n, .gate = gate, .up = up}, kept);
  scatter(blocks, in->n, kept, y);
  free(gate);
}

static void thin_attention(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  int64_t rows = in->B * in->H * current->n_tokens;
  double *query = mr3d_allocate(2 * rows * in->D, sizeof *query), *kept = query + rows * in->D;
  bool *visible = mr3d_allocate(in->B * current->n_tokens * in->K, sizeof *visible);
  gather(in->B * in->H, in->D, in->query, query);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t k = 0; k < current->n_tokens; k++)
      memcpy(visible + (b * current->n_tokens + k) * in->K, in->visible + (b * in->q + current->tokens[k]) * in->K, (size_t)in->K * sizeof *visible);
  mr3d_attention_in few = *in;
  few.q = current->n_tokens;
  few.query = query;
  few.visible = visible;
  current->mutant->attention(context, &few, kept);
  scatter(in->B * in->H, in->D, kept, y);
  free(query);
  free(visible);
}

mr3d_bundle *mr3d_trial_answer(mr3d_trial *trial, const mr3d_mutant *mutant, const mr3d_mutant *also) {
  const mr3d_operators whole = mr3d_mutant_operators(mutant, also);
  mr3d_operators operators = whole;
  if (trial->thin) {
    operators.linear = thin_linear;
    operators.swiglu = thin_swiglu;
    operators.attention = thin_attention;
  }
  current = trial;
  trial->mutant = &whole;
  const mr3d_server_options options = {.operators = &operators, .threads = trial->threads, .weights = trial->weights};
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant, also, &options);
  mr3d_bundle *answer = NULL;
  for (int i = 0; i < trial->n_requests; i++) {
    mr3d_error error = {0};
    mr3d_bundle_free(&answer);
    if (mr3d_mutant_server_answer(server, trial->requests[i], &answer, &error) != MR3D_OK) answer = NULL;
  }
  mr3d_mutant_server_free(&server);
  current = NULL;
  return answer;
}
