/** Splice: point tokens into the text (spec.md section 2). */
#include <stdlib.h>

#include "mr3d/ops.h"

/** Where one sample's markers stand; -1: it has none, and no points. */
typedef struct span {
  int64_t start, end, length;
} span;

static mr3d_status find_markers(const mr3d_splice_in *in, int64_t b, span *found, mr3d_error *error) {
  const int64_t *ids = in->input_ids + b * in->T, N = in->point_counts[b];
  int64_t starts = 0, ends = 0, start = -1, end = -1;
  for (int64_t t = 0; t < in->T; t++) {
    if (ids[t] == in->point_start_token_id && starts++ == 0)
      start = t;
    if (ids[t] == in->point_end_token_id && ends++ == 0)
      end = t;
  }
  if (N < 0)
    return mr3d_fail(error, MR3D_INVALID, "point_counts[%lld] is %lld: a count of point tokens is 0 or more", (long long)b, (long long)N);
  if (starts == 0 && ends == 0 && N == 0) {
    *found = (span){-1, -1, in->T};
    return MR3D_OK;
  }
  if (starts != 1 || ends != 1)
    return mr3d_fail(error, MR3D_INVALID,
                     "sample %lld has %lld start markers (id %lld) and %lld end markers (id %lld) for %lld points: expected one of each%s", (long long)b,
                     (long long)starts, (long long)in->point_start_token_id, (long long)ends, (long long)in->point_end_token_id, (long long)N,
                     N == 0 ? ", or neither" : "");
  if (end == start)
    return mr3d_fail(error, MR3D_INVALID, "point_start_token_id and point_end_token_id are both %lld: one token cannot stand before itself; expected two ids",
                     (long long)in->point_start_token_id);
  if (end < start)
    return mr3d_fail(error, MR3D_INVALID, "sample %lld has its end marker at index %lld, before its start marker at %lld: expected start before end",
                     (long long)b, (long long)end, (long long)start);
  *found = (span){start, end, in->T - (end - start - 1) + N};
  return MR3D_OK;
}

/**
 * source [B,S]: where each token of the spliced sequence comes from,
 *
 *     ids[.. start] ++ N point features ++ ids[end ..],   S = T - (end - start - 1) + N,
 *
 * as the text index (>= 0) or -1-k for point row k. The markers stay, what stands between them goes. The mask is spliced alike with ones
 * for points; labels get -100 there. Samples shorter than the longest are padded on the right: the source repeats the sample's last
 * token, mask 0, point mask false, label -100.
 *
 * Errors: markers missing, repeated or in the wrong order; a mask value other than 0 or 1; a negative count. They name the sample.
 */
mr3d_status mr3d_splice(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  (void)context;
  span *spans = mr3d_allocate(in->B, sizeof *spans);
  mr3d_status status = MR3D_OK;
  int64_t S = 0;
  for (int64_t b = 0; b < in->B && status == MR3D_OK; b++) {
    status = find_markers(in, b, &spans[b], error);
    S = status == MR3D_OK && spans[b].length > S ? spans[b].length : S;
    for (int64_t t = 0; t < in->T && status == MR3D_OK; t++)
      if (in->attention_mask[b * in->T + t] != 0 && in->attention_mask[b * in->T + t] != 1)
        status = mr3d_fail(error, MR3D_INVALID, "attention_mask[%lld][%lld] is %lld: a mask holds 0 or 1", (long long)b, (long long)t,
                           (long long)in->attention_mask[b * in->T + t]);
  }
  if (status != MR3D_OK) {
    free(spans);
    return status;
  }

  *out = (mr3d_splice_out){
      .S = S,
      .source = mr3d_allocate(in->B * S, sizeof(int64_t)),
      .attention_mask = mr3d_allocate(in->B * S, sizeof(int64_t)),
      .point_token_mask = mr3d_allocate(in->B * S, sizeof(bool)),
      .labels = in->labels != NULL ? mr3d_allocate(in->B * S, sizeof(int64_t)) : NULL,
  };
  for (int64_t b = 0; b < in->B; b++) {
    const span s = spans[b];
    const int64_t N = in->point_counts[b];
    for (int64_t i = 0; i < S; i++) {
      const bool padding = i >= s.length, point = !padding && N > 0 && i > s.start && i <= s.start + N;
      const int64_t text = s.start < 0 || i <= s.start ? i : i - (s.start + N + 1) + s.end; /* of a text token */
      const int64_t at = b * S + i;
      out->source[at] = padding ? out->source[at - 1] : point ? -1 - (i - s.start - 1) : text;
      out->attention_mask[at] = padding ? 0 : point ? 1 : in->attention_mask[b * in->T + text];
      out->point_token_mask[at] = point;
      if (out->labels != NULL)
        out->labels[at] = padding || point ? -100 : in->labels[b * in->T + text];
    }
  }
  free(spans);
  return MR3D_OK;
}

void mr3d_splice_free(mr3d_splice_out *out) {
  free(out->source);
  free(out->attention_mask);
  free(out->point_token_mask);
  free(out->labels);
  *out = (mr3d_splice_out){0};
}
