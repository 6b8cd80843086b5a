/** Configuration (mr3d/config.h): one table row a key says its type, its field and, for a choice, its values. */
#include "mr3d/config.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "json.h"
#include "point_config.h"
#include "spelling.h"

typedef enum kind {
  SIZE,      /* int64_t, 1 or more */
  COUNT,     /* int64_t, 0 or more */
  POSITIVE,  /* double above 0 */
  ABOVE_ONE, /* double above 1 */
  RATIO,     /* double of 0 .. 1 */
  BOOLEAN,   /* bool */
  TRISTATE,  /* int: 1, 0, or -1 for "not given" */
  CHOICE,    /* an enumeration, in the order of `values` */
  MAYBE,     /* the same, of values 1, 2, ...; 0 for "not given" */
  POINTS,    /* mr3d_point_config */
  ONLY_SILU,
  ONLY_NULL,
  ONLY_FALSE, /* no field: what is not computed here is refused, never ignored */
} kind;

typedef struct key {
  const char *name;
  kind kind;
  size_t field;
  const char *values[5]; /* NULL-terminated */
} key;

#define FIELD(name) offsetof(mr3d_config, name)
#define NAMED(name) #name, .field = FIELD(name)

static const key keys[] = {
    /* Hugging Face's decoder keys (protocol.md, "Configuration") */
    {NAMED(hidden_size), .kind = SIZE},
    {NAMED(intermediate_size), .kind = SIZE},
    {NAMED(num_hidden_layers), .kind = SIZE},
    {NAMED(num_attention_heads), .kind = SIZE},
    {NAMED(num_key_value_heads), .kind = SIZE},
    {NAMED(head_dim), .kind = SIZE},
    {NAMED(vocab_size), .kind = SIZE},
    {NAMED(rope_theta), .kind = POSITIVE},
    {NAMED(rms_norm_eps), .kind = POSITIVE},
    {NAMED(tie_word_embeddings), .kind = TRISTATE},
    {"hidden_act", .kind = ONLY_SILU},
    {"rope_scaling", .kind = ONLY_NULL},
    {"use_sliding_window", .kind = ONLY_FALSE},
    /* options (spec.md 8) */
    {NAMED(rope_theta_3d), .kind = ABOVE_ONE},
    {"spatial_temporal_separate_strategy", .kind = CHOICE, .field = FIELD(strategy),
     .values = {"half_spatial_half_temp", "full_spatial", "full_temporal", "custom_ratio"}},
    {NAMED(spatial_ratio), .kind = RATIO},
    {"mixed_rope_layout", .kind = CHOICE, .field = FIELD(layout), .values = {"contiguous", "interleaved"}},
    {NAMED(temporal_rope), .kind = CHOICE, .values = {"gathered", "native"}},
    {NAMED(rope_mixed_3d), .kind = BOOLEAN},
    {"mixedRoPE_3d_learned_per_axis", .kind = BOOLEAN, .field = FIELD(learned_per_axis)},
    {"mixedRoPE_3d_learned_axial_mixing_weight", .kind = BOOLEAN, .field = FIELD(learned_axial_weights)},
    {NAMED(rope_3d_kind), .kind = CHOICE, .values = {"mixed", "axial"}},
    {NAMED(coord_norm), .kind = CHOICE, .values = {"grid", "none", "unit_range", "virtual_resolution"}},
    {NAMED(drift), .kind = CHOICE, .values = {"none", "average", "pointwise"}},
    {NAMED(virtual_resolution), .kind = POSITIVE},
    {NAMED(num_bins), .kind = SIZE},
    {NAMED(downsamplings), .kind = COUNT},
    {NAMED(cell_size), .kind = POSITIVE},
    {NAMED(reduced_grid_size), .kind = SIZE},
    {NAMED(point_start_token_id), .kind = COUNT},
    {NAMED(point_end_token_id), .kind = COUNT},
    {NAMED(point_token_id), .kind = COUNT},
    {NAMED(decode_mask), .kind = CHOICE, .values = {"pad_end", "spliced"}},
    {NAMED(grid_overflow), .kind = CHOICE, .values = {"error", "clip"}},
    /* the point encoder (encoders.md) */
    {NAMED(point_backbone), .kind = MAYBE, .values = {"scenescript", "sonata"}},
    {NAMED(point_config), .kind = POINTS},
    {NAMED(projector), .kind = CHOICE, .values = {"linear", "mlp"}},
    {NAMED(sonata_coord_norm), .kind = CHOICE, .values = {"grid", "scene"}},
};
#define N_KEYS ((int)(sizeof keys / sizeof *keys))

