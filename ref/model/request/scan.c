/** Requests `voxelize` and `token_coords`. */
#include "../request.h"

#include <string.h>

mr3d_status mr3d_answer_voxelize(mr3d_request *r) {
  const double *points[1];
  static const mr3d_slot slots[] = {{"points", MR3D_KIND_POINTS, "N_raw,3|N_raw,6", MR3D_ALWAYS, 0}};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), points));
  MR3D_TRY(mr3d_request_done(r));
  int64_t columns = mr3d_bundle_find(r->bundle, "points")->shape[1];

  mr3d_voxelize_out out = {0};
  MR3D_TRY(r->context.op->voxelize(&r->context, &r->config, mr3d_request_size(r, "N_raw"), columns, points[0], &out, r->error));
  int64_t *grid;
  double *features, *scale = NULL, *shared = NULL;
  mr3d_status status = mr3d_request_output(r, "grid", MR3D_I64, 2, (int64_t[]){out.M, 3}, &grid);
  if (status == MR3D_OK) status = mr3d_request_output(r, "features", MR3D_F64, 2, (int64_t[]){out.M, columns}, &features);
  if (status == MR3D_OK) status = mr3d_request_extra(r, "scale", "features", &scale);
  if (status == MR3D_OK) status = mr3d_request_extra(r, "shared", "features", &shared);
  if (status == MR3D_OK) {
    memcpy(grid, out.grid, (size_t)(out.M * 3) * sizeof *grid);
    memcpy(features, out.features, (size_t)(out.M * columns) * sizeof *features);
    if (scale) mr3d_voxelize_scale(&r->units, &out, scale, shared);
  }
  mr3d_voxelize_free(&out);
  return status;
}

mr3d_status mr3d_answer_token_coords(mr3d_request *r) {
  const int64_t *grid[1];
  static const mr3d_slot slots[] = {{"grid", MR3D_KIND_INTEGER, "M,3", MR3D_ALWAYS, 0}};
  int64_t stages;
  MR3D_TRY(mr3d_request_integer(r, "stages", INT64_MAX, -1, &stages));
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), grid));
  MR3D_TRY(mr3d_request_done(r));

  mr3d_token_coords_out out = {0};
  MR3D_TRY(r->context.op->token_coords(&r->context, mr3d_request_size(r, "M"), grid[0], stages, &out, r->error));
  int64_t *coords, *count;
  mr3d_status status = mr3d_request_output(r, "coords", MR3D_I64, 2, (int64_t[]){out.N, 3}, &coords);
  if (status == MR3D_OK) status = mr3d_request_output(r, "count", MR3D_I64, 1, (int64_t[]){out.N}, &count);
  if (status == MR3D_OK) {
    memcpy(coords, out.coords, (size_t)(out.N * 3) * sizeof *coords);
    memcpy(count, out.count, (size_t)out.N * sizeof *count);
  }
  mr3d_token_coords_free(&out);
  return status;
}
