/** The table of mutants: the sets of mutants/, each operator left NULL filled in from the reference. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mutants/mutants_internal.h"

static const mr3d_mutant_set *const sets[] = {
    &mr3d_mutants_mask_length, &mr3d_mutants_decode_rope, &mr3d_mutants_gqa_heads, &mr3d_mutants_coords_count, &mr3d_mutants_mask_ownership,
    &mr3d_mutants_batch, &mr3d_mutants_pairing, &mr3d_mutants_temporal_table, &mr3d_mutants_broadcast, &mr3d_mutants_theta_mixup,
    &mr3d_mutants_cache_rotation, &mr3d_mutants_splice, &mr3d_mutants_qwen2_details, &mr3d_mutants_axial_weights, &mr3d_mutants_layout,
    &mr3d_mutants_drift_norm,
    &mr3d_mutants_mask_overflow, &mr3d_mutants_silent_downcast, &mr3d_mutants_narrow_angles, &mr3d_mutants_keep_all_logits, &mr3d_mutants_empty_cache,
    &mr3d_mutants_head_dim, &mr3d_mutants_stale_cis, &mr3d_mutants_degenerate, &mr3d_mutants_dirty_scan, &mr3d_mutants_order_sensitivity,
    &mr3d_mutants_overflow_half,
    &mr3d_mutants_token_rows, &mr3d_mutants_sparse_conv, &mr3d_mutants_group_norm, &mr3d_mutants_patches, &mr3d_mutants_grid_pooling,
    &mr3d_mutants_fourier_features, &mr3d_mutants_encoder_gelu, &mr3d_mutants_narrow_products, &mr3d_mutants_truncated_stores,
};

static mr3d_mutant *all;
static int n_all;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/** mr3d_operators holds nothing but function pointers, so single ones can be copied without naming them. */
_Static_assert(sizeof(mr3d_operators) % sizeof(void (*)(void)) == 0, "mr3d_operators holds function pointers only");
typedef union table {
  mr3d_operators operators;
  void (*each[sizeof(mr3d_operators) / sizeof(void (*)(void))])(void);
} table;
enum { N_OPERATORS = sizeof(mr3d_operators) / sizeof(void (*)(void)) };

static void fill_in(mr3d_operators *operators) {
  table mine = {*operators}, reference = {mr3d_reference_operators};
  for (int i = 0; i < N_OPERATORS; i++)
    if (!mine.each[i]) mine.each[i] = reference.each[i];
  *operators = mine.operators;
}

static void gather(void) {
  for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) n_all += sets[s]->count;
  all = mr3d_allocate(n_all, sizeof *all);
  int next = 0;
  for (size_t s = 0; s < sizeof sets / sizeof *sets; s++)
    for (int i = 0; i < sets[s]->count; i++) {
      all[next] = sets[s]->entries[i];
      fill_in(&all[next++].operators);
    }
}

int mr3d_mutant_count(void) {
  pthread_once(&once, gather);
  return n_all;
}

const mr3d_mutant *mr3d_mutant_at(int index) {
  return index >= 0 && index < mr3d_mutant_count() ? &all[index] : NULL;
}

const mr3d_mutant *mr3d_mutant_named(const char *slug_and_name) {
  for (int i = 0; i < mr3d_mutant_count(); i++) {
    size_t n = strlen(all[i].slug);
    if (strncmp(slug_and_name, all[i].slug, n) == 0 && slug_and_name[n] == '/' && strcmp(slug_and_name + n + 1, all[i].name) == 0) return &all[i];
  }
  return NULL;
}

bool mr3d_mutant_touches(const mr3d_mutant *mutant, const char *op) {
  size_t n = strlen(op);
  for (const char *at = mutant->ops; (at = strstr(at, op)); at += n)
    if ((at == mutant->ops || at[-1] == ' ') && (at[n] == 0 || at[n] == ' ')) return true;
  return false;
}

bool mr3d_mutant_is_mistake_at(const mr3d_mutant *mutant, mr3d_tier tier) {
  return mutant->tiers == 0 || mutant->tiers >> tier & 1;
}

bool mr3d_mutants_combine(const mr3d_mutant *a, const mr3d_mutant *b) {
  table first = {a->operators}, second = {b->operators}, reference = {mr3d_reference_operators};
  for (int i = 0; i < N_OPERATORS; i++)
    if (first.each[i] != reference.each[i] && second.each[i] != reference.each[i]) return false;
  return a != b && !a->hangs && !b->hangs;
}

mr3d_operators mr3d_mutant_operators(const mr3d_mutant *mutant, const mr3d_mutant *also) {
  table both = {mutant ? mutant->operators : mr3d_reference_operators}, second = {also ? also->operators : mr3d_reference_operators},
        reference = {mr3d_reference_operators};
  for (int i = 0; i < N_OPERATORS; i++)
    if (second.each[i] != reference.each[i]) both.each[i] = second.each[i];
  return both.operators;
}