static const mr3d_config defaults = {
    .tie_word_embeddings = -1,
    .rope_theta_3d = 100,
    .strategy = MR3D_HALF_SPATIAL_HALF_TEMP,
    .spatial_ratio = -1,
    .layout = MR3D_CONTIGUOUS,
    .temporal_rope = MR3D_GATHERED,
    .rope_mixed_3d = true,
    .learned_per_axis = true,
    .learned_axial_weights = true,
    .rope_3d_kind = MR3D_MIXED,
    .coord_norm = MR3D_NORM_GRID,
    .drift = MR3D_DRIFT_NONE,
    .num_bins = 1280,
    .downsamplings = 4,
    .cell_size = 0.025,
    .point_start_token_id = 151652,
    .point_end_token_id = 151653,
    .point_token_id = 151654,
    .decode_mask = MR3D_PAD_END,
    .grid_overflow = MR3D_OVERFLOW_ERROR,
};

/* ---- fields: any kind as a double, which holds each exactly ---- */

static double load(const key *k, const mr3d_config *config) {
  const void *field = (const char *)config + k->field;
  switch (k->kind) {
  case SIZE:
  case COUNT: return (double)*(const int64_t *)field;
  case POSITIVE:
  case ABOVE_ONE:
  case RATIO: return *(const double *)field;
  case BOOLEAN: return *(const bool *)field;
  case TRISTATE: return *(const int *)field;
  case CHOICE:
  case MAYBE: return *(const unsigned *)field; /* gcc and clang give an enumeration without negative values this type */
  default: return 0;
  }
}

static void store(const key *k, double value, mr3d_config *config) {
  void *field = (char *)config + k->field;
  switch (k->kind) {
  case SIZE:
  case COUNT: *(int64_t *)field = (int64_t)value; break;
  case POSITIVE:
  case ABOVE_ONE:
  case RATIO: *(double *)field = value; break;
  case BOOLEAN: *(bool *)field = value != 0; break;
  case TRISTATE: *(int *)field = (int)value; break;
  case CHOICE:
  case MAYBE: *(unsigned *)field = (unsigned)value; break;
  default: break;
  }
}

/* The value that stands for "not given"; no valid value equals it. */
static bool is_given(const key *k, double value) {
  if (k->kind == RATIO || k->kind == TRISTATE)
    return value >= 0;
  return (k->kind != SIZE && k->kind != POSITIVE && k->kind != MAYBE && k->kind != POINTS) || value > 0;
}

static const char *value_text(const key *k, double value, char text[32]) {
  if (k->kind == CHOICE)
    return k->values[(int)value];
  if (!is_given(k, value))
    return "not given";
  if (k->kind == MAYBE)
    return k->values[(int)value - 1];
  if (k->kind == BOOLEAN || k->kind == TRISTATE)
    return value != 0 ? "true" : "false";
  snprintf(text, 32, "%.17g", value);
  return text;
}

/* ---- keys ---- */

static const key *find_key(const char *name) {
  for (int i = 0; i < N_KEYS; i++)
    if (strcmp(keys[i].name, name) == 0)
      return &keys[i];
  return NULL;
}

/* The known key that an unknown one looks like, or NULL. */
static const key *key_meant(const char *name) {
  const key *nearest = NULL;
  int distance = MR3D_SPELLING_NEAR + 1;
  for (int i = 0; i < N_KEYS; i++) {
    const int d = mr3d_spelling_distance(name, keys[i].name);
    if (d < distance) {
      distance = d;
      nearest = &keys[i];
    }
  }
  return nearest;
}

/* ---- values ---- */

static mr3d_status bad_value(const key *k, const cJSON *value, const char *expected, mr3d_error *error) {
  char *text = cJSON_PrintUnformatted(value);
  const mr3d_status status =
      mr3d_fail(error, MR3D_INVALID, "config: %s is %.80s; %s", k->name, text != NULL ? text : "?", expected);
  cJSON_free(text);
  return status;
}

