/* The configuration: Hugging Face's keys and the options of spec.md 8, checked. */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "f32.h"

typedef enum { COUNT /* 1, 2 .. */, NATURAL /* 0, 1 .. */, POSITIVE, ABOVE_ONE, RATIO, SWITCH, CHOICE, OBJECT, REFUSED_UNLESS } rule;

typedef struct option {
  const char *key;
  rule rule;
  size_t place;
  double fallback;
  const char *choices; /* blank-separated, in the order of their enum */
} option;

#define AT(field) offsetof(options, field)

static const option known[] = {
  {"hidden_size", COUNT, AT(hidden), 0, NULL},
  {"intermediate_size", COUNT, AT(intermediate), 0, NULL},
  {"num_hidden_layers", COUNT, AT(layers), 0, NULL},
  {"num_attention_heads", COUNT, AT(H), 0, NULL},
  {"num_key_value_heads", COUNT, AT(G), 0, NULL},
  {"head_dim", COUNT, AT(D), 0, NULL},
  {"vocab_size", COUNT, AT(vocab), 0, NULL},
  {"rope_theta", POSITIVE, AT(rope_theta), 0, NULL},
  {"rms_norm_eps", POSITIVE, AT(eps), 0, NULL},
  {"tie_word_embeddings", SWITCH, AT(tie), -1, NULL},
  {"rope_theta_3d", ABOVE_ONE, AT(theta_3d), 100, NULL},
  {"spatial_temporal_separate_strategy", CHOICE, AT(strategy), HALF, "half_spatial_half_temp full_spatial full_temporal custom_ratio"},
  {"spatial_ratio", RATIO, AT(ratio), -1, NULL},
  {"mixed_rope_layout", CHOICE, AT(layout), CONTIGUOUS, "contiguous interleaved"},
  {"temporal_rope", CHOICE, AT(temporal), GATHERED, "gathered native"},
  {"rope_mixed_3d", SWITCH, AT(learned), 1, NULL},
  {"mixedRoPE_3d_learned_per_axis", SWITCH, AT(per_axis), 1, NULL},
  {"mixedRoPE_3d_learned_axial_mixing_weight", SWITCH, AT(axial_weights), 1, NULL},
  {"rope_3d_kind", CHOICE, AT(kind), MIXED, "mixed axial"},
  {"coord_norm", CHOICE, AT(norm), GRID, "grid none unit_range virtual_resolution"},
  {"drift", CHOICE, AT(drift), NO_DRIFT, "none average pointwise"},
  {"virtual_resolution", POSITIVE, AT(virtual_resolution), 0, NULL},
  {"num_bins", COUNT, AT(bins), 1280, NULL},
  {"downsamplings", NATURAL, AT(downsamplings), 4, NULL},
  {"cell_size", POSITIVE, AT(cell), 0.025, NULL},
  {"reduced_grid_size", COUNT, AT(reduced_grid), 0, NULL},
  {"point_start_token_id", NATURAL, AT(start_id), 151652, NULL},
  {"point_end_token_id", NATURAL, AT(end_id), 151653, NULL},
  {"point_token_id", NATURAL, AT(pad_id), 151654, NULL},
  {"decode_mask", CHOICE, AT(decode_mask), PAD_END, "pad_end spliced"},
  {"grid_overflow", CHOICE, AT(overflow), OVERFLOW_ERROR, "error clip"},
  {"point_backbone", CHOICE, AT(backbone), NO_BACKBONE, "scenescript sonata"},
  {"point_config", OBJECT, 0, 0, NULL},
  {"projector", CHOICE, AT(projector), PROJECT_LINEAR, "linear mlp"},
  {"sonata_coord_norm", CHOICE, AT(sonata_norm), OF_GRID, "grid scene"},
  {"hidden_act", REFUSED_UNLESS, 0, 0, "silu"},
  {"rope_scaling", REFUSED_UNLESS, 0, 0, "null"},
  {"use_sliding_window", REFUSED_UNLESS, 0, 0, "false"},
};
enum { N_KNOWN = sizeof known / sizeof *known };

static bool is_real(const option *k) { return k->rule == POSITIVE || k->rule == ABOVE_ONE || k->rule == RATIO; }

static void store(options *o, const option *k, double value) {
  if (is_real(k)) *(double *)((char *)o + k->place) = value;
  else if (k->rule != REFUSED_UNLESS && k->rule != OBJECT) *(int64_t *)((char *)o + k->place) = (int64_t)value;
}

static double stored(const options *o, const option *k) {
  return is_real(k) ? *(const double *)((const char *)o + k->place) : (double)*(const int64_t *)((const char *)o + k->place);
}

/* ---- misspelt keys ---- */

/* Levenshtein's distance, 3 standing for anything above 2. */
static int distance(const char *a, const char *b) {
  int n = (int)strlen(a), m = (int)strlen(b);
  if (abs(n - m) > 2 || m > 60) return 3;
  int row[64];
  for (int j = 0; j <= m; j++) row[j] = j;
  for (int i = 1; i <= n; i++) {
    int diagonal = row[0];
    row[0] = i;
    for (int j = 1; j <= m; j++) {
      int best = diagonal + (a[i - 1] != b[j - 1]);
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      diagonal = row[j], row[j] = best;
    }
  }
  return row[m] > 2 ? 3 : row[m];
}

static bool same_letters(const char *a, const char *b) {
  for (;; a++, b++) {
    while (*a == '_' || *a == '-') a++;
    while (*b == '_' || *b == '-') b++;
    if (tolower((unsigned char)*a) != tolower((unsigned char)*b)) return false;
    if (!*a) return true;
  }
}

