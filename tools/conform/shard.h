/** Shards: the cases of a run dealt out to machines, so that all take about as long (golden/costs.json, written by tools/costs.sh). */
#ifndef MR3D_CONFORM_SHARD_H
#define MR3D_CONFORM_SHARD_H

#include "run.h"

/** "2/4": the second of four. */
typedef struct mr3d_shard {
  int index, of; /**< 1 .. of; of 0: all */
} mr3d_shard;

/** Which shard each case of a selection is on. */
typedef struct mr3d_deal mr3d_deal;

/** Errors: no "i/n" with 1 <= i <= n <= 1024. */
mr3d_status mr3d_shard_parse(const char *text, mr3d_shard *, mr3d_error *);

/**
 * Deals the cases that `selected` says yes to: the dearest first, each to the shard that has least to do. The same suite, tiers and selection always give the same
 * shards. A case that costs.json does not list costs what the median of its level does. A case is never divided.
 * Errors: costs.json is malformed; fewer cases than shards.
 */
mr3d_status mr3d_deal_new(const mr3d_suite *, bool (*selected)(void *user, const mr3d_case *), void *user, int n_shards, mr3d_deal **, mr3d_error *);
void mr3d_deal_free(mr3d_deal **);
/** 1 .. n, or 0 where the case was not selected. */
int mr3d_deal_shard_of(const mr3d_deal *, const mr3d_case *);
/** What a shard costs, in the unit of costs.json. */
double mr3d_deal_cost(const mr3d_deal *, int shard);

#endif
