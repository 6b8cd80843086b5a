#include "point_config.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "spelling.h"

/* Far above any encoder: a number in a request alone must not claim memory. */
#define LARGEST_SIZE (1 << 20)
#define LARGEST_DEPTH 1024
#define DEFAULT_STRIDE 2
#define DEFAULT_PATCH_SIZE 1024

typedef enum kind {
  SIZE,    /* int64_t, 1 .. LARGEST_SIZE */
  SIZES,   /* mr3d_stages of those */
  DEPTHS,  /* mr3d_stages of 0 .. LARGEST_DEPTH */
  STRIDES, /* mr3d_stages of powers of two */
  ORDERS,  /* mr3d_stages of mr3d_point_order */
  RATIO,   /* double above 0 */
  ONLY_TRUE,
  ONLY_FALSE,
  ONLY_NULL, /* these have no field: what is not computed here is refused, never ignored */
  IGNORED,    /* known, so that it is not taken for a misspelt key */
} kind;

#define NAMED(name) #name, .field = offsetof(mr3d_point_config, name)

static const struct key {
  const char *name;
  kind kind;
  size_t field;
  const char *why; /* ONLY_TRUE, ONLY_FALSE, ONLY_NULL */
} keys[] = {
    {NAMED(input_channels), .kind = SIZE},
    {NAMED(embed_channels), .kind = SIZE},
    {NAMED(conv_layers), .kind = SIZES},
    {NAMED(in_channels), .kind = SIZE},
    {NAMED(order), .kind = ORDERS},
    {NAMED(stride), .kind = STRIDES},
    {NAMED(enc_depths), .kind = DEPTHS},
    {NAMED(enc_channels), .kind = SIZES},
    {NAMED(enc_num_head), .kind = SIZES},
    {NAMED(enc_patch_size), .kind = SIZES},
    {NAMED(mlp_ratio), .kind = RATIO},
    {"shuffle_orders", .kind = ONLY_FALSE, .why = "a random permutation of the orders makes the result random"},
    {"enable_rpe", .kind = ONLY_FALSE, .why = "relative position encodings are not part of this encoder"},
    {"pre_norm", .kind = ONLY_TRUE, .why = "the norm stands before attention and MLP here"},
    {"qkv_bias", .kind = ONLY_TRUE, .why = "queries, keys and values have a bias here"},
    {"enable_fourier_encode", .kind = ONLY_TRUE, .why = "the features end with Fourier features here"},
    {"qk_scale", .kind = ONLY_NULL, .why = "scores are divided by sqrt(C/heads) here"},
    /* the decoder of the same public class, which an encoder does not have */
    {"dec_depths", .kind = IGNORED},
    {"dec_channels", .kind = IGNORED},
    {"dec_num_head", .kind = IGNORED},
    {"dec_patch_size", .kind = IGNORED},
};
#define N_KEYS ((int)(sizeof keys / sizeof *keys))

static const char *const orders[] = {[MR3D_Z] = "z", [MR3D_Z_TRANS] = "z-trans"};
#define N_ORDERS ((int)(sizeof orders / sizeof *orders))

static const mr3d_point_config defaults = {
    .input_channels = 6,
    .embed_channels = 512,
    .conv_layers = {5, {16, 32, 64, 128, 256}},
    .in_channels = 6,
    .order = {2, {MR3D_Z, MR3D_Z_TRANS}},
    .enc_depths = {5, {3, 3, 3, 12, 3}},
    .enc_channels = {5, {48, 96, 192, 384, 512}},
    .enc_num_head = {5, {3, 6, 12, 24, 32}},
    .mlp_ratio = 4,
};

/* ---- reading ---- */

static mr3d_status bad_value(const struct key *k, const cJSON *value, const char *expected, mr3d_error *error) {
  char *text = cJSON_PrintUnformatted(value);
  const mr3d_status status = mr3d_fail(error, MR3D_INVALID, "config: point_config %s is %.80s; %s", k->name, text != NULL ? text : "?", expected);
  cJSON_free(text);
  return status;
}

