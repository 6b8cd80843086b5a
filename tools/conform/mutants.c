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
};

static mr3d_mutant *all;
static int n_all;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/** mr3d_operators holds nothing but function pointers, so single ones can be copied without naming them. */
static void fill_in(mr3d_operators *operators) {
  enum { N = sizeof(mr3d_operators) / sizeof(void (*)(void)) };
  void (*mine[N])(void), (*theirs[N])(void);
  memcpy(mine, operators, sizeof mine);
  memcpy(theirs, &mr3d_reference_operators, sizeof theirs);
  for (int i = 0; i < N; i++)
    if (!mine[i]) mine[i] = theirs[i];
  memcpy(operators, mine, sizeof mine);
}
_Static_assert(sizeof(mr3d_operators) % sizeof(void (*)(void)) == 0, "mr3d_operators holds function pointers only");

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
