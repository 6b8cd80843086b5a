/** Requests `rope1d`, `cis3d`, `rope3d`, `normalize_coords` and `mixed_rope`. */
#include "../request.h"

/* The new tokens' positions L .. L+q-1 of a call that gives none. */
static const int64_t *positions_from(mr3d_request *r, int64_t L, int64_t q) {
  int64_t *positions = mr3d_request_memory(r, q, sizeof *positions);
  for (int64_t i = 0; i < q; i++) positions[i] = L + i;
  return positions;
}

static mr3d_status check_even(mr3d_request *r, const char *what, int64_t size) {
  if (size % 2 == 0) return MR3D_OK;
  return mr3d_fail(r->error, MR3D_INVALID, "%s is %lld, expected an even number: a rotation turns pairs", what, (long long)size);
}

mr3d_status mr3d_answer_rope1d(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"x", MR3D_KIND_FLOAT, "B,heads,q,D", MR3D_ALWAYS, offsetof(mr3d_rope1d_in, x)},
      {"position_ids", MR3D_KIND_POSITION, "B,q|1,q", MR3D_ALWAYS, offsetof(mr3d_rope1d_in, position_ids)},
  };
  static const char *const needed[] = {"rope_theta", NULL};
  MR3D_TRY(mr3d_request_need(r, needed));
  mr3d_sizes_bind_config(&r->sizes, &r->config);
  mr3d_rope1d_in in = {.rope_theta = r->config.rope_theta};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.B = mr3d_request_size(r, "B");
  in.heads = mr3d_request_size(r, "heads");
  in.q = mr3d_request_size(r, "q");
  in.D = mr3d_request_size(r, "D");
  in.position_rows = mr3d_request_position_rows(r);
  MR3D_TRY(check_even(r, "head_dim D of x", in.D));
  double *y, *scale, *turn;
  MR3D_TRY(mr3d_request_output(r, "y", MR3D_F64, 4, (int64_t[]){in.B, in.heads, in.q, in.D}, &y));
  MR3D_TRY(mr3d_request_extra(r, "scale", "y", &scale));
  MR3D_TRY(mr3d_request_extra(r, "turn", "y", &turn));
  r->context.op->rope1d(&r->context, &in, y);
  if (scale) mr3d_rope1d_scale(&r->units, &in, scale, turn);
  return MR3D_OK;
}