static bool element_of(const struct key *k, const cJSON *value, int64_t *element) {
  if (k->kind == ORDERS) {
    for (*element = 0; *element < N_ORDERS; ++*element)
      if (cJSON_IsString(value) && strcmp(value->valuestring, orders[*element]) == 0)
        return true;
    return false;
  }
  if (!mr3d_json_is_count(value, element))
    return false;
  switch (k->kind) {
  case DEPTHS: return *element <= LARGEST_DEPTH;
  case STRIDES: return *element >= 1 && *element <= LARGEST_SIZE && (*element & (*element - 1)) == 0;
  default: return *element >= 1 && *element <= LARGEST_SIZE;
  }
}

static mr3d_status read_list(const struct key *k, const cJSON *list, mr3d_stages *out, mr3d_error *error) {
  static const char *const elements[] = {[SIZES] = "whole numbers of 1 .. 2^20", [DEPTHS] = "whole numbers of 0 .. 1024", [STRIDES] = "powers of two of 1 .. 2^20",
                                         [ORDERS] = "\"z\" and \"z-trans\""};
  char expected[96];
  snprintf(expected, sizeof expected, "expected a list of %d .. %d %s", k->kind == STRIDES ? 0 : 1, MR3D_MAX_STAGES, elements[k->kind]);
  const int count = cJSON_GetArraySize(list);
  if (!cJSON_IsArray(list) || count > MR3D_MAX_STAGES || (count == 0 && k->kind != STRIDES))
    return bad_value(k, list, expected, error);
  *out = (mr3d_stages){0};
  for (const cJSON *value = list->child; value != NULL; value = value->next)
    if (!element_of(k, value, &out->at[out->count++]))
      return bad_value(k, list, expected, error);
  return MR3D_OK;
}

static mr3d_status read_member(const struct key *k, const cJSON *value, mr3d_point_config *config, mr3d_error *error) {
  void *field = (char *)config + k->field;
  char expected[160];
  switch (k->kind) {
  case SIZE: return element_of(k, value, field) ? MR3D_OK : bad_value(k, value, "expected a whole number of 1 .. 2^20", error);
  case SIZES:
  case DEPTHS:
  case STRIDES:
  case ORDERS: return read_list(k, value, field, error);
  case RATIO:
    *(double *)field = cJSON_IsNumber(value) ? value->valuedouble : 0;
    return *(double *)field > 0 && *(double *)field <= LARGEST_SIZE ? MR3D_OK : bad_value(k, value, "expected a number above 0", error);
  case ONLY_TRUE:
  case ONLY_FALSE:
  case ONLY_NULL:
    snprintf(expected, sizeof expected, "the only valid value is %s: %s", k->kind == ONLY_TRUE ? "true" : k->kind == ONLY_FALSE ? "false" : "null", k->why);
    return (k->kind == ONLY_TRUE ? cJSON_IsTrue(value) : k->kind == ONLY_FALSE ? cJSON_IsFalse(value) : cJSON_IsNull(value)) ? MR3D_OK : bad_value(k, value, expected, error);
  case IGNORED: break;
  }
  return MR3D_OK;
}

/* The known key of that name; *meant is the one that an unknown name looks like, or NULL. */
static const struct key *find_key(const char *name, const struct key **meant) {
  int nearest = MR3D_SPELLING_NEAR + 1;
  *meant = NULL;
  for (int i = 0; i < N_KEYS; i++) {
    if (strcmp(keys[i].name, name) == 0)
      return &keys[i];
    const int distance = mr3d_spelling_distance(name, keys[i].name);
    if (distance < nearest) {
      nearest = distance;
      *meant = &keys[i];
    }
  }
  return NULL;
}

static mr3d_stages each(int64_t count, int64_t value) {
  mr3d_stages stages = {.count = count};
  for (int64_t s = 0; s < count; s++)
    stages.at[s] = value;
  return stages;
}

