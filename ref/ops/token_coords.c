/** From grid cells to the coordinates of encoded tokens (spec.md section 7, step 4). */
#include <stdlib.h>

#include "mr3d/ops.h"

typedef struct member {
  int64_t token[3], cell[3];
} member;

static int compare(const int64_t *a, const int64_t *b) {
  for (int axis = 0; axis < 3; axis++)
    if (a[axis] != b[axis])
      return a[axis] < b[axis] ? -1 : 1;
  return 0;
}
static int by_token_then_cell(const void *left, const void *right) {
  const member *a = left, *b = right;
  const int order = compare(a->token, b->token);
  return order != 0 ? order : compare(a->cell, b->cell);
}

/**
 * coords [N,3], count [N]: grid [M,3] halved `stages` times by integer floor division; a token is a set of occupied cells, tokens are
 * sorted by (x,y,z), count is the number of distinct cells merged into each. Stages 0 merges nothing.
 *
 * Errors: negative stages; a negative index, with its row.
 */
mr3d_status mr3d_token_coords(const mr3d_context *context, int64_t M, const int64_t *grid, int64_t stages, mr3d_token_coords_out *out, mr3d_error *error) {
  (void)context;
  if (stages < 0)
    return mr3d_fail(error, MR3D_INVALID, "stages is %lld: expected 0 or more halvings", (long long)stages);
  for (int64_t i = 0; i < 3 * M; i++)
    if (grid[i] < 0)
      return mr3d_fail(error, MR3D_INVALID, "grid[%lld] is (%lld, %lld, %lld): grid indices are 0 or more", (long long)(i / 3), (long long)grid[i / 3 * 3],
                       (long long)grid[i / 3 * 3 + 1], (long long)grid[i / 3 * 3 + 2]);

  member *members = mr3d_allocate(M, sizeof *members);
  for (int64_t m = 0; m < M; m++)
    for (int axis = 0; axis < 3; axis++) {
      members[m].cell[axis] = grid[m * 3 + axis];
      members[m].token[axis] = stages < 63 ? grid[m * 3 + axis] >> stages : 0; /* floor(i / 2^stages), i >= 0 */
    }
  qsort(members, (size_t)M, sizeof *members, by_token_then_cell);

  *out = (mr3d_token_coords_out){.coords = mr3d_allocate(3 * M, sizeof(int64_t)), .count = mr3d_allocate(M, sizeof(int64_t))};
  for (int64_t m = 0; m < M; m++) {
    const bool new_token = m == 0 || compare(members[m].token, members[m - 1].token) != 0;
    const bool new_cell = new_token || compare(members[m].cell, members[m - 1].cell) != 0;
    if (new_token) {
      for (int axis = 0; axis < 3; axis++)
        out->coords[out->N * 3 + axis] = members[m].token[axis];
      out->N++;
    }
    out->count[out->N - 1] += new_cell;
  }
  free(members);
  return MR3D_OK;
}

void mr3d_token_coords_free(mr3d_token_coords_out *out) {
  free(out->coords);
  free(out->count);
  *out = (mr3d_token_coords_out){0};
}
