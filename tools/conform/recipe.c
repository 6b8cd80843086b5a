/** Recipes: one tensor of a case, from the generator, from listed values, or from the prompt and scene files (docs/cases.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_internal.h"
#include "mr3d/config.h"
#include "mr3d/model.h"
#include "mr3d/ply.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"

typedef mr3d_status fill(const mr3d_recipe_context *, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor, mr3d_error *);
static fill fill_dist, fill_values, fill_arange, fill_runs, fill_prompt, fill_scene, fill_embeds, fill_argmax;

/** Where the values of a recipe can come from; `keys` go with it, beside shape, dtype and poke. */
static const struct source {
  const char *key;
  fill *fill;
  const char *keys;
} sources[] = {
    {"dist", fill_dist, " lo hi scale shift outliers repeat "},
    {"values", fill_values, ""},
    {"arange", fill_arange, ""},
    {"runs", fill_runs, ""},
    {"prompt", fill_prompt, ""},
    {"scene", fill_scene, ""},
    {"embeds", fill_embeds, ""},
    {"argmax", fill_argmax, ""},
};

static const cJSON *get(const cJSON *object, const char *key) { return cJSON_GetObjectItemCaseSensitive(object, key); }

static bool is_whole(const cJSON *item, double least) {
  return cJSON_IsNumber(item) && item->valuedouble >= least && item->valuedouble <= 0x1p53 && item->valuedouble == floor(item->valuedouble);
}

static bool is_listed(const char *key, const char *spaced) {
  char word[64];
  return snprintf(word, sizeof word, " %s ", key) < (int)sizeof word && strstr(spaced, word) != NULL;
}

/* ---- well-formedness ---- */

static mr3d_status find_source(const cJSON *recipe, const struct source **found, mr3d_error *error) {
  if (!cJSON_IsObject(recipe)) return mr3d_fail(error, MR3D_FORMAT, "a recipe must be a JSON object");
  const struct source *source = NULL;
  for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
    if (!get(recipe, sources[i].key)) continue;
    if (source)
      return mr3d_fail(error, MR3D_FORMAT, "a recipe has one source of values, this one has \"%s\" and \"%s\"", source->key,
                       sources[i].key);
    source = &sources[i];
  }
  if (!source) return mr3d_fail(error, MR3D_FORMAT, "a recipe needs one of dist, values, arange, runs, prompt, scene, embeds, argmax");
  for (const cJSON *item = recipe->child; item; item = item->next)
    if (!is_listed(item->string, " shape dtype poke ") && strcmp(item->string, source->key) != 0 && !is_listed(item->string, source->keys))
      return mr3d_fail(error, MR3D_FORMAT, "unknown key \"%s\" beside \"%s\"", item->string, source->key);
  *found = source;
  return MR3D_OK;
}

static mr3d_status check_shape(const cJSON *shape, mr3d_error *error) {
  if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > MR3D_MAX_RANK)
    return mr3d_fail(error, MR3D_FORMAT, "\"shape\" must be a list of at most %d sizes", MR3D_MAX_RANK);
  double count = 1;
  const cJSON *size;
  cJSON_ArrayForEach (size, shape) {
    if (!is_whole(size, 0)) return mr3d_fail(error, MR3D_FORMAT, "\"shape\" must hold whole numbers of at least 0");
    count *= size->valuedouble;
  }
  return count <= 0x1p40 ? MR3D_OK : mr3d_fail(error, MR3D_FORMAT, "\"shape\" asks for %.0f elements", count);
}