static const option *named(const char *key) {
  for (int i = 0; i < N_KNOWN; i++)
    if (strcmp(known[i].key, key) == 0) return &known[i];
  return NULL;
}

/* ---- values ---- */

/* Says NULL where the value keeps the rule, else what is expected. */
static const char *expectation(const option *k, const cJSON *v, double *value) {
  const bool number = cJSON_IsNumber(v);
  const double x = number ? v->valuedouble : NAN;
  const bool integer = number && x == floor(x) && fabs(x) <= 9007199254740992.0;
  *value = x;
  switch (k->rule) {
  case COUNT: return integer && x >= 1 ? NULL : "a whole number from 1";
  case NATURAL: return integer && x >= 0 ? NULL : "a whole number from 0";
  case POSITIVE: return number && x > 0 && isfinite(x) ? NULL : "a number above 0";
  case ABOVE_ONE: return number && x > 1 && isfinite(x) ? NULL : "a number above 1";
  case RATIO: return number && x >= 0 && x <= 1 ? NULL : "a number of 0 to 1";
  case OBJECT: return NULL;
  case SWITCH: *value = cJSON_IsTrue(v); return cJSON_IsBool(v) ? NULL : "true or false";
  case CHOICE: case REFUSED_UNLESS: {
    char list[128], *rest = list;
    strcpy(list, k->choices);
    *value = 0;
    for (char *one; (one = strsep(&rest, " ")); ++*value)
      if ((cJSON_IsString(v) && strcmp(v->valuestring, one) == 0) ||
          (k->rule == REFUSED_UNLESS && ((cJSON_IsFalse(v) && strcmp(one, "false") == 0) || (cJSON_IsNull(v) && strcmp(one, "null") == 0))))
        return NULL;
    return k->choices;
  }
  }
  return NULL;
}

/* Returns a message where the configuration is wrong. */
static bool wrong(const cJSON *config, options *o, char message[400]) {
  const cJSON *v;
  cJSON_ArrayForEach(v, config) {
    const option *k = named(v->string);
    for (int i = 0; !k && i < N_KNOWN; i++)
      if (same_letters(v->string, known[i].key) || distance(v->string, known[i].key) < 3) {
        snprintf(message, 400, "the configuration's key \"%.80s\" is unknown; %s is meant?", v->string, known[i].key);
        return true;
      }
    if (!k) continue;
    /* null stands for "not given" where there is no default; rope_scaling's choices name it. */
    if (cJSON_IsNull(v) && k->rule != REFUSED_UNLESS && (k->fallback < 0 || (k->fallback == 0 && k->rule != SWITCH && k->rule != CHOICE)))
      continue;
    if (k->rule == OBJECT) {
      if (wrong_encoder_sizes(v, &o->encoder, message)) return true;
      continue;
    }
    double value;
    const char *expected = expectation(k, v, &value);
    if (expected) {
      char *shown = cJSON_PrintUnformatted(v);
      snprintf(message, 400, "%s is %.80s, expected %s%s", k->key, shown, k->rule == CHOICE ? "one of " : "", expected);
      free(shown);
      return true;
    }
    store(o, k, value);
  }
  return false;
}

void parse_options(call *c) {
  options *o = &c->o;
  for (int i = 0; i < N_KNOWN; i++) store(o, &known[i], known[i].fallback);
  cJSON *config = cJSON_Parse(c->request->config);
  char message[400] = "the configuration is no JSON object";
  bool bad = !cJSON_IsObject(config) || wrong_encoder_sizes(NULL, &o->encoder, message) || wrong(config, o, message);
  cJSON_Delete(config);
  if (bad) refuse(c, "%s", message);

  if (joins_session(c)) return; /* only a part need be given, and only agree with the session's */
  if (o->H && o->G && o->H % o->G != 0)
    refuse(c, "num_attention_heads %lld is no multiple of num_key_value_heads %lld", (long long)o->H, (long long)o->G);
  if (o->downsamplings > 62 || o->bins % ((int64_t)1 << o->downsamplings) != 0)
    refuse(c, "num_bins %lld does not divide by 2^downsamplings = 2^%lld", (long long)o->bins, (long long)o->downsamplings);
  if (o->strategy == CUSTOM_RATIO && o->ratio < 0) refuse(c, "spatial_temporal_separate_strategy custom_ratio needs spatial_ratio");
  if (o->norm == VIRTUAL_RESOLUTION && o->virtual_resolution == 0) refuse(c, "coord_norm virtual_resolution needs virtual_resolution");
  if (unfit_encoder_sizes(o, message)) refuse(c, "%s", message);
  if (!o->reduced_grid) o->reduced_grid = o->bins >> o->downsamplings;
  if (!o->D && o->hidden && o->H && o->hidden % o->H == 0) o->D = o->hidden / o->H;
  if (o->D) split_head(c, o->D);
}

const char *differing_option(call *c, const options *session) {
  cJSON *config = cJSON_Parse(c->request->config);
  const char *differs = NULL;
  for (int i = 0; i < N_KNOWN && !differs; i++) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, known[i].key);
    if (v && known[i].rule == OBJECT && !cJSON_IsNull(v) && memcmp(&c->o.encoder, &session->encoder, sizeof session->encoder) != 0) differs = known[i].key;
    if (v && !cJSON_IsNull(v) && known[i].rule != REFUSED_UNLESS && known[i].rule != OBJECT && stored(&c->o, &known[i]) != stored(session, &known[i]))
      differs = known[i].key;
  }
  cJSON_Delete(config);
  return differs;
}
