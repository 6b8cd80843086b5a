/** Thin operators: a mutant's own, called for the tokens that are looked at, or not at all where the reference's result is at hand. */
#include "thinning.h"

#include <stdlib.h>
#include <string.h>

#define THIN_FROM 64                  /* tokens: below, all are computed */
#define REMEMBERED ((size_t)512 << 20) /* bytes of results at most */

/** A result of the reference's. */
typedef struct result {
  struct result *next;
  uint64_t key;
  int64_t count;
  double *y;
} result;

/** Tokens, ascending. */
typedef struct chosen {
  int64_t n;
  int64_t *tokens;
} chosen;

struct mr3d_thinning {
  bool is_layer, thin;          /* the request is a single layer; tokens are left out */
  int64_t q;
  chosen looked_at, up_to_last; /* up_to_last: all tokens up to the last one looked at; none where later ones are computed too, before the last layer */
  result *results;
  size_t remembered;
  /* of the answer under way: */
  mr3d_operators whole;         /* of the mutant; the thin ones call them */
  bool all, remember, in_layer; /* all: nothing may be left out of it */
  bool attended;                /* products are no more those of query, key and value */
  int64_t layers;               /* entered so far */
  const chosen *kept;           /* what the layer under way computes; NULL: all */
  bool saw_beyond;              /* a computed token read one that was not */
};

static mr3d_thinning *current; /* operators have no place for it */

mr3d_thinning *mr3d_thinning_new(const mr3d_bundle *request, int64_t n_tokens, const int64_t tokens[], bool no_further) {
  const char *op = mr3d_bundle_get(request, "op");
  mr3d_thinning *thinning = mr3d_allocate(1, sizeof *thinning);
  thinning->is_layer = op && (strcmp(op, "decoder_layer") == 0 || strcmp(op, "attention_block") == 0);
  const mr3d_tensor *hidden = mr3d_bundle_find(request, thinning->is_layer ? "hidden" : "inputs_embeds");
  thinning->q = hidden && hidden->rank == 3 ? hidden->shape[1] : 0;
  thinning->thin = thinning->q >= THIN_FROM && n_tokens > 0;
  thinning->looked_at = (chosen){n_tokens, mr3d_allocate(n_tokens, sizeof *tokens)};
  if (n_tokens > 0) memcpy(thinning->looked_at.tokens, tokens, (size_t)n_tokens * sizeof *tokens);
  const int64_t end = no_further && thinning->thin ? tokens[n_tokens - 1] + 1 : 0;
  thinning->up_to_last = (chosen){end, mr3d_allocate(end, sizeof *tokens)};
  for (int64_t i = 0; i < end; i++) thinning->up_to_last.tokens[i] = i;
  return thinning;
}

void mr3d_thinning_free(mr3d_thinning **pointer) {
  mr3d_thinning *thinning = *pointer;
  if (!thinning) return;
  for (result *r = thinning->results, *next; r; r = next) {
    next = r->next;
    free(r->y);
    free(r);
  }
  free(thinning->looked_at.tokens);
  free(thinning->up_to_last.tokens);
  free(thinning);
  *pointer = NULL;
}

bool mr3d_thinning_is_thin(const mr3d_thinning *thinning) { return thinning->thin; }

bool mr3d_thinning_has(const mr3d_thinning *thinning, int64_t token) {
  for (int64_t k = 0; thinning->thin && k < thinning->looked_at.n; k++)
    if (thinning->looked_at.tokens[k] == token) return true;
  return !thinning->thin;
}

bool mr3d_thinning_saw_beyond(const mr3d_thinning *thinning) { return thinning->saw_beyond; }

/* ---- what is remembered ---- */

static uint64_t mix(uint64_t hash, uint64_t bits) {
  hash = (hash ^ bits) * 0x9E3779B97F4A7C15u;
  return hash ^ hash >> 29;
}

static uint64_t hash_of(uint64_t hash, int64_t count, int64_t stride, const double *x) {
  uint64_t bits;
  for (int64_t i = 0; i < count; i += stride) {
    memcpy(&bits, &x[i], sizeof bits);
    hash = mix(hash, bits);
  }
  return hash;
}