static mr3d_status check_dist(const cJSON *recipe, mr3d_error *error) {
  const cJSON *dist = get(recipe, "dist"), *outliers = get(recipe, "outliers"), *repeat = get(recipe, "repeat");
  mr3d_dist kind = cJSON_IsString(dist) ? mr3d_dist_named(dist->valuestring) : MR3D_N_DISTS;
  if (kind == MR3D_N_DISTS) return mr3d_fail(error, MR3D_FORMAT, "unknown \"dist\"; expected uniform, normal, heavy, int, const or onehot");
  bool ranged = kind == MR3D_UNIFORM || kind == MR3D_INT;
  static const char *const numbers[] = {"lo", "hi", "scale", "shift"};
  for (int i = 0; i < 4; i++) {
    const cJSON *item = get(recipe, numbers[i]);
    if (item && !cJSON_IsNumber(item)) return mr3d_fail(error, MR3D_FORMAT, "\"%s\" must be a number", numbers[i]);
    if (i < 2 && ranged != (item != NULL))
      return mr3d_fail(error, MR3D_FORMAT, "\"%s\" goes with uniform and int, and with them always", numbers[i]);
    if (i < 2 && kind == MR3D_INT && !is_whole(item, -0x1p53))
      return mr3d_fail(error, MR3D_FORMAT, "\"%s\" of int must be a whole number", numbers[i]);
  }
  if (ranged && !(get(recipe, "lo")->valuedouble <= get(recipe, "hi")->valuedouble))
    return mr3d_fail(error, MR3D_FORMAT, "\"lo\" is above \"hi\"");
  if (outliers && (!cJSON_IsObject(outliers) || cJSON_GetArraySize(outliers) != 2 || !is_whole(get(outliers, "every"), 1) ||
                   !cJSON_IsNumber(get(outliers, "by"))))
    return mr3d_fail(error, MR3D_FORMAT, "\"outliers\" must be {\"every\": whole number >= 1, \"by\": number}");
  if (repeat && !cJSON_IsBool(repeat)) return mr3d_fail(error, MR3D_FORMAT, "\"repeat\" must be true or false");
  if ((kind == MR3D_ONEHOT || cJSON_IsTrue(repeat)) && cJSON_GetArraySize(get(recipe, "shape")) < 2)
    return mr3d_fail(error, MR3D_FORMAT, "onehot and repeat need a shape of two axes at least");
  return MR3D_OK;
}

static bool poke_value(const cJSON *item, double *value) {
  static const struct {
    const char *name;
    double value;
  } names[] = {{"nan", NAN}, {"inf", INFINITY}, {"-inf", -INFINITY}, {"-0", -0.0}};
  if (cJSON_IsNumber(item)) return *value = item->valuedouble, true;
  for (int i = 0; cJSON_IsString(item) && i < 4; i++)
    if (strcmp(item->valuestring, names[i].name) == 0) return *value = names[i].value, true;
  return false;
}

static mr3d_status check_poke(const cJSON *poke, mr3d_error *error) {
  if (poke && !cJSON_IsObject(poke)) return mr3d_fail(error, MR3D_FORMAT, "\"poke\" must be an object of flat index and value");
  double value;
  for (const cJSON *item = poke ? poke->child : NULL; item; item = item->next) {
    if (!*item->string || strspn(item->string, "0123456789") != strlen(item->string) || strlen(item->string) > 15)
      return mr3d_fail(error, MR3D_FORMAT, "\"poke\" has \"%s\" where a flat index is expected", item->string);
    if (!poke_value(item, &value))
      return mr3d_fail(error, MR3D_FORMAT, "\"poke\" at %s: expected a number, nan, inf, -inf or -0", item->string);
  }
  return MR3D_OK;
}

static mr3d_status check_embeds(const cJSON *embeds, mr3d_error *error) {
  if (!cJSON_IsObject(embeds)) return mr3d_fail(error, MR3D_FORMAT, "\"embeds\" must be an object");
  for (const cJSON *item = embeds->child; item; item = item->next)
    if (!is_listed(item->string, " ids features point_counts "))
      return mr3d_fail(error, MR3D_FORMAT, "unknown key \"%s\" in \"embeds\"", item->string);
  if (mr3d_recipe_check(get(embeds, "ids"), error) != MR3D_OK) return mr3d_fail_in(error, "ids");
  if (mr3d_recipe_check(get(embeds, "features"), error) != MR3D_OK) return mr3d_fail_in(error, "features");
  const cJSON *counts = get(embeds, "point_counts"), *count;
  if (counts && !cJSON_IsArray(counts)) return mr3d_fail(error, MR3D_FORMAT, "\"point_counts\" must be a list of whole numbers");
  cJSON_ArrayForEach (count, counts)
    if (!is_whole(count, 0)) return mr3d_fail(error, MR3D_FORMAT, "\"point_counts\" must be a list of whole numbers");
  return MR3D_OK;
}