mr3d_status mr3d_point_config_read(const cJSON *object, mr3d_point_config *config, mr3d_error *error) {
  mr3d_point_config read = defaults;
  bool has_stride = false, has_patch_size = false;
  if (object != NULL && !cJSON_IsObject(object))
    return mr3d_fail(error, MR3D_INVALID, "config: point_config is no object; expected {\"enc_channels\": [...], ...}");
  for (const cJSON *member = object != NULL ? object->child : NULL; member != NULL; member = member->next) {
    const struct key *meant, *const k = find_key(member->string, &meant);
    if (k == NULL && meant != NULL)
      return mr3d_fail(error, MR3D_INVALID, "config: unknown key \"%.80s\" in point_config; did you mean \"%s\"?", member->string, meant->name);
    const mr3d_status status = k != NULL ? read_member(k, member, &read, error) : MR3D_OK;
    if (status != MR3D_OK)
      return status;
    has_stride |= k != NULL && k->field == offsetof(mr3d_point_config, stride);
    has_patch_size |= k != NULL && k->field == offsetof(mr3d_point_config, enc_patch_size);
  }
  if (!has_stride)
    read.stride = each(read.enc_depths.count - 1, DEFAULT_STRIDE);
  if (!has_patch_size)
    read.enc_patch_size = each(read.enc_depths.count, DEFAULT_PATCH_SIZE);
  *config = read;
  return MR3D_OK;
}

/* ---- what belongs together ---- */

static mr3d_status scenescript_fits(const mr3d_point_config *c, mr3d_error *error) {
  for (int64_t s = 0; s < c->conv_layers.count; s++)
    if (c->conv_layers.at[s] > 8 && c->conv_layers.at[s] % 8 != 0)
      return mr3d_fail(error, MR3D_INVALID, "config: point_config conv_layers[%lld] is %lld, which does not divide into 8 groups", (long long)s,
                       (long long)c->conv_layers.at[s]);
  const int64_t last = c->conv_layers.at[c->conv_layers.count - 1];
  if (2 * last % 8 != 0)
    return mr3d_fail(error, MR3D_INVALID, "config: the last of point_config conv_layers is %lld, and the bottleneck's 2 x %lld channels do not divide into 8 groups",
                     (long long)last, (long long)last);
  return MR3D_OK;
}

static mr3d_status sonata_fits(const mr3d_point_config *c, mr3d_error *error) {
  const int64_t stages = c->enc_depths.count;
  const struct {
    const char *name;
    int64_t count, expected;
  } lists[] = {{"enc_channels", c->enc_channels.count, stages},
               {"enc_num_head", c->enc_num_head.count, stages},
               {"enc_patch_size", c->enc_patch_size.count, stages},
               {"stride", c->stride.count, stages - 1}};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
    if (lists[i].count != lists[i].expected)
      return mr3d_fail(error, MR3D_INVALID, "config: point_config %s has %lld entries, expected %lld: enc_depths has %lld stages", lists[i].name, (long long)lists[i].count,
                       (long long)lists[i].expected, (long long)stages);
  for (int64_t s = 0; s < stages; s++) {
    const double inner = c->mlp_ratio * (double)c->enc_channels.at[s];
    if (c->enc_channels.at[s] % c->enc_num_head.at[s] != 0)
      return mr3d_fail(error, MR3D_INVALID, "config: point_config enc_channels[%lld] is %lld, no multiple of enc_num_head[%lld] = %lld", (long long)s,
                       (long long)c->enc_channels.at[s], (long long)s, (long long)c->enc_num_head.at[s]);
    if (inner != floor(inner) || inner < 1)
      return mr3d_fail(error, MR3D_INVALID, "config: point_config mlp_ratio %g times enc_channels[%lld] = %lld is %g, not a whole number", c->mlp_ratio, (long long)s,
                       (long long)c->enc_channels.at[s], inner);
  }
  return MR3D_OK;
}

mr3d_status mr3d_config_check_encoder(const mr3d_config *config, mr3d_error *error) {
  if (config->point_backbone == MR3D_SCENESCRIPT && config->sonata_coord_norm != MR3D_SONATA_NORM_GRID)
    return mr3d_fail(error, MR3D_INVALID, "config: sonata_coord_norm \"scene\" is an option of Sonata; point_backbone is \"scenescript\"");
  switch (config->point_backbone) {
  case MR3D_SCENESCRIPT: return scenescript_fits(&config->point_config, error);
  case MR3D_SONATA: return sonata_fits(&config->point_config, error);
  case MR3D_NO_BACKBONE: break;
  }
  return MR3D_OK;
}
