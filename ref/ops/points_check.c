/** Point tensors: the mask, the coordinates and the counts of one call must fit (spec.md section 3.4, protocol.md "Point tensors"). */
#include "mr3d/ops.h"

#define RAW_ROWS 8 /* so many rows for one token look like a scan before it was reduced; the canonical one has 191 */

/**
 * Checks that every sample has as many coordinate rows (its count, else N) as tokens its mask [B,S] marks.
 *
 * No points at all: mask NULL and coords NULL, or a mask that marks nothing with N = 0. Errors: one of mask and coordinates without
 * the other; a count outside 0..N; "point_coords has 106328 rows, point_token_mask marks 556" and its likes, with the sample.
 */
mr3d_status mr3d_points_check(const mr3d_points *points, int64_t B, int64_t S, mr3d_error *error) {
  if (points->mask == NULL && points->coords == NULL && points->counts == NULL)
    return MR3D_OK;
  if (points->mask == NULL)
    return mr3d_fail(error, MR3D_INVALID, "%s without point_token_mask: which tokens are points? Give point_token_mask [B,S], or no point tensors",
                     points->coords != NULL ? "point_coords" : "point_counts");
  if (points->coords == NULL)
    return mr3d_fail(error, MR3D_INVALID, "point_token_mask without point_coords: where are the points? Give point_coords, one row per marked token");
  for (int64_t b = 0; b < B; b++) {
    int64_t marked = 0;
    for (int64_t i = 0; i < S; i++)
      marked += points->mask[b * S + i];
    const int64_t rows = points->counts != NULL ? points->counts[b] : points->N;
    if (rows < 0 || rows > points->N)
      return mr3d_fail(error, MR3D_INVALID, "point_counts[%lld] is %lld, but point_coords has %lld row%s per sample", (long long)b, (long long)rows,
                       (long long)points->N, points->N == 1 ? "" : "s");
    if (rows != marked)
      return mr3d_fail(error, MR3D_INVALID, "%s has %lld row%s, point_token_mask marks %lld (sample %lld): expected one row of token coordinates per point token%s",
                       points->counts != NULL ? "point_coords, by point_counts," : "point_coords", (long long)rows, rows == 1 ? "" : "s", (long long)marked,
                       (long long)b,
                       marked > 0 && rows >= RAW_ROWS * marked ? "; coordinates of the raw scan do not belong here" : "");
  }
  return MR3D_OK;
}
