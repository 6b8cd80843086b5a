/** P21: spatial dimensions taken from the wrong places of the head, or too many or too few of them. */
#include <stdio.h>

#include "mutants_internal.h"

static mr3d_status with_layout(mr3d_layout layout, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                               double *key, mr3d_error *error) {
  mr3d_config changed = *config;
  changed.layout = layout;
  mr3d_split split;
  if (mr3d_split_head(&changed, in->D, &split, NULL) != MR3D_OK) /* an interleaved unit longer than 8: nothing to confuse */
    return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_split_free(&split);
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static mr3d_status interleaved(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                               mr3d_error *error) {
  return with_layout(MR3D_INTERLEAVED, context, config, in, query, key, error);
}

static mr3d_status contiguous(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                              mr3d_error *error) {
  return with_layout(MR3D_CONTIGUOUS, context, config, in, query, key, error);
}

/** The rotation with the spatial dimensions that `is_spatial` says, where it says so of Ds dimensions. */
static mr3d_status where(bool (*is_spatial)(const mr3d_split *, int64_t dimension), mr3d_layout layout, const mr3d_context *context, const mr3d_config *config,
                         const mr3d_mixed_rope_in *in, double *query, double *key, mr3d_error *error) {
  mr3d_split split;
  if (config->layout != layout || mr3d_split_head(config, in->D, &split, NULL) != MR3D_OK) return mr3d_mixed_rope(context, config, in, query, key, error);
  if (split.Ds > 0 && split.Dt > 0)
    for (int64_t d = 0, s = 0, t = 0; d < split.D; d++) {
      if (is_spatial(&split, d) ? s < split.Ds : t >= split.Dt) split.spatial[s++] = d;
      else split.temporal[t++] = d;
    }
  mr3d_status status = mr3d_mixed_rope_split(&split, context, config, in, query, key, error);
  mr3d_split_free(&split);
  return status;
}

static int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }
static bool behind(const mr3d_split *split, int64_t d) { return d >= split->Dt; }
static bool first_in_unit(const mr3d_split *split, int64_t d) {
  int64_t g = gcd(split->Ds, split->Dt);
  return d % (split->D / g) < split->Ds / g;
}
static bool every_second(const mr3d_split *split, int64_t d) { return (void)split, d % 2 == 1; }

MR3D_MIXED_ROPE(spatial_last) { return where(behind, MR3D_CONTIGUOUS, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(units_spatial_first) { return where(first_in_unit, MR3D_INTERLEAVED, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(alternating) { return where(every_second, MR3D_INTERLEAVED, context, config, in, query, key, error); }

/** Without learned frequencies; with them, shapes do not fit and everybody sees it. */
MR3D_MIXED_ROPE(full_temporal_ignored) {
  mr3d_config changed = *config;
  if (config->strategy == MR3D_FULL_TEMPORAL) {
    changed.strategy = MR3D_HALF_SPATIAL_HALF_TEMP;
    changed.rope_mixed_3d = false;
  }
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static mr3d_bundle *half_for(mr3d_strategy strategy, const mr3d_bundle *request) {
  mr3d_config config;
  if (!mr3d_request_config(request, &config) || config.strategy != strategy) return NULL;
  return mr3d_request_configured(request, "spatial_temporal_separate_strategy", "\"half_spatial_half_temp\"");
}

static mr3d_bundle *full_spatial_ignored(const mr3d_bundle *request) { return half_for(MR3D_FULL_SPATIAL, request); }
static mr3d_bundle *ratio_ignored(const mr3d_bundle *request) { return half_for(MR3D_CUSTOM_RATIO, request); }

static mr3d_bundle *ratio_inverted(const mr3d_bundle *request) {
  mr3d_config config;
  char json[40];
  if (!mr3d_request_config(request, &config) || config.spatial_ratio < 0) return NULL;
  snprintf(json, sizeof json, "%.17g", 1 - config.spatial_ratio);
  return mr3d_request_configured(request, "spatial_ratio", json);
}

static const mr3d_mutant entries[] = {
    {"layout", "interleaved-for-contiguous", "spatial and temporal dimensions are taken as interleaved where they are contiguous", MR3D_ROTATIONS,
     {.mixed_rope = interleaved}},
    {"layout", "contiguous-for-interleaved", "spatial and temporal dimensions are taken as contiguous where they are interleaved", MR3D_ROTATIONS,
     {.mixed_rope = contiguous}},
    {"layout", "spatial-last", "in the contiguous layout the last Ds dimensions are spatial instead of the first", MR3D_ROTATIONS, {.mixed_rope = spatial_last}},
    {"layout", "units-spatial-first", "units of the interleaved layout are s..s t..t instead of t..t s..s", MR3D_ROTATIONS, {.mixed_rope = units_spatial_first}},
    {"layout", "alternating", "the interleaved layout alternates t s t s until one part is used up, whatever the ratio of the parts", MR3D_ROTATIONS,
     {.mixed_rope = alternating}},
    {"layout", "full-temporal-ignored", "half of a point's head is rotated in 3D although the strategy is full_temporal", MR3D_ROTATIONS,
     {.mixed_rope = full_temporal_ignored}},
    {"layout", "full-spatial-ignored", "half of a point's head is rotated in 3D although the strategy is full_spatial", "cis3d " MR3D_ROTATIONS, {NULL},
     full_spatial_ignored},
    {"layout", "ratio-ignored", "half of the head is spatial whatever spatial_ratio says", "cis3d " MR3D_ROTATIONS, {NULL}, ratio_ignored},
    {"layout", "ratio-inverted", "spatial_ratio is taken for the temporal part's: Ds = D (1 - ratio)", "cis3d " MR3D_ROTATIONS, {NULL}, ratio_inverted},
};
const mr3d_mutant_set mr3d_mutants_layout = MR3D_MUTANT_SET(entries);
