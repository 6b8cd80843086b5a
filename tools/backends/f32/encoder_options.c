/* point_config: the sizes of the point encoders (docs/encoders.md), checked. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "f32.h"

enum { LARGEST = 1 << 20, DEEPEST = 1024 };

#define LIST(key, field, low, high) {key, offsetof(encoder_sizes, field), low, high}
/* Lists of whole numbers between two bounds. */
static const struct {
  const char *key;
  size_t place;
  int64_t low, high;
} lists[] = {
  LIST("conv_layers", widths, 1, LARGEST), LIST("stride", strides, 1, LARGEST), LIST("enc_depths", depths, 0, DEEPEST), LIST("enc_channels", channels, 1, LARGEST),
  LIST("enc_num_head", heads, 1, LARGEST), LIST("enc_patch_size", patches, 1, LARGEST)};

static const struct {
  const char *key;
  size_t place;
} numbers[] = {{"input_channels", offsetof(encoder_sizes, input_channels)}, {"embed_channels", offsetof(encoder_sizes, embed_channels)},
               {"in_channels", offsetof(encoder_sizes, in_channels)}};

/* What is computed in one way only. */
static const struct {
  const char *key;
  bool value;
} fixed[] = {{"shuffle_orders", false}, {"enable_rpe", false}, {"pre_norm", true}, {"qkv_bias", true}, {"enable_fourier_encode", true}};

#define EACH(i, table) (size_t i = 0; i < sizeof(table) / sizeof *(table); i++)

static bool is_whole(const cJSON *v, int64_t low, int64_t high) {
  return cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble) && v->valuedouble >= (double)low && v->valuedouble <= (double)high;
}

/* False where it is none. */
static bool read_list(const cJSON *v, int64_t low, int64_t high, bool may_be_empty, stage_list *to) {
  const cJSON *one;
  const int n = cJSON_GetArraySize(v);
  if (!cJSON_IsArray(v) || n > MOST_STAGES || (n == 0 && !may_be_empty)) return false;
  *to = (stage_list){.n = 0};
  cJSON_ArrayForEach(one, v) {
    if (!is_whole(one, low, high)) return false;
    to->at[to->n++] = (int64_t)one->valuedouble;
  }
  return true;
}

static bool read_orders(const cJSON *v, stage_list *to) {
  const cJSON *one;
  if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) == 0 || cJSON_GetArraySize(v) > MOST_STAGES) return false;
  *to = (stage_list){.n = 0};
  cJSON_ArrayForEach(one, v) {
    if (!cJSON_IsString(one) || (strcmp(one->valuestring, "z") != 0 && strcmp(one->valuestring, "z-trans") != 0)) return false;
    to->at[to->n++] = one->valuestring[1] == '-';
  }
  return true;
}

/* Whether a member's value is one that this backend computes; other keys are none of its business. */
static bool read_member(const cJSON *v, encoder_sizes *s) {
  for EACH(i, lists)
    if (strcmp(v->string, lists[i].key) == 0) return read_list(v, lists[i].low, lists[i].high, strcmp(v->string, "stride") == 0, (stage_list *)((char *)s + lists[i].place));
  for EACH(i, numbers)
    if (strcmp(v->string, numbers[i].key) == 0) {
      *(int64_t *)((char *)s + numbers[i].place) = is_whole(v, 1, LARGEST) ? (int64_t)v->valuedouble : 0;
      return is_whole(v, 1, LARGEST);
    }
  for EACH(i, fixed)
    if (strcmp(v->string, fixed[i].key) == 0) return fixed[i].value ? cJSON_IsTrue(v) : cJSON_IsFalse(v);
  if (strcmp(v->string, "qk_scale") == 0) return cJSON_IsNull(v); /* scores are divided by sqrt(C/heads) */
  if (strcmp(v->string, "order") == 0) return read_orders(v, &s->orders);
  if (strcmp(v->string, "mlp_ratio") == 0) {
    s->mlp_ratio = cJSON_IsNumber(v) ? v->valuedouble : 0;
    return s->mlp_ratio > 0 && s->mlp_ratio <= LARGEST;
  }
  return true;
}

bool wrong_encoder_sizes(const void *point_config, encoder_sizes *s, char message[400]) {
  *s = (encoder_sizes){.input_channels = 6, .embed_channels = 512, .in_channels = 6, .widths = {5, {16, 32, 64, 128, 256}}, .orders = {2, {0, 1}},
                       .depths = {5, {3, 3, 3, 12, 3}}, .channels = {5, {48, 96, 192, 384, 512}}, .heads = {5, {3, 6, 12, 24, 32}}, .mlp_ratio = 4};
  const cJSON *config = point_config, *v;
  if (config && !cJSON_IsObject(config)) {
    snprintf(message, 400, "point_config is no object");
    return true;
  }
  s->strides.n = -1, s->patches.n = -1;
  cJSON_ArrayForEach(v, config)
    if (!read_member(v, s)) {
      char *shown = cJSON_PrintUnformatted(v);
      snprintf(message, 400, "point_config's %.60s is %.80s, which is no value for it, or not computed here", v->string, shown);
      cJSON_free(shown);
      return true;
    }
  /* what was not given follows from the number of stages */
  if (s->strides.n < 0) {
    s->strides = (stage_list){.n = s->depths.n - 1};
    for (int64_t i = 0; i < s->strides.n; i++) s->strides.at[i] = 2;
  }
  if (s->patches.n < 0) {
    s->patches = (stage_list){.n = s->depths.n};
    for (int64_t i = 0; i < s->patches.n; i++) s->patches.at[i] = 1024;
  }
  for (int64_t i = 0; i < s->strides.n; i++)
    if (s->strides.at[i] & (s->strides.at[i] - 1)) {
      snprintf(message, 400, "point_config's stride %lld is no power of two", (long long)s->strides.at[i]);
      return true;
    }
  return false;
}

bool unfit_encoder_sizes(const options *o, char message[400]) {
  const encoder_sizes *s = &o->encoder;
  if (o->backbone == SCENESCRIPT) {
    const int64_t last = s->widths.at[s->widths.n - 1];
    bool fits = 2 * last % 8 == 0 && o->sonata_norm == OF_GRID;
    for (int64_t i = 0; i < s->widths.n; i++) fits = fits && (s->widths.at[i] <= 8 || s->widths.at[i] % 8 == 0);
    if (!fits) snprintf(message, 400, "conv_layers do not divide into 8 groups, or sonata_coord_norm is not for scenescript");
    return !fits;
  }
  if (o->backbone == SONATA) {
    const int64_t n = s->depths.n;
    bool fits = s->channels.n == n && s->heads.n == n && s->patches.n == n && s->strides.n == n - 1;
    for (int64_t i = 0; fits && i < n; i++) {
      const double inner = s->mlp_ratio * (double)s->channels.at[i];
      fits = s->channels.at[i] % s->heads.at[i] == 0 && inner == floor(inner) && inner >= 1;
    }
    if (!fits) snprintf(message, 400, "point_config's lists do not fit the %lld stages of enc_depths, or heads and mlp_ratio not the widths", (long long)n);
    return !fits;
  }
  return false;
}