static bool recall(uint64_t key, int64_t count, double *y) {
  for (const result *r = current->results; r; r = r->next)
    if (r->key == key && r->count == count) {
      memcpy(y, r->y, (size_t)count * sizeof *y);
      return true;
    }
  return false;
}

static void remember(uint64_t key, int64_t count, const double *y) {
  const size_t bytes = (size_t)count * sizeof *y;
  if (!current->remember || current->remembered + bytes > REMEMBERED) return;
  result *fresh = mr3d_allocate(1, sizeof *fresh);
  *fresh = (result){.next = current->results, .key = key, .count = count, .y = mr3d_allocate(count, sizeof *y)};
  memcpy(fresh->y, y, bytes);
  current->results = fresh;
  current->remembered += bytes;
}

/* ---- thin operators ---- */

/** The kept tokens of [blocks,q,width], or the way back: other rows stay as they were allocated or last used, which is finite. */
static void gather(const chosen *kept, int64_t blocks, int64_t width, const double *from, double *few) {
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t k = 0; k < kept->n; k++)
      memcpy(few + (b * kept->n + k) * width, from + (b * current->q + kept->tokens[k]) * width, (size_t)width * sizeof *few);
}

static void scatter(const chosen *kept, int64_t blocks, int64_t width, const double *few, double *to) {
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t k = 0; k < kept->n; k++)
      memcpy(to + (b * current->q + kept->tokens[k]) * width, few + (b * kept->n + k) * width, (size_t)width * sizeof *to);
}

/** The weights of layers stay where they are while a request is answered, so their place stands for them; a sample guards against a place used again. */
static uint64_t hash_of_weight(uint64_t hash, int64_t count, const double *weight) {
  uint64_t place = (uint64_t)(uintptr_t)weight;
  return weight ? hash_of(mix(hash, place), count, count / 64 + 1, weight) : mix(hash, 0);
}

/**
 * Which tokens a product is computed for. Every key and value is needed that a token looked at may see; those of the first layer are left whole, for they are the
 * same for most mutants.
 */
static const chosen *chosen_of_product(void) {
  if (current->attended) return current->kept;
  return current->kept && current->layers > 1 && current->up_to_last.n > 0 ? &current->up_to_last : NULL;
}

static void thin_linear(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  const chosen *kept = chosen_of_product();
  if (kept) {
    int64_t blocks = in->rows / current->q, rows = blocks * kept->n;
    double *x = mr3d_allocate(rows * in->in, sizeof *x), *few_y = mr3d_allocate(rows * in->out, sizeof *few_y);
    mr3d_linear_in few = *in;
    few.rows = rows;
    few.x = x;
    gather(kept, blocks, in->in, in->x, x);
    current->whole.linear(context, &few, few_y);
    scatter(kept, blocks, in->out, few_y, y);
    free(x);
    free(few_y);
    return;
  }
  if (!current->in_layer || context->arithmetic || current->whole.linear != mr3d_reference_operators.linear) {
    current->whole.linear(context, in, y);
    return;
  }
  uint64_t key = hash_of(mix(mix(1, (uint64_t)in->rows), (uint64_t)in->out), in->rows * in->in, 1, in->x);
  key = hash_of_weight(hash_of_weight(key, in->out * in->in, in->weight), in->out, in->bias);
  if (recall(key, in->rows * in->out, y)) return;
  current->whole.linear(context, in, y);
  remember(key, in->rows * in->out, y);
}

static void thin_swiglu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  const chosen *kept = current->kept;
  if (!kept) {
    current->whole.swiglu(context, in, y);
    return;
  }
  int64_t blocks = in->rows / current->q, rows = blocks * kept->n;
  double *gate = mr3d_allocate(3 * rows * in->n, sizeof *gate), *up = gate + rows * in->n, *few = up + rows * in->n;
  gather(kept, blocks, in->n, in->gate, gate);
  gather(kept, blocks, in->n, in->up, up);
  current->whole.swiglu(context, &(mr3d_swiglu_in){.rows = rows, .n = in->n, .gate = gate, .up = up}, few);
  scatter(kept, blocks, in->n, few, y);
  free(gate);
}