mr3d_status mr3d_answer_cis3d(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"freqs", MR3D_KIND_FLOAT, "3,heads,F|1,heads,F", MR3D_IF_FREE, offsetof(mr3d_cis3d_in, freqs)},
      {"axial_weights", MR3D_KIND_FLOAT, "heads,F,3", MR3D_IF_FREE, offsetof(mr3d_cis3d_in, axial_weights)},
      {"coords", MR3D_KIND_COORDS, "N,3", MR3D_ALWAYS, offsetof(mr3d_cis3d_in, coords)},
  };
  mr3d_cis3d_in in = {.freq_axes = 3};
  const mr3d_tensor *freqs = mr3d_bundle_find(r->bundle, "freqs");
  if (!freqs || mr3d_bundle_get(r->bundle, "heads")) {
    int64_t heads;
    MR3D_TRY(mr3d_request_integer(r, "heads", MR3D_METADATA_SIZE_LIMIT, -1, &heads));
    mr3d_sizes_bind(&r->sizes, "heads", heads, "metadata heads");
  }
  if (!freqs) {
    static const char *const needed[] = {"head_dim", NULL};
    MR3D_TRY(mr3d_request_need(r, needed));
  }
  if (r->config.head_dim > 0) { /* F follows from it */
    mr3d_sizes_bind_config(&r->sizes, &r->config);
    MR3D_TRY(mr3d_sizes_bind_split(&r->sizes, &r->config, r->error));
  }
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.heads = mr3d_request_size(r, "heads");
  in.F = mr3d_request_size(r, "F");
  in.N = mr3d_request_size(r, "N");
  if (!freqs && in.N > 0 && r->config.rope_mixed_3d && r->config.rope_3d_kind == MR3D_MIXED && in.F > 0)
    return mr3d_fail(r->error, MR3D_INVALID, "freqs is missing: rope_mixed_3d true means learned frequencies; give them, or set rope_mixed_3d false for the base ones");
  if (in.heads * in.F > MR3D_METADATA_SIZE_LIMIT) /* without freqs only metadata and configuration give these */
    return mr3d_fail(r->error, MR3D_INVALID, "%lld heads of %lld frequency bins are too many", (long long)in.heads, (long long)in.F);
  const int64_t shape[] = {in.heads, in.N, in.F};
  double *cos_table, *sin_table, *cos_scale, *sin_scale;
  MR3D_TRY(mr3d_request_output(r, "cos", MR3D_F64, 3, shape, &cos_table));
  MR3D_TRY(mr3d_request_output(r, "sin", MR3D_F64, 3, shape, &sin_table));
  MR3D_TRY(mr3d_request_extra(r, "scale", "cos", &cos_scale));
  MR3D_TRY(mr3d_request_extra(r, "scale", "sin", &sin_scale));
  if (freqs) {
    in.freq_axes = freqs->shape[0];
  } else {
    double *base = mr3d_request_memory(r, 3 * in.heads * in.F, sizeof *base);
    MR3D_TRY(mr3d_base_frequencies(&r->config, in.heads, in.F, base, r->error));
    in.freqs = base;
  }
  r->context.op->cis3d(&r->context, &in, cos_table, sin_table);
  if (cos_scale) mr3d_cis3d_scale(&r->units, &in, cos_scale, sin_scale);
  return MR3D_OK;
}

mr3d_status mr3d_answer_rope3d(mr3d_request *r) {
  static const mr3d_slot x_slot[] = {{"x", MR3D_KIND_FLOAT, "B,heads,N,Ds", MR3D_ALWAYS, offsetof(mr3d_rope3d_in, x)}};
  static const mr3d_slot table_slots[] = {
      {"cos", MR3D_KIND_ANGLE, "heads,N,F", MR3D_ALWAYS, offsetof(mr3d_rope3d_in, cos_table)},
      {"sin", MR3D_KIND_ANGLE, "heads,N,F", MR3D_ALWAYS, offsetof(mr3d_rope3d_in, sin_table)},
  };
  mr3d_rope3d_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(x_slot), &in));
  in.Ds = mr3d_request_size(r, "Ds");
  MR3D_TRY(check_even(r, "Ds of x", in.Ds));
  mr3d_sizes_bind(&r->sizes, "F", in.Ds / 2, "half of x's Ds");
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(table_slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.B = mr3d_request_size(r, "B");
  in.heads = mr3d_request_size(r, "heads");
  in.N = mr3d_request_size(r, "N");
  double *y, *scale, *turn;
  MR3D_TRY(mr3d_request_output(r, "y", MR3D_F64, 4, (int64_t[]){in.B, in.heads, in.N, in.Ds}, &y));
  MR3D_TRY(mr3d_request_extra(r, "scale", "y", &scale));
  MR3D_TRY(mr3d_request_extra(r, "turn", "y", &turn));
  r->context.op->rope3d(&r->context, &in, y);
  if (scale) mr3d_rope3d_scale(&r->units, &in, scale, turn);
  return MR3D_OK;
}