mr3d_status mr3d_recipe_check(const cJSON *recipe, mr3d_error *error) {
  const struct source *source;
  mr3d_status status = find_source(recipe, &source, error);
  if (status != MR3D_OK) return status;
  const cJSON *dtype = get(recipe, "dtype"), *value = get(recipe, source->key);
  if ((status = check_shape(get(recipe, "shape"), error)) != MR3D_OK) return status;
  if (!cJSON_IsString(dtype) || (strcmp(dtype->valuestring, "tier") != 0 && mr3d_dtype_named(dtype->valuestring) == MR3D_N_DTYPES))
    return mr3d_fail(error, MR3D_FORMAT, "\"dtype\" must be \"tier\" or a type name of safetensors, F32 for one");
  if ((status = check_poke(get(recipe, "poke"), error)) != MR3D_OK) return status;
  if (source->fill == fill_dist) return check_dist(recipe, error);
  if (source->fill == fill_embeds) return check_embeds(value, error);
  bool text = source->fill == fill_prompt || source->fill == fill_scene;
  if (text ? !cJSON_IsString(value) : !cJSON_IsArray(value))
    return mr3d_fail(error, MR3D_FORMAT, "\"%s\" must be a %s", source->key, text ? "string" : "list");
  return MR3D_OK;
}

/* ---- storing ---- */

/** Values to the tensor's type in one rounding; integers must be whole and in range, BOOL 0 or 1. */
static mr3d_status store(const double *values, mr3d_tensor *tensor, mr3d_error *error) {
  if (!mr3d_dtype_is_float(tensor->dtype)) {
    double bits = 8.0 * (double)mr3d_dtype_size(tensor->dtype), low = 0, high;
    bool is_signed = tensor->dtype == MR3D_I8 || tensor->dtype == MR3D_I16 || tensor->dtype == MR3D_I32 || tensor->dtype == MR3D_I64;
    if (tensor->dtype == MR3D_BOOL) high = 1;
    else if (is_signed) low = -ldexp(1, (int)bits - 1), high = ldexp(1, (int)bits - 1) - 1;
    else high = ldexp(1, (int)bits) - 1;
    for (int64_t i = 0, n = mr3d_tensor_count(tensor); i < n; i++)
      if (!(values[i] >= low && values[i] <= high && values[i] == floor(values[i]) && fabs(values[i]) <= 0x1p53))
        return mr3d_fail(error, MR3D_FORMAT, "value %.17g at flat index %lld does not fit type %s", values[i], (long long)i,
                         mr3d_dtype_name(tensor->dtype));
  }
  mr3d_tensor_from_double(tensor, values);
  return MR3D_OK;
}

static mr3d_status apply_poke(const cJSON *poke, mr3d_tensor *tensor, mr3d_error *error) {
  for (const cJSON *item = poke ? poke->child : NULL; item; item = item->next) {
    long long index = atoll(item->string);
    double value = 0;
    if (index >= mr3d_tensor_count(tensor))
      return mr3d_fail(error, MR3D_FORMAT, "\"poke\" at %lld, but there are %lld elements", index, (long long)mr3d_tensor_count(tensor));
    poke_value(item, &value);
    mr3d_tensor one = {.dtype = tensor->dtype, .data = (char *)tensor->data + (size_t)index * mr3d_dtype_size(tensor->dtype)};
    if (store(&value, &one, error) != MR3D_OK) return mr3d_fail_in(error, "\"poke\" at %lld", index);
  }
  return MR3D_OK;
}