static mr3d_status read_choice(const key *k, const cJSON *value, double *out, mr3d_error *error) {
  char expected[256] = "valid values are";
  for (int i = 0; k->values[i] != NULL; i++) {
    if (cJSON_IsString(value) && strcmp(value->valuestring, k->values[i]) == 0) {
      *out = i;
      return MR3D_OK;
    }
    const size_t used = strlen(expected);
    snprintf(expected + used, sizeof expected - used, "%s \"%s\"", i > 0 ? "," : "", k->values[i]);
  }
  return bad_value(k, value, expected, error);
}

static mr3d_status read_value(const key *k, const cJSON *value, double *out, mr3d_error *error) {
  const double number = cJSON_IsNumber(value) ? value->valuedouble : (double)NAN;
  int64_t count = -1;
  mr3d_json_is_count(value, &count);
  *out = number;
  switch (k->kind) {
  case SIZE: return count >= 1 ? MR3D_OK : bad_value(k, value, "expected a whole number of 1 .. 2^53-1", error);
  case COUNT: return count >= 0 ? MR3D_OK : bad_value(k, value, "expected a whole number of 0 .. 2^53-1", error);
  case POSITIVE: return number > 0 && isfinite(number) ? MR3D_OK : bad_value(k, value, "expected a finite number above 0", error);
  case ABOVE_ONE:
    return number > 1 && isfinite(number) ? MR3D_OK : bad_value(k, value, "expected a finite number above 1", error);
  case RATIO: return number >= 0 && number <= 1 ? MR3D_OK : bad_value(k, value, "expected a number of 0 .. 1", error);
  case BOOLEAN:
  case TRISTATE:
    *out = cJSON_IsTrue(value);
    return cJSON_IsBool(value) ? MR3D_OK : bad_value(k, value, "valid values are true, false", error);
  case CHOICE: return read_choice(k, value, out, error);
  case MAYBE: {
    const mr3d_status status = read_choice(k, value, out, error);
    *out += 1;
    return status;
  }
  case ONLY_SILU:
    return cJSON_IsString(value) && strcmp(value->valuestring, "silu") == 0
               ? MR3D_OK
               : bad_value(k, value, "the only valid value is \"silu\"", error);
  case ONLY_NULL:
    return bad_value(k, value, "the only valid value is null: scaled rotary embeddings are not part of this model", error);
  case ONLY_FALSE:
    return cJSON_IsFalse(value)
               ? MR3D_OK
               : bad_value(k, value, "the only valid value is false: sliding windows are not part of this model", error);
  case POINTS: break; /* read apart */
  }
  return MR3D_OK;
}

/* null stands for a key without a default (or whose default follows from other keys); elsewhere it is a value of another type. */
static bool may_be_null(const key *k) {
  return k->kind == ONLY_NULL || !is_given(k, load(k, &defaults));
}

/* Reads what the object holds over the defaults: keys, types and ranges, not yet what belongs together. */
static mr3d_status read_keys(const cJSON *object, mr3d_config *config, mr3d_error *error) {
  *config = defaults;
  mr3d_status status = mr3d_point_config_read(NULL, &config->point_config, error);
  for (const cJSON *member = object->child; member != NULL; member = member->next) {
    const key *const k = find_key(member->string);
    const key *const meant = k == NULL ? key_meant(member->string) : NULL;
    if (meant != NULL)
      return mr3d_fail(error, MR3D_INVALID, "config: unknown key \"%.80s\"; did you mean \"%s\"?", member->string, meant->name);
    if (k == NULL || (cJSON_IsNull(member) && may_be_null(k)))
      continue;
    double value = 0;
    if (k->kind == POINTS)
      status = mr3d_point_config_read(member, &config->point_config, error);
    else
      status = read_value(k, member, &value, error);
    if (status != MR3D_OK)
      return status;
    store(k, value, config);
  }
  return status;
}