mr3d_status mr3d_answer_normalize_coords(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"coords", MR3D_KIND_COORDS, "N,3;B=1|B,N,3", MR3D_ALWAYS, offsetof(mr3d_normalize_coords_in, coords)},
      {"point_counts", MR3D_KIND_COUNT, "B", MR3D_OPTIONAL, offsetof(mr3d_normalize_coords_in, point_counts)},
  };
  mr3d_normalize_coords_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.B = mr3d_request_size(r, "B");
  in.N = mr3d_request_size(r, "N");
  const mr3d_tensor *coords = mr3d_bundle_find(r->bundle, "coords");
  double *out, *scale, *shared;
  MR3D_TRY(mr3d_request_output(r, "coords", MR3D_F64, coords->rank, coords->shape, &out));
  MR3D_TRY(mr3d_request_extra(r, "scale", "coords", &scale));
  MR3D_TRY(mr3d_request_extra(r, "shared", "coords", &shared));
  MR3D_TRY(r->context.op->normalize_coords(&r->context, &r->config, &in, out, r->error));
  if (scale) mr3d_normalize_coords_scale(&r->units, &r->config, &in, scale, shared);
  return MR3D_OK;
}

mr3d_status mr3d_answer_mixed_rope(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"query", MR3D_KIND_FLOAT, "B,H,q,D", MR3D_ALWAYS, offsetof(mr3d_mixed_rope_in, query)},
      {"key", MR3D_KIND_FLOAT, "B,G,q,D", MR3D_ALWAYS, offsetof(mr3d_mixed_rope_in, key)},
      {"position_ids", MR3D_KIND_POSITION, "B,q|1,q", MR3D_OPTIONAL, offsetof(mr3d_mixed_rope_in, position_ids)},
  };
  static const mr3d_slot rotary_slots[] = {
      {"freqs_q", MR3D_KIND_FLOAT, "A,H,F", MR3D_IF_LEARNED, offsetof(mr3d_mixed_rope_in, q.freqs)},
      {"axial_weights_q", MR3D_KIND_FLOAT, "H,F,3", MR3D_IF_WEIGHTED, offsetof(mr3d_mixed_rope_in, q.axial_weights)},
      {"freqs_kv", MR3D_KIND_FLOAT, "A,G,F", MR3D_IF_LEARNED, offsetof(mr3d_mixed_rope_in, kv.freqs)},
      {"axial_weights_kv", MR3D_KIND_FLOAT, "G,F,3", MR3D_IF_WEIGHTED, offsetof(mr3d_mixed_rope_in, kv.axial_weights)},
  };
  static const char *const needed[] = {"rope_theta", NULL};
  MR3D_TRY(mr3d_request_need(r, needed));
  mr3d_sizes_bind_config(&r->sizes, &r->config);
  mr3d_mixed_rope_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_take_points(r, &in.points));
  MR3D_TRY(mr3d_sizes_bind_split(&r->sizes, &r->config, r->error));
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(rotary_slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.B = mr3d_request_size(r, "B");
  in.H = mr3d_request_size(r, "H");
  in.G = mr3d_request_size(r, "G");
  in.S = mr3d_request_size(r, "q");
  in.D = mr3d_request_size(r, "D");
  in.position_rows = mr3d_request_position_rows(r);
  if (!in.position_rows) {
    in.position_rows = 1;
    in.position_ids = positions_from(r, 0, in.S);
  }
  double *query, *key, *query_scale, *key_scale, *query_turn, *key_turn;
  MR3D_TRY(mr3d_request_output(r, "query", MR3D_F64, 4, (int64_t[]){in.B, in.H, in.S, in.D}, &query));
  MR3D_TRY(mr3d_request_output(r, "key", MR3D_F64, 4, (int64_t[]){in.B, in.G, in.S, in.D}, &key));
  MR3D_TRY(mr3d_request_extra(r, "scale", "query", &query_scale));
  MR3D_TRY(mr3d_request_extra(r, "scale", "key", &key_scale));
  MR3D_TRY(mr3d_request_extra(r, "turn", "query", &query_turn));
  MR3D_TRY(mr3d_request_extra(r, "turn", "key", &key_turn));
  MR3D_TRY(r->context.op->mixed_rope(&r->context, &r->config, &in, query, key, r->error));
  if (!query_scale) return MR3D_OK;
  return mr3d_mixed_rope_scale(&r->units, &r->config, &in, query_scale, key_scale, query_turn, key_turn, r->error);
}
