#include "challenge.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

const char *mr3d_variant_suffix(mr3d_variant variant) {
  static const char *const suffixes[MR3D_N_VARIANTS] = {"", "#seed", "#batch", "#again"};
  return suffixes[variant];
}

mr3d_status mr3d_challenge_parse(const char *hex, mr3d_challenge *challenge, mr3d_error *error) {
  mr3d_challenge read = {0};
  size_t size = 0, length = strlen(hex);
  if (length % 2 || length > 2 * MR3D_MOST_NONCE || length < 2 * MR3D_LEAST_NONCE || strspn(hex, "0123456789abcdefABCDEF") != length)
    return mr3d_fail(error, MR3D_INVALID, "\"%.80s\" is no nonce: expected %d to %d hexadecimal digits, an even number (openssl rand -hex 32 draws one)", hex,
                     2 * MR3D_LEAST_NONCE, 2 * MR3D_MOST_NONCE);
  sodium_hex2bin(read.nonce, sizeof read.nonce, hex, length, NULL, &size, NULL);
  read.n_bytes = (int)size;
  *challenge = read;
  return MR3D_OK;
}

void mr3d_challenge_print(const mr3d_challenge *challenge, char *hex) {
  sodium_bin2hex(hex, 2 * MR3D_MOST_NONCE + 1, challenge->nonce, (size_t)challenge->n_bytes);
}

bool mr3d_challenge_equal(const mr3d_challenge *a, const mr3d_challenge *b) { return a->n_bytes == b->n_bytes && memcmp(a->nonce, b->nonce, (size_t)a->n_bytes) == 0; }

uint64_t mr3d_challenge_draw(const mr3d_challenge *challenge, const char *purpose, const char *id, const char *more) {
  const char *const parts[] = {"mr3d challenge 1", MR3D_VERSION, purpose, id, more};
  unsigned char digest[crypto_generichash_BYTES_MIN];
  crypto_generichash_state state;
  uint64_t number = 0;
  crypto_generichash_init(&state, challenge->nonce, (size_t)challenge->n_bytes, sizeof digest);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) crypto_generichash_update(&state, (const unsigned char *)parts[i], strlen(parts[i]) + 1);
  crypto_generichash_final(&state, digest, sizeof digest);
  for (int i = 7; i >= 0; i--) number = number << 8 | digest[i];
  return number;
}

uint64_t mr3d_challenge_seed(const mr3d_challenge *challenge, const char *id, mr3d_variant variant) {
  return mr3d_challenge_draw(challenge, "seed", id, mr3d_variant_suffix(variant == MR3D_AGAIN ? MR3D_PLAIN : variant));
}

uint64_t mr3d_challenge_neighbour_seed(const mr3d_challenge *challenge, const char *id) { return mr3d_challenge_draw(challenge, "neighbour", id, ""); }
uint64_t mr3d_challenge_order_seed(const mr3d_challenge *challenge) { return mr3d_challenge_draw(challenge, "order", "", ""); }

bool mr3d_challenge_asks(const mr3d_challenge *challenge, const mr3d_case *test, mr3d_tier tier, mr3d_variant variant) {
  if (variant == MR3D_PLAIN) return true;
  if (variant == MR3D_BESIDE && !mr3d_case_takes_neighbours(test)) return false;
  char more[32];
  snprintf(more, sizeof more, "%s%s", mr3d_tier_name(tier), mr3d_variant_suffix(variant));
  return mr3d_challenge_draw(challenge, "pick", test->id, more) % MR3D_PICKED == 0;
}

/* ---- neighbours ---- */

#define POINT_TENSORS "position_ids point_token_mask point_coords point_counts "
#define BLOCK_TENSORS " hidden past_key past_value key_mask prefill_mask " POINT_TENSORS

/**
 * Tensors of an operator that have an entry for each sample, first in their shape. Operators that are not here have no axis of samples: cis3d, voxelize, token_coords and
 * encode_points take one scan at a time, drop_session no tensors.
 */
static const struct {
  const char *op, *tensors;
} of_samples[] = {
    {"splice", " input_ids attention_mask point_counts labels "},
    {"mask", " key_mask prefill_mask "},
    {"rope1d", " x position_ids "},
    {"rope3d", " x "},
    {"normalize_coords", " coords point_counts "},
    {"mixed_rope", " query key " POINT_TENSORS},
    {"rmsnorm", " x "},
    {"linear", " x "},
    {"swiglu", " gate up "},
    {"attention", " query key value visible "},
    {"attention_block", BLOCK_TENSORS},
    {"decoder_layer", BLOCK_TENSORS},
    {"prefill", " inputs_embeds attention_mask " POINT_TENSORS},
    {"decode", " input_ids attention_mask "},
    {"drop_session", " "},
};