/* Derives what follows from other keys and checks what belongs together. */
static mr3d_status complete(mr3d_config *c, mr3d_error *error) {
  const long long heads = c->num_attention_heads, kv_heads = c->num_key_value_heads;
  if (heads > 0 && kv_heads > 0 && heads % kv_heads != 0)
    return mr3d_fail(error, MR3D_INVALID, "config: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", heads,
                     kv_heads);
  if (c->head_dim == 0 && heads > 0 && c->hidden_size % heads == 0)
    c->head_dim = c->hidden_size / heads;

  if (c->downsamplings > 52 || c->num_bins % (INT64_C(1) << c->downsamplings) != 0)
    return mr3d_fail(error, MR3D_INVALID, "config: num_bins %lld does not divide by 2^downsamplings = 2^%lld",
                     (long long)c->num_bins, (long long)c->downsamplings);
  if (c->reduced_grid_size == 0)
    c->reduced_grid_size = c->num_bins >> c->downsamplings;

  if (c->strategy == MR3D_CUSTOM_RATIO && c->spatial_ratio < 0)
    return mr3d_fail(
        error, MR3D_INVALID,
        "config: spatial_temporal_separate_strategy \"custom_ratio\" needs spatial_ratio (0 .. 1), which is not given");
  if (c->coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION && c->virtual_resolution == 0)
    return mr3d_fail(error, MR3D_INVALID,
                     "config: coord_norm \"virtual_resolution\" needs the number virtual_resolution, which is not given");

  const mr3d_status fits = mr3d_config_check_encoder(c, error);
  if (fits != MR3D_OK)
    return fits;

  mr3d_split split = {0}; /* where head_dim is known, it must be possible to split as asked, whatever the operator */
  const mr3d_status status = c->head_dim > 0 ? mr3d_split_head(c, c->head_dim, &split, error) : MR3D_OK;
  mr3d_split_free(&split);
  return status;
}

/* The object of a text; a malformed configuration is a bad request, not a bad file. */
static mr3d_status parse_object(const char *json, cJSON **object, mr3d_error *error) {
  mr3d_error inner = {0};
  if (mr3d_json_parse(json, strlen(json), MR3D_JSON_ANY_NUMBER, object, &inner) != MR3D_OK)
    return mr3d_fail(error, MR3D_INVALID, "config: %s", inner.message);
  return MR3D_OK;
}

mr3d_status mr3d_config_parse_part(const char *json, mr3d_config *config, mr3d_error *error) {
  cJSON *object;
  mr3d_config read;
  mr3d_status status = parse_object(json, &object, error);
  if (status != MR3D_OK)
    return status;
  status = read_keys(object, &read, error);
  cJSON_Delete(object);
  if (status == MR3D_OK)
    *config = read;
  return status;
}

mr3d_status mr3d_config_parse(const char *json, mr3d_config *config, mr3d_error *error) {
  mr3d_config read;
  mr3d_status status = mr3d_config_parse_part(json, &read, error);
  if (status == MR3D_OK)
    status = complete(&read, error);
  if (status == MR3D_OK)
    *config = read;
  return status;
}

mr3d_status mr3d_config_need(const mr3d_config *config, const char *name, mr3d_error *error) {
  const key *const k = find_key(name);
  if (k != NULL && is_given(k, load(k, config)))
    return MR3D_OK;
  if (k != NULL && k->field == FIELD(head_dim)) {
    if (config->hidden_size > 0 && config->num_attention_heads > 0)
      return mr3d_fail(error, MR3D_INVALID,
                       "config: head_dim is not given, and hidden_size %lld is not a multiple of num_attention_heads %lld",
                       (long long)config->hidden_size, (long long)config->num_attention_heads);
    return mr3d_fail(
        error, MR3D_INVALID,
        "config: head_dim is needed here and not given, nor are both hidden_size and num_attention_heads to derive it");
  }
  return mr3d_fail(error, MR3D_INVALID, "config: %s is needed here and not given; it has no default", name);
}

mr3d_status mr3d_config_agrees(const char *json, const char *session_json, mr3d_error *error) {
  cJSON *object;
  mr3d_config asked, session;
  mr3d_status status = mr3d_config_parse(session_json, &session, error);
  if (status != MR3D_OK || (status = parse_object(json, &object, error)) != MR3D_OK)
    return status;
  status = read_keys(object, &asked, error);
  for (const cJSON *member = object->child; member != NULL && status == MR3D_OK; member = member->next) {
    const key *const k = find_key(member->string);
    if (k == NULL)
      continue;
    const double a = load(k, &asked), b = load(k, &session);
    char a_text[32], b_text[32];
    const bool open = !is_given(k, a) || (k->kind == TRISTATE && !is_given(k, b)); /* null; or decided by weights, unseen here */
    if (k->kind == POINTS && !cJSON_IsNull(member) && memcmp(&asked.point_config, &session.point_config, sizeof asked.point_config) != 0)
      status = mr3d_fail(error, MR3D_INVALID, "config: point_config is not the one that the session was opened with");
    if (!open && a != b)
      status = mr3d_fail(error, MR3D_INVALID, "config: %s is %s, but the session was opened with %s", k->name,
                         value_text(k, a, a_text), value_text(k, b, b_text));
  }
  cJSON_Delete(object);
  return status;
}