static void thin_attention(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  current->attended = true;
  if (!current->kept) {
    const int64_t count = in->B * in->H * in->q * in->D, keys = in->B * in->G * in->K * in->D, pairs = in->B * in->q * in->K;
    const bool same = current->in_layer && !context->arithmetic && current->whole.attention == mr3d_reference_operators.attention;
    uint64_t key = 2;
    if (same) {
      key = hash_of(hash_of(hash_of(mix(key, (uint64_t)in->K), count, 1, in->query), keys, 1, in->key), keys, 1, in->value);
      for (int64_t i = 0; i < pairs; i++) key = mix(key, in->visible[i]);
      if (recall(key, count, y)) return;
    }
    current->whole.attention(context, in, y);
    if (same) remember(key, count, y);
    return;
  }
  const chosen *kept = current->kept;
  int64_t rows = in->B * in->H * kept->n, past = in->K - in->q;
  double *query = mr3d_allocate(2 * rows * in->D, sizeof *query), *few_y = query + rows * in->D;
  bool *visible = mr3d_allocate(in->B * kept->n * in->K, sizeof *visible);
  gather(kept, in->B * in->H, in->D, in->query, query);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t k = 0; k < kept->n; k++)
      memcpy(visible + (b * kept->n + k) * in->K, in->visible + (b * in->q + kept->tokens[k]) * in->K, (size_t)in->K * sizeof *visible);
  for (int64_t i = 0; current->up_to_last.n > 0 && i < in->B * kept->n; i++)
    for (int64_t j = past + current->up_to_last.n; j < in->K; j++) current->saw_beyond |= visible[i * in->K + j];
  mr3d_attention_in few = *in;
  few.q = kept->n;
  few.query = query;
  few.visible = visible;
  current->whole.attention(context, &few, few_y);
  scatter(kept, in->B * in->H, in->D, few_y, y);
  free(query);
  free(visible);
}

/** Of a decoder's layers only the last computes just the tokens looked at: the others' are read by the next one's attention. */
static mr3d_status thin_decoder_layer(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                      mr3d_block_out *out, mr3d_error *error) {
  current->layers++;
  current->in_layer = true;
  current->attended = false;
  if (current->thin && !current->all && in->q == current->q) {
    const bool last = current->is_layer || current->layers == config->num_hidden_layers;
    current->kept = last ? &current->looked_at : current->up_to_last.n > 0 ? &current->up_to_last : NULL;
  }
  mr3d_status status = current->whole.decoder_layer(context, config, layer, in, out, error);
  current->in_layer = false;
  current->kept = NULL;
  return status;
}

/** A block asked for by itself; within a layer what holds there. */
static mr3d_status thin_attention_block(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                        mr3d_block_out *out, mr3d_error *error) {
  if (current->in_layer) return current->whole.attention_block(context, config, layer, in, out, error);
  current->in_layer = true;
  current->attended = false;
  if (current->thin && !current->all && in->q == current->q) current->kept = &current->looked_at;
  mr3d_status status = current->whole.attention_block(context, config, layer, in, out, error);
  current->in_layer = false;
  current->kept = NULL;
  return status;
}

mr3d_operators mr3d_thinning_operators(const mr3d_mutant *mutant, const mr3d_mutant *also) {
  mr3d_operators thin = mr3d_mutant_operators(mutant, also);
  thin.linear = thin_linear;
  thin.swiglu = thin_swiglu;
  thin.attention = thin_attention;
  thin.attention_block = thin_attention_block;
  thin.decoder_layer = thin_decoder_layer;
  return thin;
}

mr3d_bundle *mr3d_thinning_answer(mr3d_thinning *thinning, mr3d_mutant_server *server, const mr3d_mutant *mutant, const mr3d_mutant *also, const mr3d_bundle *request) {
  mr3d_bundle *answer = NULL;
  mr3d_error refusal = {0};
  current = thinning;
  thinning->whole = mr3d_mutant_operators(mutant, also);
  thinning->all = (mutant && mutant->only_whole) || (also && also->only_whole);
  thinning->remember = !mutant && !also;
  thinning->saw_beyond = thinning->up_to_last.n > 0 && !thinning->all && thinning->whole.attention != mr3d_reference_operators.attention;
  thinning->in_layer = false;
  thinning->layers = 0;
  thinning->kept = NULL;
  if (mr3d_mutant_server_answer(server, request, &answer, &refusal) != MR3D_OK) answer = NULL;
  current = NULL;
  return answer;
}
