/** Requests `splice` and `mask`. */
#include "../request.h"

#include <stdlib.h>
#include <string.h>

mr3d_status mr3d_answer_splice(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"input_ids", MR3D_KIND_TOKEN, "B,T", MR3D_ALWAYS, offsetof(mr3d_splice_in, input_ids)},
      {"attention_mask", MR3D_KIND_MASK, "B,T", MR3D_ALWAYS, offsetof(mr3d_splice_in, attention_mask)},
      {"point_counts", MR3D_KIND_COUNT, "B", MR3D_ALWAYS, offsetof(mr3d_splice_in, point_counts)},
      {"labels", MR3D_KIND_INTEGER, "B,T", MR3D_OPTIONAL, offsetof(mr3d_splice_in, labels)},
  };
  mr3d_splice_in in = {.point_start_token_id = r->config.point_start_token_id, .point_end_token_id = r->config.point_end_token_id};
  mr3d_sizes_bind_config(&r->sizes, &r->config);
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  in.B = mr3d_request_size(r, "B");
  in.T = mr3d_request_size(r, "T");
  int64_t most = 0; /* counts are backed by no data: bound what they make the splice allocate */
  for (int64_t b = 0; b < in.B; b++) most = in.point_counts[b] > most ? in.point_counts[b] : most;
  if (most > MR3D_METADATA_SIZE_LIMIT || in.B * (in.T + most) > (int64_t)1 << 29)
    return mr3d_fail(r->error, MR3D_INVALID, "point_counts goes up to %lld; that sequence would not fit a frame", (long long)most);

  mr3d_splice_out out = {0};
  MR3D_TRY(r->context.op->splice(&r->context, &in, &out, r->error));
  const int64_t shape[] = {in.B, out.S};
  size_t count = (size_t)(in.B * out.S);
  int64_t *source, *attention_mask, *labels;
  bool *point_token_mask;
  mr3d_status status = mr3d_request_output(r, "source", MR3D_I64, 2, shape, &source);
  if (status == MR3D_OK) status = mr3d_request_output(r, "attention_mask", MR3D_I64, 2, shape, &attention_mask);
  if (status == MR3D_OK) status = mr3d_request_output(r, "point_token_mask", MR3D_BOOL, 2, shape, &point_token_mask);
  if (status == MR3D_OK && in.labels) status = mr3d_request_output(r, "labels", MR3D_I64, 2, shape, &labels);
  if (status == MR3D_OK) {
    memcpy(source, out.source, count * sizeof *source);
    memcpy(attention_mask, out.attention_mask, count * sizeof *attention_mask);
    memcpy(point_token_mask, out.point_token_mask, count * sizeof *point_token_mask);
    if (in.labels) memcpy(labels, out.labels, count * sizeof *labels);
  }
  mr3d_splice_free(&out);
  return status;
}

mr3d_status mr3d_answer_mask(mr3d_request *r) {
  static const mr3d_slot slots[] = {
      {"key_mask", MR3D_KIND_MASK, "B,M", MR3D_OPTIONAL, offsetof(mr3d_mask_in, key_mask)},
      {"prefill_mask", MR3D_KIND_MASK, "B,L0", MR3D_IF_SPLICED, offsetof(mr3d_mask_in, prefill_mask)},
  };
  mr3d_mask_in in = {.B = 1, .rule = r->config.decode_mask};
  MR3D_TRY(mr3d_request_integer(r, "past_len", MR3D_METADATA_SIZE_LIMIT, -1, &in.L));
  MR3D_TRY(mr3d_request_integer(r, "q_len", MR3D_METADATA_SIZE_LIMIT, -1, &in.q));
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_done(r));
  if (in.key_mask || in.prefill_mask) in.B = mr3d_request_size(r, "B");
  if (in.key_mask) in.M = mr3d_request_size(r, "M");
  if (in.prefill_mask) in.L0 = mr3d_request_size(r, "L0");
  bool *visible;
  MR3D_TRY(mr3d_request_output(r, "visible", MR3D_BOOL, 3, (int64_t[]){in.B, in.q, in.L + in.q}, &visible));
  return r->context.op->mask(&r->context, &in, visible, r->error);
}