mr3d_status mr3d_recipe_make(const mr3d_recipe_context *context, const cJSON *recipe, const char *name, mr3d_bundle *into,
                             mr3d_error *error) {
  const struct source *source;
  mr3d_status status = mr3d_recipe_check(recipe, error);
  if (status != MR3D_OK) return status;
  find_source(recipe, &source, error);
  const char *type = get(recipe, "dtype")->valuestring;
  mr3d_dtype dtype = strcmp(type, "tier") == 0 ? mr3d_tier_storage(context->tier) : mr3d_dtype_named(type);
  int64_t shape[MR3D_MAX_RANK];
  int rank = 0;
  const cJSON *size;
  cJSON_ArrayForEach (size, get(recipe, "shape")) shape[rank++] = (int64_t)size->valuedouble;
  mr3d_tensor *tensor = mr3d_bundle_add(into, name, dtype, rank, shape);
  status = source->fill(context, recipe, get(recipe, source->key), tensor, error);
  return status == MR3D_OK ? apply_poke(get(recipe, "poke"), tensor, error) : status;
}

/* ---- sources ---- */

static mr3d_status fill_dist(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                             mr3d_error *error) {
  const cJSON *lo = get(recipe, "lo"), *hi = get(recipe, "hi"), *scale = get(recipe, "scale"), *shift = get(recipe, "shift"),
              *outliers = get(recipe, "outliers");
  mr3d_draw draw = {.dist = mr3d_dist_named(source->valuestring),
                    .lo = lo ? lo->valuedouble : 0,
                    .hi = hi ? hi->valuedouble : 0,
                    .scale = scale ? scale->valuedouble : 1,
                    .shift = shift ? shift->valuedouble : 0,
                    .repeat = cJSON_IsTrue(get(recipe, "repeat"))};
  if (outliers) {
    draw.outlier_every = (int64_t)get(outliers, "every")->valuedouble;
    draw.outlier_by = get(outliers, "by")->valuedouble;
  }
  mr3d_stream stream = mr3d_stream_named(context->seed, context->stream);
  if (mr3d_dtype_is_float(tensor->dtype)) {
    mr3d_random_draw(&draw, stream, tensor);
    return MR3D_OK;
  }
  mr3d_tensor wide = *tensor;
  wide.dtype = MR3D_F64;
  wide.data = mr3d_allocate(mr3d_tensor_count(tensor), sizeof(double));
  mr3d_random_draw(&draw, stream, &wide);
  mr3d_status status = store(wide.data, tensor, error);
  free(wide.data);
  return status;
}

/** How many values a source gave, against the shape. */
static mr3d_status check_count(const char *key, double count, const mr3d_tensor *tensor, mr3d_error *error) {
  char shape[96];
  if (count == (double)mr3d_tensor_count(tensor)) return MR3D_OK;
  return mr3d_fail(error, MR3D_FORMAT, "\"%s\" gives %.0f values, shape %s holds %lld", key, count,
                   mr3d_shape_text(tensor->rank, tensor->shape, shape), (long long)mr3d_tensor_count(tensor));
}

static mr3d_status fill_values(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                               mr3d_error *error) {
  (void)context, (void)recipe;
  mr3d_status status = check_count("values", cJSON_GetArraySize(source), tensor, error);
  if (status != MR3D_OK) return status;
  double *values = mr3d_allocate(mr3d_tensor_count(tensor), sizeof *values);
  int64_t n = 0;
  const cJSON *item;
  cJSON_ArrayForEach (item, source) {
    if (!cJSON_IsNumber(item) && status == MR3D_OK)
      status = mr3d_fail(error, MR3D_FORMAT, "\"values\" must hold numbers (use poke for nan and inf)");
    values[n++] = item->valuedouble;
  }
  if (status == MR3D_OK) status = store(values, tensor, error);
  free(values);
  return status;
}

static mr3d_status fill_arange(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                               mr3d_error *error) {
  (void)context, (void)recipe;
  const cJSON *start = cJSON_GetArrayItem(source, 0), *step = cJSON_GetArrayItem(source, 1);
  if (cJSON_GetArraySize(source) != 2 || !cJSON_IsNumber(start) || !cJSON_IsNumber(step))
    return mr3d_fail(error, MR3D_FORMAT, "\"arange\" must be [start, step]");
  int64_t n = mr3d_tensor_count(tensor);
  double *values = mr3d_allocate(n, sizeof *values);
  for (int64_t i = 0; i < n; i++) values[i] = start->valuedouble + step->valuedouble * (double)i;
  mr3d_status status = store(values, tensor, error);
  free(values);
  return status;
}

