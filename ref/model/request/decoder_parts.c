/** Requests `rmsnorm`, `linear`, `swiglu` and `attention`. */
#include "../request.h"

#include <string.h>

/* Product of the leading sizes that ".." stands for. */
static int64_t rows_of(const mr3d_request *r) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < r->sizes.lead_rank; d++) rows *= r->sizes.lead[d];
  return rows;
}

mr3d_status mr3d_answer_rmsnorm(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"x", MR3D_KIND_FLOAT, "..,n", MR3D_ALWAYS, offsetof(mr3d_rmsnorm_in, x)},
      {"weight", MR3D_KIND_FLOAT, "n", MR3D_ALWAYS, offsetof(mr3d_rmsnorm_in, weight)},
  };
  static const char *const needed[] = {"rms_norm_eps", NULL};
  MR3D_TRY(mr3d_request_need(r, needed));
  mr3d_rmsnorm_in in = {.eps = r->config.rms_norm_eps};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.rows = rows_of(r);
  in.n = mr3d_request_size(r, "n");
  const mr3d_tensor *x = mr3d_bundle_find(r->bundle, "x");
  double *y, *scale;
  MR3D_TRY(mr3d_request_output(r, "y", MR3D_F64, x->rank, x->shape, &y));
  MR3D_TRY(mr3d_request_extra(r, "scale", "y", &scale));
  r->context.op->rmsnorm(&r->context, &in, y);
  if (scale) mr3d_rmsnorm_scale(&r->units, &in, scale);
  return MR3D_OK;
}

mr3d_status mr3d_answer_linear(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"x", MR3D_KIND_FLOAT, "..,in", MR3D_ALWAYS, offsetof(mr3d_linear_in, x)},
      {"weight", MR3D_KIND_FLOAT, "out,in", MR3D_ALWAYS, offsetof(mr3d_linear_in, weight)},
      {"bias", MR3D_KIND_FLOAT, "out", MR3D_OPTIONAL, offsetof(mr3d_linear_in, bias)},
  };
  mr3d_linear_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.rows = rows_of(r);
  in.in = mr3d_request_size(r, "in");
  in.out = mr3d_request_size(r, "out");
  int64_t shape[MR3D_MAX_RANK];
  int lead = r->sizes.lead_rank - 1;
  memcpy(shape, r->sizes.lead, (size_t)lead * sizeof *shape);
  shape[lead] = in.out;
  double *y, *scale;
  MR3D_TRY(mr3d_request_output(r, "y", MR3D_F64, lead + 1, shape, &y));
  MR3D_TRY(mr3d_request_extra(r, "scale", "y", &scale));
  r->context.op->linear(&r->context, &in, y);
  if (scale) mr3d_linear_scale(&r->units, &in, scale);
  return MR3D_OK;
}

mr3d_status mr3d_answer_swiglu(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"gate", MR3D_KIND_FLOAT, "..", MR3D_ALWAYS, offsetof(mr3d_swiglu_in, gate)},
      {"up", MR3D_KIND_FLOAT, "..", MR3D_ALWAYS, offsetof(mr3d_swiglu_in, up)},
  };
  mr3d_swiglu_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.n = r->sizes.lead_rank > 1 ? r->sizes.lead[r->sizes.lead_rank - 2] : 1;
  in.rows = in.n > 0 ? rows_of(r) / in.n : 0;
  double *y, *scale;
  MR3D_TRY(mr3d_request_output(r, "y", MR3D_F64, r->sizes.lead_rank - 1, r->sizes.lead, &y));
  MR3D_TRY(mr3d_request_extra(r, "scale", "y", &scale));
  r->context.op->swiglu(&r->context, &in, y);
  if (scale) mr3d_swiglu_scale(&r->units, &in, scale);
  return MR3D_OK;
}

mr3d_status mr3d_answer_attention(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"query", MR3D_KIND_FLOAT, "B,H,q,D", MR3D_ALWAYS, offsetof(mr3d_attention_in, query)},
      {"key", MR3D_KIND_FLOAT, "B,G,L+q,D", MR3D_ALWAYS, offsetof(mr3d_attention_in, key)},
      {"value", MR3D_KIND_FLOAT, "B,G,L+q,D", MR3D_ALWAYS, offsetof(mr3d_attention_in, value)},
      {"visible", MR3D_KIND_FLAG, "B,q,L+q", MR3D_ALWAYS, offsetof(mr3d_attention_in, visible)},
  };
  mr3d_sizes_bind_config(&r->sizes, &r->config);
  mr3d_attention_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.B = mr3d_request_size(r, "B");
  in.H = mr3d_request_size(r, "H");
  in.G = mr3d_request_size(r, "G");
  in.q = mr3d_request_size(r, "q");
  in.K = mr3d_request_size(r, "L") + in.q;
  in.D = mr3d_request_size(r, "D");
  double *y, *scale;
  MR3D_TRY(mr3d_request_output(r, "y", MR3D_F64, 4, (int64_t[]){in.B, in.H, in.q, in.D}, &y));
  MR3D_TRY(mr3d_request_extra(r, "scale", "y", &scale));
  r->context.op->attention(&r->context, &in, y);
  if (scale) mr3d_attention_scale(&r->units, &in, scale);
  return MR3D_OK;
}
