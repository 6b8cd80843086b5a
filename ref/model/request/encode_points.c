/** Request `encode_points`. */
#include "../session.h"

#include <string.h>

/* The backbone that metadata `encoder` and the configuration's point_backbone name; they must agree where both are given. */
static mr3d_status choose_encoder(mr3d_request *r) {
  static const char *const names[] = {[MR3D_SCENESCRIPT] = "scenescript", [MR3D_SONATA] = "sonata"};
  const char *given = mr3d_bundle_get(r->bundle, "encoder");
  const mr3d_point_backbone configured = r->config.point_backbone;
  if (!given && configured == MR3D_NO_BACKBONE)
    return mr3d_fail(r->error, MR3D_INVALID, "metadata encoder is missing, and config gives no point_backbone; expected \"scenescript\" or \"sonata\"");
  if (!given) return MR3D_OK;
  const mr3d_point_backbone named = strcmp(given, names[MR3D_SCENESCRIPT]) == 0 ? MR3D_SCENESCRIPT : strcmp(given, names[MR3D_SONATA]) == 0 ? MR3D_SONATA : MR3D_NO_BACKBONE;
  if (named == MR3D_NO_BACKBONE) return mr3d_fail(r->error, MR3D_INVALID, "metadata encoder is \"%.40s\", expected \"scenescript\" or \"sonata\"", given);
  if (configured != MR3D_NO_BACKBONE && configured != named)
    return mr3d_fail(r->error, MR3D_INVALID, "metadata encoder is \"%s\", but config says point_backbone \"%s\"", given, names[configured]);
  r->config.point_backbone = named;
  return mr3d_config_check_encoder(&r->config, r->error);
}

/* ---- parameters from weights ---- */

typedef struct source {
  mr3d_weights *weights;
  mr3d_held_tensors held;
} source;

static mr3d_status values(void *user, const char *name, const double **found, mr3d_error *error) {
  source *s = user;
  return mr3d_weights_values(s->weights, mr3d_bundle_find(mr3d_weights_tensors(s->weights), name), &s->held, found, error);
}

static void release(void *user) { mr3d_held_tensors_release(&((source *)user)->held); }

/* ---- the answer ---- */

static mr3d_status encode(mr3d_request *r, mr3d_weights *weights) {
  static const mr3d_slot slots[] = {
      {"grid", MR3D_KIND_INTEGER, "M,3", MR3D_ALWAYS, offsetof(mr3d_encode_points_in, grid)},
      {"features", MR3D_KIND_FLOAT, "M,C", MR3D_ALWAYS, offsetof(mr3d_encode_points_in, features)},
  };
  const mr3d_point_config *c = &r->config.point_config;
  const bool scenescript = r->config.point_backbone == MR3D_SCENESCRIPT;
  mr3d_projector_widths widths;
  source from = {.weights = weights};
  const mr3d_parameters parameters = {.user = &from, .values = values, .release = release};
  mr3d_encode_points_in in = {.parameters = &parameters, .watch = r->server->watch};
  mr3d_sizes_bind(&r->sizes, "C", scenescript ? c->input_channels : c->in_channels, "point_config %s", scenescript ? "input_channels" : "in_channels");
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  MR3D_TRY(mr3d_weights_check_encoder(weights, &r->config, &widths, r->error));
  in.M = mr3d_request_size(r, "M");
  in.inner = widths.inner;
  in.hidden = widths.hidden;

  mr3d_encode_points_out out = {0};
  MR3D_TRY(r->context.op->encode_points(&r->context, &r->config, &in, &out, r->error));
  double *features;
  int64_t *coords;
  mr3d_status status = mr3d_request_output(r, "features", MR3D_F64, 2, (int64_t[]){out.N, in.hidden}, &features);
  if (status == MR3D_OK) status = mr3d_request_output(r, "coords", MR3D_I64, 2, (int64_t[]){out.N, 3}, &coords);
  if (status == MR3D_OK) {
    memcpy(features, out.features, (size_t)(out.N * in.hidden) * sizeof *features);
    memcpy(coords, out.coords, (size_t)(out.N * 3) * sizeof *coords);
  }
  mr3d_encode_points_free(&out);
  return status;
}

mr3d_status mr3d_answer_encode_points(mr3d_request *r) {
  const char *path;
  MR3D_TRY(choose_encoder(r));
  MR3D_TRY(mr3d_request_text(r, "weights", &path));
  mr3d_weights *weights = NULL;
  MR3D_TRY(mr3d_weights_open(r->server->weights, &(mr3d_weights_source){.path = path, .config = &r->config, .tier = r->tier, .encoder = true}, &weights, r->error));
  const mr3d_status status = encode(r, weights);
  mr3d_weights_release(&weights);
  return status;
}