static mr3d_status fill_runs(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                             mr3d_error *error) {
  (void)context, (void)recipe;
  const cJSON *row, *run;
  double count = 0;
  cJSON_ArrayForEach (row, source)
    cJSON_ArrayForEach (run, row) {
      if (!cJSON_IsArray(row) || !cJSON_IsArray(run) || cJSON_GetArraySize(run) != 2 || !cJSON_IsNumber(run->child) ||
          !is_whole(run->child->next, 0))
        return mr3d_fail(error, MR3D_FORMAT, "\"runs\" must be a list of rows, each a list of [value, count]");
      count += run->child->next->valuedouble;
    }
  mr3d_status status = check_count("runs", count, tensor, error);
  if (status != MR3D_OK) return status;
  double *values = mr3d_allocate(mr3d_tensor_count(tensor), sizeof *values);
  int64_t n = 0;
  cJSON_ArrayForEach (row, source)
    cJSON_ArrayForEach (run, row)
      for (int64_t i = 0, times = (int64_t)run->child->next->valuedouble; i < times; i++) values[n++] = run->child->valuedouble;
  status = store(values, tensor, error);
  free(values);
  return status;
}

static mr3d_status fill_prompt(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                               mr3d_error *error) {
  const mr3d_suite *suite = context->suite;
  if (!suite->data_dir)
    return mr3d_fail(error, MR3D_UNSUPPORTED, "needs prompt_ids.json of the data folder; give --data DIR or set MR3D_DATA");
  if (!suite->files->prompts) {
    char path[4096];
    snprintf(path, sizeof path, "%s/prompt_ids.json", suite->data_dir);
    mr3d_status status = mr3d_read_json(path, &suite->files->prompts, error);
    if (status == MR3D_IO) error->status = status = MR3D_UNSUPPORTED;
    if (status != MR3D_OK) return status;
  }
  const cJSON *ids = get(suite->files->prompts, source->valuestring);
  if (!cJSON_IsArray(ids))
    return mr3d_fail(error, MR3D_UNSUPPORTED, "%s/prompt_ids.json holds no prompt \"%s\"", suite->data_dir, source->valuestring);
  return fill_values(context, recipe, ids, tensor, error);
}

/** The canonical scene by spec.md section 7: raw rows, occupied cells, token coordinates. */
static mr3d_status load_scene(const mr3d_suite *suite, mr3d_error *error) {
  if (suite->files->scene) return MR3D_OK;
  char path[4096];
  snprintf(path, sizeof path, "%s/scene/canonical.ply", suite->golden_dir);
  mr3d_bundle *scene = NULL;
  mr3d_voxelize_out cells = {0};
  mr3d_token_coords_out tokens = {0};
  const mr3d_context context = {.op = &mr3d_reference_operators};
  mr3d_config config;
  mr3d_status status = mr3d_config_parse("{}", &config, error);
  if (status == MR3D_OK) status = mr3d_ply_open(path, &scene, error);
  if (status != MR3D_OK) return status;
  const mr3d_tensor *points = mr3d_bundle_find(scene, "points");
  double *values = mr3d_allocate(mr3d_tensor_count(points), sizeof *values);
  mr3d_tensor_to_double(points, values);
  status = mr3d_voxelize(&context, &config, points->shape[0], points->shape[1], values, &cells, error);
  if (status == MR3D_OK) status = mr3d_token_coords(&context, cells.M, cells.grid, config.downsamplings, &tokens, error);
  if (status == MR3D_OK) {
    memcpy(mr3d_bundle_add(scene, "grid", MR3D_I64, 2, (int64_t[]){cells.M, 3})->data, cells.grid, (size_t)cells.M * 3 * sizeof(int64_t));
    memcpy(mr3d_bundle_add(scene, "features", MR3D_F64, 2, (int64_t[]){cells.M, cells.columns})->data, cells.features,
           (size_t)(cells.M * cells.columns) * sizeof(double));
    memcpy(mr3d_bundle_add(scene, "coords", MR3D_I64, 2, (int64_t[]){tokens.N, 3})->data, tokens.coords,
           (size_t)tokens.N * 3 * sizeof(int64_t));
    suite->files->scene = scene;
  } else {
    mr3d_fail_in(error, "%s", path);
    mr3d_bundle_free(&scene);
  }
  free(values);
  mr3d_voxelize_free(&cells);
  mr3d_token_coords_free(&tokens);
  return status;
}