/* ---- the head's dimensions (spec.md 3.3) ---- */

#define LARGEST_HEAD_DIM (1 << 20) /* far above any model; a number in a request alone must not claim memory */

static int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

/* Ds, which must come out whole. D · ratio counts as whole within 1e-9 of D: 0.58 · 100 is 57.99999999999999 in binary64. */
static mr3d_status spatial_size(const mr3d_config *config, int64_t D, int64_t *Ds, mr3d_error *error) {
  const double shares[] = {[MR3D_HALF_SPATIAL_HALF_TEMP] = 0.5,
                           [MR3D_FULL_SPATIAL] = 1,
                           [MR3D_FULL_TEMPORAL] = 0,
                           [MR3D_CUSTOM_RATIO] = config->spatial_ratio};
  const double ratio = shares[config->strategy];
  if (!(ratio >= 0 && ratio <= 1))
    return mr3d_fail(error, MR3D_INVALID, "config: spatial_ratio is not given or not within 0 .. 1");
  const double product = (double)D * ratio, nearest = nearbyint(product);
  if (!(fabs(product - nearest) <= 1e-9 * (double)D))
    return mr3d_fail(error, MR3D_INVALID, "config: the spatial part, head_dim %lld times %g = %g, is not a whole number; that share is %s", (long long)D, ratio, product,
                     config->strategy == MR3D_CUSTOM_RATIO ? "spatial_ratio" : "spatial_temporal_separate_strategy's");
  *Ds = (int64_t)nearest;
  return MR3D_OK;
}

mr3d_status mr3d_split_head(const mr3d_config *config, int64_t D, mr3d_split *split, mr3d_error *error) {
  int64_t Ds = 0;
  if (D < 1 || D > LARGEST_HEAD_DIM)
    return mr3d_fail(error, MR3D_INVALID, "head_dim is %lld; expected 1 .. %d", (long long)D, LARGEST_HEAD_DIM);
  const mr3d_status status = spatial_size(config, D, &Ds, error);
  if (status != MR3D_OK)
    return status;
  const int64_t Dt = D - Ds;
  if (Ds % 2 != 0 || Dt % 2 != 0)
    return mr3d_fail(error, MR3D_INVALID,
                     "config: head_dim %lld splits into %lld spatial and %lld temporal dimensions (%s); both must be even", (long long)D, (long long)Ds,
                     (long long)Dt, config->strategy == MR3D_CUSTOM_RATIO ? "by spatial_ratio" : "by spatial_temporal_separate_strategy");
  if (config->rope_3d_kind == MR3D_AXIAL && Ds / 3 / 2 == 0)
    return mr3d_fail(error, MR3D_INVALID,
                     "config: rope_3d_kind \"axial\" shares %lld spatial dimensions of head_dim %lld among three axes: at least 6 are needed",
                     (long long)Ds, (long long)D);
  const int64_t g = gcd(Ds, Dt), unit = D / g, unit_temporal = Dt / g;
  const bool interleaved = config->layout == MR3D_INTERLEAVED;
  if (interleaved && unit > 8)
    return mr3d_fail(error, MR3D_INVALID,
                     "config: %lld spatial and %lld temporal dimensions make interleaved units of %lld; at most 8 are possible",
                     (long long)Ds, (long long)Dt, (long long)unit);

  mr3d_split made = {D, Ds, Dt, mr3d_allocate(Ds, sizeof(int64_t)), mr3d_allocate(Dt, sizeof(int64_t))};
  int64_t s = 0, t = 0;
  for (int64_t d = 0; d < D; d++) {
    const bool spatial = interleaved ? d % unit >= unit_temporal : d < Ds;
    if (spatial)
      made.spatial[s++] = d;
    else
      made.temporal[t++] = d;
  }
  *split = made;
  return MR3D_OK;
}

void mr3d_split_free(mr3d_split *split) {
  free(split->spatial);
  free(split->temporal);
  split->spatial = split->temporal = NULL;
}
