/** The points' part of mr3d run: the features of the point tokens, from the encoder, a file, or the generator. */
#include <stdlib.h>
#include <string.h>

#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "mr3d/server.h"
#include "run_parts.h"

bool mr3d_run_encodes(const mr3d_run *r) { return r->weights && !r->features_path && r->config.point_backbone != MR3D_NO_BACKBONE; }

static void draw(mr3d_run *r, int64_t hidden, double *features) {
  mr3d_tensor drawn = {"features", MR3D_F64, 2, {r->tokens.N, hidden}, features};
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 0.02}, mr3d_stream_named(r->seed, "run/features"), &drawn);
  MR3D_SAY(r, "features drawn by seed %" PRIu64 ": not an encoder's; the configuration names no point_backbone, and --features FILE is not given\n", r->seed);
}

static mr3d_status read_file(const mr3d_run *r, int64_t hidden, double *features, mr3d_error *error) {
  const int64_t N = r->tokens.N;
  mr3d_bundle *file = NULL;
  mr3d_status status = mr3d_safetensors_open(r->features_path, 0, &file, error);
  if (status) return status;
  const mr3d_tensor *given = mr3d_bundle_find(file, "features");
  char shape[96];
  if (!given || given->rank != 2 || given->shape[0] != N || given->shape[1] != hidden || !mr3d_dtype_is_float(given->dtype))
    status = mr3d_fail(error, MR3D_INVALID, "%s: expected a floating tensor features [%" PRId64 ",%" PRId64 "] (tokens of the scan, hidden size of the weights), found %s", r->features_path,
                       N, hidden, given ? mr3d_shape_text(given->rank, given->shape, shape) : "none of that name");
  else mr3d_tensor_to_double(given, features);
  mr3d_bundle_free(&file);
  return status;
}

/* ---- the encoder ---- */

/** The encoder's tokens must be the run's, row for row: the coordinates that the decoder gets are those of these features. */
static mr3d_status check_coords(const mr3d_run *r, const mr3d_tensor *coords, mr3d_error *error) {
  if (coords->shape[0] == r->tokens.N && memcmp(coords->data, r->tokens.coords, (size_t)(3 * r->tokens.N) * sizeof(int64_t)) == 0) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "the point encoder gives %" PRId64 " tokens, and %" PRId64 " halvings of the grid (downsamplings) leave %" PRId64 ": do the stages of point_config fit downsamplings?",
                   coords->shape[0], r->config.downsamplings, r->tokens.N);
}

static mr3d_status check_widths(const mr3d_run *r, const mr3d_tensor *features, int64_t hidden, mr3d_error *error) {
  if (features->shape[1] == hidden) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "%s: the projector's features have %" PRId64 " columns, and embeddings %" PRId64, r->weights, features->shape[1], hidden);
}

static mr3d_status encode(mr3d_run *r, mr3d_server *server, mr3d_run_progress *progress, int64_t hidden, double *features, mr3d_error *error) {
  static const char *const names[] = {[MR3D_SCENESCRIPT] = "scenescript", [MR3D_SONATA] = "sonata"};
  const char *name = names[r->config.point_backbone];
  const int64_t takes = r->config.point_backbone == MR3D_SCENESCRIPT ? r->config.point_config.input_channels : r->config.point_config.in_channels;
  if (r->cells.columns == 3 && takes == 6)
    return mr3d_fail(error, MR3D_INVALID, "%s has no colours, and the encoder takes 6 features a cell: give its vertices red, green and blue, or features by --features FILE", r->scan);
  mr3d_bundle *request = mr3d_bundle_new(), *answer = NULL;
  mr3d_bundle_set(request, "op", "encode_points");
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", r->config_text);
  mr3d_bundle_set(request, "encoder", name);
  mr3d_bundle_set(request, "weights", r->weights);
  mr3d_bundle_borrow(request, "grid", MR3D_I64, 2, (int64_t[]){r->cells.M, 3}, r->cells.grid);
  mr3d_bundle_borrow(request, "features", MR3D_F64, 2, (int64_t[]){r->cells.M, r->cells.columns}, r->cells.features);
  mr3d_run_progress_begin(progress, "encoder", 0);
  mr3d_status status = mr3d_server_answer(server, request, &answer, error);
  mr3d_bundle_free(&request);
  if (status)
    return mr3d_fail(error, status, "%s. (The configuration names the point_backbone %s; features of another source: --features FILE)", error->message, name);
  const mr3d_tensor *encoded = mr3d_bundle_find(answer, "features");
  status = check_coords(r, mr3d_bundle_find(answer, "coords"), error);
  if (!status) status = check_widths(r, encoded, hidden, error);
  if (!status) {
    mr3d_tensor_to_double(encoded, features);
    MR3D_SAY(r, "encoder  %s: %" PRId64 " cells to %" PRId64 " tokens of %" PRId64 " features, in the order of their coordinates\n", name, r->cells.M, encoded->shape[0], encoded->shape[1]);
    cJSON_AddStringToObject(r->said, "encoder", name);
  }
  mr3d_bundle_free(&answer);
  return status;
}

mr3d_status mr3d_run_features(mr3d_run *r, mr3d_server *server, mr3d_run_progress *progress, int64_t hidden, double *features, mr3d_error *error) {
  if (r->features_path) MR3D_TRY(read_file(r, hidden, features, error));
  else if (mr3d_run_encodes(r)) MR3D_TRY(encode(r, server, progress, hidden, features, error));
  else draw(r, hidden, features);
  mr3d_run_trace(r, "features", 0, &(mr3d_tensor){"", MR3D_F64, 2, {r->tokens.N, hidden}, features});
  return MR3D_OK;
}