static mr3d_status fill_scene(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                              mr3d_error *error) {
  (void)recipe;
  mr3d_status status = load_scene(context->suite, error);
  if (status != MR3D_OK) return status;
  const mr3d_tensor *part = mr3d_bundle_find(context->suite->files->scene, source->valuestring);
  if (!part) return mr3d_fail(error, MR3D_FORMAT, "\"scene\" is \"%s\"; expected points, grid, features or coords", source->valuestring);
  if ((status = check_count("scene", (double)mr3d_tensor_count(part), tensor, error)) != MR3D_OK) return status;
  double *values = mr3d_allocate(mr3d_tensor_count(part), sizeof *values);
  mr3d_tensor_to_double(part, values);
  status = store(values, tensor, error);
  free(values);
  return status;
}

/** A part of an `embeds` recipe, on its own stream. */
static mr3d_status make_part(const mr3d_recipe_context *context, const cJSON *embeds, const char *part, mr3d_bundle *into,
                             mr3d_error *error) {
  char stream[600];
  snprintf(stream, sizeof stream, "%s.%s", context->stream, part);
  mr3d_recipe_context inner = *context;
  inner.stream = stream;
  mr3d_status status = mr3d_recipe_make(&inner, get(embeds, part), part, into, error);
  return status == MR3D_OK ? status : mr3d_fail_in(error, "%s", part);
}

/** Splices the ids as spec.md section 2 says: where each row of the sequence comes from. */
static mr3d_status splice_ids(const char *config_text, const mr3d_tensor *ids, const mr3d_tensor *features, const cJSON *counts,
                              mr3d_splice_out *out, mr3d_error *error) {
  mr3d_config config;
  mr3d_status status = mr3d_config_parse(config_text, &config, error);
  if (status != MR3D_OK) return status;
  int64_t B = ids->shape[0], T = ids->shape[1];
  int64_t *ones = mr3d_allocate(B * T, sizeof *ones), *point_counts = mr3d_allocate(B, sizeof *point_counts);
  for (int64_t i = 0; i < B * T; i++) ones[i] = 1;
  for (int64_t b = 0; b < B && status == MR3D_OK; b++) {
    point_counts[b] = counts ? (int64_t)cJSON_GetArrayItem(counts, (int)b)->valuedouble : features->shape[1];
    if (point_counts[b] > features->shape[1])
      status = mr3d_fail(error, MR3D_FORMAT, "\"point_counts\" of sample %lld is %lld, features hold %lld rows", (long long)b,
                         (long long)point_counts[b], (long long)features->shape[1]);
  }
  const mr3d_context context = {.op = &mr3d_reference_operators};
  const mr3d_splice_in in = {.B = B,
                             .T = T,
                             .input_ids = ids->data,
                             .attention_mask = ones,
                             .point_counts = point_counts,
                             .point_start_token_id = config.point_start_token_id,
                             .point_end_token_id = config.point_end_token_id};
  if (status == MR3D_OK) status = mr3d_splice(&context, &in, out, error);
  free(ones);
  free(point_counts);
  return status;
}