static const char *sample_tensors(const char *op) {
  for (size_t i = 0; i < sizeof of_samples / sizeof *of_samples; i++)
    if (strcmp(of_samples[i].op, op) == 0) return of_samples[i].tensors;
  return NULL;
}

static bool is_sample_tensor(const char *tensors, const char *name) {
  char word[80];
  snprintf(word, sizeof word, " %s ", name);
  return strstr(tensors, word) != NULL;
}

bool mr3d_case_takes_neighbours(const mr3d_case *test) {
  int n = 0;
  for (int s = 0; s < test->n_steps; s++) {
    const mr3d_step *step = &test->steps[s];
    const char *tensors = sample_tensors(step->op);
    if (step->expect_error || step->feeds || !tensors) return false;
    for (int i = 0; i < step->n_inputs; i++) n += is_sample_tensor(tensors, step->inputs[i]);
  }
  return n > 0;
}

/** The coordinates of a single sample may lack the axis of samples, and so do vectors. */
static bool lacks_samples(const mr3d_tensor *t) {
  return strcmp(t->name, "point_coords") == 0 || strcmp(t->name, "coords") == 0 ? t->rank == 2 : t->rank == 1 && strcmp(t->name, "point_counts") != 0;
}

static mr3d_status join_tensor(const mr3d_tensor *a, const mr3d_tensor *b, mr3d_bundle *joined, mr3d_error *error) {
  char shapes[2][96];
  int64_t shape[MR3D_MAX_RANK];
  int rank = 0;
  if (!b || a->dtype != b->dtype || a->rank != b->rank || memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) != 0)
    return mr3d_fail(error, MR3D_INVALID, "\"%s\" of two samples has shapes %s and %s: they cannot stand in one batch", a->name, mr3d_shape_text(a->rank, a->shape, shapes[0]),
                     b ? mr3d_shape_text(b->rank, b->shape, shapes[1]) : "(none)");
  shape[rank++] = lacks_samples(a) ? 2 : 2 * a->shape[0];
  for (int i = lacks_samples(a) ? 0 : 1; i < a->rank; i++) shape[rank++] = a->shape[i];
  const size_t bytes = (size_t)mr3d_tensor_count(a) * mr3d_dtype_size(a->dtype);
  char *data = mr3d_bundle_add(joined, a->name, a->dtype, rank, shape)->data;
  memcpy(data, a->data, bytes);
  memcpy(data + bytes, b->data, bytes);
  return MR3D_OK;
}

mr3d_status mr3d_neighbours_join(const mr3d_bundle *first, const mr3d_bundle *second, const mr3d_bundle *shared, mr3d_bundle **out, mr3d_error *error) {
  const char *tensors = sample_tensors(mr3d_bundle_get(shared, "op"));
  mr3d_bundle *joined = mr3d_bundle_new();
  mr3d_status status = MR3D_OK;
  for (int i = 0; i < mr3d_bundle_meta_count(shared); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(shared, i, &key, &value);
    mr3d_bundle_set(joined, key, value);
  }
  const mr3d_tensor *main = mr3d_bundle_find(shared, "hidden");
  if (!main) main = mr3d_bundle_find(shared, "query");
  if (!main) main = mr3d_bundle_find(shared, "inputs_embeds");
  if (!main) main = mr3d_bundle_find(shared, "x");
  for (int i = 0; i < mr3d_bundle_count(shared) && status == MR3D_OK; i++) {
    const mr3d_tensor *t = mr3d_bundle_at(shared, i);
    const bool serves_all = strcmp(t->name, "position_ids") == 0 && main && t->shape[0] != main->shape[0]; /* one row, for a batch of any size */
    if (is_sample_tensor(tensors, t->name) && !serves_all) status = join_tensor(mr3d_bundle_find(first, t->name), mr3d_bundle_find(second, t->name), joined, error);
    else mr3d_bundle_copy(joined, NULL, t);
  }
  if (status == MR3D_OK) *out = joined;
  else mr3d_bundle_free(&joined);
  return status;
}
