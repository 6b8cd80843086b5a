#include "shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "case_internal.h"

#define MOST_SHARDS 1024

struct mr3d_deal {
  const mr3d_suite *suite;
  int *shards;   /* [n_cases] */
  double *costs; /* [n_shards + 1] */
};

mr3d_status mr3d_shard_parse(const char *text, mr3d_shard *shard, mr3d_error *error) {
  int index = 0, of = 0, end = 0;
  if (sscanf(text, "%d/%d%n", &index, &of, &end) != 2 || text[end] || index < 1 || of < index || of > MOST_SHARDS)
    return mr3d_fail(error, MR3D_INVALID, "--shard %s: expected i/n with i from 1 to n, and n at most %d, as in --shard 2/4", text, MOST_SHARDS);
  *shard = (mr3d_shard){index, of};
  return MR3D_OK;
}

/* ---- what a case costs ---- */

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/** Of the cases of a level that have been measured; of all, where none has; 1 where nothing is known. */
static double median_cost(const mr3d_suite *suite, const double *costs, const char *level) {
  double *known = mr3d_allocate(suite->n_cases, sizeof *known), median = 1;
  int n = 0;
  for (int i = 0; i < suite->n_cases; i++)
    if (costs[i] > 0 && (!level || strcmp(suite->cases[i].level, level) == 0)) known[n++] = costs[i];
  qsort(known, (size_t)n, sizeof *known, by_size);
  if (n > 0) median = known[n / 2];
  else if (level) median = median_cost(suite, costs, NULL);
  free(known);
  return median;
}

static mr3d_status read_costs(const mr3d_suite *suite, double *costs, mr3d_error *error) {
  char path[4096];
  cJSON *root = NULL;
  snprintf(path, sizeof path, "%s/costs.json", suite->golden_dir);
  if (access(path, F_OK) == 0) {
    mr3d_status status = mr3d_read_json(path, &root, error);
    if (status != MR3D_OK) return status;
    const cJSON *cases = cJSON_GetObjectItemCaseSensitive(root, "cases");
    if (!cJSON_IsObject(cases)) {
      cJSON_Delete(root);
      return mr3d_fail(error, MR3D_FORMAT, "%s: expected an object \"cases\" of case names and milliseconds (tools/costs.sh writes it)", path);
    }
    for (int i = 0; i < suite->n_cases; i++) {
      const cJSON *cost = cJSON_GetObjectItemCaseSensitive(cases, suite->cases[i].id);
      if (cJSON_IsNumber(cost) && cost->valuedouble > 0) costs[i] = cost->valuedouble;
    }
    cJSON_Delete(root);
  }
  double *measured = mr3d_allocate(suite->n_cases, sizeof *measured);
  memcpy(measured, costs, (size_t)suite->n_cases * sizeof *measured);
  for (int i = 0; i < suite->n_cases; i++)
    if (!(costs[i] > 0)) costs[i] = median_cost(suite, measured, suite->cases[i].level);
  free(measured);
  return MR3D_OK;
}

/* ---- dealing ---- */

struct hand {
  double cost;
  int index; /* of the case */
};

static int dearest_first(const void *a, const void *b) {
  const struct hand *x = a, *y = b;
  return x->cost != y->cost ? (x->cost < y->cost) - (x->cost > y->cost) : x->index - y->index;
}

mr3d_status mr3d_deal_new(const mr3d_suite *suite, bool (*selected)(void *user, const mr3d_case *), void *user, int n_shards, mr3d_deal **out, mr3d_error *error) {
  double *costs = mr3d_allocate(suite->n_cases, sizeof *costs);
  mr3d_status status = read_costs(suite, costs, error);
  mr3d_deal *deal = mr3d_allocate(1, sizeof *deal);
  *deal = (mr3d_deal){suite, mr3d_allocate(suite->n_cases, sizeof *deal->shards), mr3d_allocate(n_shards + 1, sizeof *deal->costs)};
  struct hand *hands = mr3d_allocate(suite->n_cases, sizeof *hands);
  int n = 0;
  for (int i = 0; i < suite->n_cases; i++)
    if (selected(user, &suite->cases[i])) hands[n++] = (struct hand){costs[i], i};
  qsort(hands, (size_t)n, sizeof *hands, dearest_first);
  for (int k = 0; k < n; k++) {
    int least = 1;
    for (int shard = 2; shard <= n_shards; shard++)
      if (deal->costs[shard] < deal->costs[least]) least = shard;
    deal->shards[hands[k].index] = least;
    deal->costs[least] += hands[k].cost;
  }
  free(hands);
  free(costs);
  if (status == MR3D_OK && n < n_shards)
    status = mr3d_fail(error, MR3D_INVALID, "%d shards, but only %d case%s to deal out: some would be empty", n_shards, n, n == 1 ? "" : "s");
  if (status == MR3D_OK) *out = deal;
  else mr3d_deal_free(&deal);
  return status;
}

void mr3d_deal_free(mr3d_deal **deal) {
  if (!*deal) return;
  free((*deal)->shards);
  free((*deal)->costs);
  free(*deal);
  *deal = NULL;
}

int mr3d_deal_shard_of(const mr3d_deal *deal, const mr3d_case *test) { return deal->shards[test - deal->suite->cases]; }
double mr3d_deal_cost(const mr3d_deal *deal, int shard) { return deal->costs[shard]; }