static mr3d_status fill_embeds(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                               mr3d_error *error) {
  (void)recipe;
  mr3d_bundle *parts = mr3d_bundle_new(), *weights = NULL;
  mr3d_splice_out splice = {0};
  mr3d_status status =
      context->weights_path ? MR3D_OK : mr3d_fail(error, MR3D_FORMAT, "\"embeds\" needs a case with a weight set, in a prefill step");
  if (status == MR3D_OK) status = make_part(context, source, "ids", parts, error);
  if (status == MR3D_OK) status = make_part(context, source, "features", parts, error);
  if (status == MR3D_OK) status = mr3d_safetensors_open(context->weights_path, 0, &weights, error);
  const mr3d_tensor *ids = mr3d_bundle_find(parts, "ids"), *features = mr3d_bundle_find(parts, "features");
  const mr3d_tensor *table = weights ? mr3d_bundle_find(weights, "model.embed_tokens.weight") : NULL;
  const cJSON *counts = get(source, "point_counts");
  if (status == MR3D_OK &&
      (!table || table->rank != 2 || ids->rank != 2 || ids->dtype != MR3D_I64 || features->rank != 3 ||
       features->shape[0] != ids->shape[0] || features->shape[2] != table->shape[1] || features->dtype != tensor->dtype ||
       table->dtype != tensor->dtype || (counts && cJSON_GetArraySize(counts) != ids->shape[0])))
    status = mr3d_fail(error, MR3D_FORMAT,
                       "\"embeds\" needs ids [B,T] I64, features [B,N,hidden], a count a sample, model.embed_tokens.weight [V,hidden], all "
                       "of the tensor's type");
  if (status == MR3D_OK) status = splice_ids(context->config, ids, features, counts, &splice, error);
  if (status == MR3D_OK &&
      (tensor->rank != 3 || tensor->shape[0] != ids->shape[0] || tensor->shape[1] != splice.S || tensor->shape[2] != table->shape[1]))
    status = mr3d_fail(error, MR3D_FORMAT, "\"embeds\" gives shape [%lld,%lld,%lld]", (long long)ids->shape[0], (long long)splice.S,
                       (long long)table->shape[1]);
  if (status == MR3D_OK) {
    int64_t T = ids->shape[1], N = features->shape[1];
    size_t row = (size_t)table->shape[1] * mr3d_dtype_size(tensor->dtype);
    for (int64_t b = 0, at = 0; b < ids->shape[0] && status == MR3D_OK; b++)
      for (int64_t s = 0; s < splice.S && status == MR3D_OK; s++, at++) {
        int64_t from = splice.source[at], id = from >= 0 ? ((const int64_t *)ids->data)[b * T + from] : 0;
        if (id < 0 || id >= table->shape[0])
          status = mr3d_fail(error, MR3D_FORMAT, "id %lld of sample %lld is outside the vocabulary of %lld", (long long)id, (long long)b,
                             (long long)table->shape[0]);
        else
          memcpy(
              (char *)tensor->data + (size_t)at * row,
              from >= 0 ? (const char *)table->data + (size_t)id * row : (const char *)features->data + (size_t)(b * N + (-1 - from)) * row,
              row);
      }
    mr3d_splice_free(&splice);
  }
  mr3d_bundle_free(&weights);
  mr3d_bundle_free(&parts);
  return status;
}

static mr3d_status fill_argmax(const mr3d_recipe_context *context, const cJSON *recipe, const cJSON *source, mr3d_tensor *tensor,
                               mr3d_error *error) {
  (void)recipe;
  int step = is_whole(source->child, 0) && cJSON_GetArraySize(source) == 1 ? (int)source->child->valuedouble : context->n_truth;
  const mr3d_tensor *logits =
      step < context->n_truth && context->truth && context->truth[step] ? mr3d_bundle_find(context->truth[step], "logits") : NULL;
  if (!logits || logits->rank != 3 || logits->shape[1] < 1)
    return mr3d_fail(error, MR3D_FORMAT, "\"argmax\" must be [STEP], an earlier step that gives logits");
  int64_t B = logits->shape[0];
  mr3d_status status = check_count("argmax", (double)B, tensor, error);
  if (status != MR3D_OK) return status;
  double *greedy = mr3d_allocate(B, sizeof *greedy);
  mr3d_greedy_tokens(logits, greedy);
  status = store(greedy, tensor, error);
  free(greedy);
  return status;
}

void mr3d_greedy_tokens(const mr3d_tensor *logits, double *tokens) {
  int64_t B = logits->shape[0], K = logits->shape[1], V = logits->shape[2];
  double *values = mr3d_allocate(mr3d_tensor_count(logits), sizeof *values);
  mr3d_tensor_to_double(logits, values);
  for (int64_t b = 0; b < B; b++) {
    const double *row = values + (b * K + K - 1) * V;
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
      if (row[v] > row[best]) best = v;
    tokens[b] = (double)best;
  }
  free(values);
}
