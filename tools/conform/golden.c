#include "golden.h"

#include <dirent.h>
#include <float.h>
#include <math.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_internal.h"
#include "file.h"
#include "json.h"
#include "mr3d/config.h"
#include "mr3d/model.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"

#define SCENE_PATH "scene/canonical.ply" /* below the golden set's folder; the manifest lists it among other_files */

struct mr3d_golden {
  mr3d_bundle *file;
};

/* ---- integrity ---- */

/** SHA-256 in hexadecimal of a file's bytes, and its size. */
static mr3d_status digest_file(const char *path, char hex[65], size_t *size, mr3d_error *error) {
  void *bytes;
  mr3d_status status = mr3d_map(path, &bytes, size, error);
  if (status != MR3D_OK) return status;
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(digest, bytes, *size);
  sodium_bin2hex(hex, 65, digest, sizeof digest);
  mr3d_unmap(bytes, *size);
  return MR3D_OK;
}

/** The file's place below golden_dir: "set/rope1d_canonical.safetensors.gz". */
static void golden_path(const char *id, char *path, size_t size) {
  snprintf(path, size, "set/%s.safetensors.gz", id);
  for (char *c = path + 4; *c; c++)
    if (*c == '/') *c = '_';
}

static const char *text_in(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsString(item) ? item->valuestring : NULL;
}

/** The manifest's two lists: the goldens below set/, and what else cases and tests read, anywhere below golden_dir. */
static const cJSON *listed(const cJSON *manifest, bool goldens) {
  return cJSON_GetObjectItemCaseSensitive(manifest, goldens ? "files" : "other_files");
}

/** One entry of the manifest against the file it lists. */
static mr3d_status check_entry(const char *golden_dir, const cJSON *entry, bool golden, mr3d_error *error) {
  const char *path = text_in(entry, "path"), *sha256 = text_in(entry, "sha256");
  int64_t bytes;
  if (!path || !sha256 || !mr3d_json_is_count(cJSON_GetObjectItemCaseSensitive(entry, "bytes"), &bytes))
    return mr3d_fail(error, MR3D_FORMAT, "manifest.json: an entry lacks path, sha256 or bytes");
  if (golden && (strncmp(path, "set/", 4) != 0 || strchr(path + 4, '/')))
    return mr3d_fail(error, MR3D_FORMAT, "manifest.json: path \"%s\" is not directly below set/", path);
  if (path[0] == '/' || strstr(path, ".."))
    return mr3d_fail(error, MR3D_FORMAT, "manifest.json: path \"%s\" is not below the golden set's folder", path);
  char full[4096], hex[65];
  size_t size;
  snprintf(full, sizeof full, "%s/%s", golden_dir, path);
  mr3d_error inner = {0};
  if (digest_file(full, hex, &size, &inner) != MR3D_OK)
    return mr3d_fail(error, MR3D_FORMAT, "%s is listed in manifest.json but cannot be read (%s); restore it from version control", path,
                     inner.message);
  if (size != (size_t)bytes)
    return mr3d_fail(error, MR3D_FORMAT, "%s has %zu bytes, manifest.json says %lld: the file was changed; restore it from version control",
                     path, size, (long long)bytes);
  if (strcmp(hex, sha256) != 0)
    return mr3d_fail(error, MR3D_FORMAT, "%s has SHA-256 %.16s..., manifest.json says %.16s...: the file was changed; restore it from version "
                     "control", path, hex, sha256);
  return MR3D_OK;
}

static mr3d_status read_manifest(const char *golden_dir, cJSON **manifest, mr3d_error *error) {
  char path[4096];
  snprintf(path, sizeof path, "%s/manifest.json", golden_dir);
  mr3d_status status = mr3d_read_json(path, manifest, error);
  if (status != MR3D_OK) return status;
  const cJSON *format = cJSON_GetObjectItemCaseSensitive(*manifest, "format"),
              *files = listed(*manifest, true), *others = listed(*manifest, false), *entry;
  bool good = cJSON_IsNumber(format) && format->valuedouble == 1 && cJSON_IsArray(files) && text_in(*manifest, "cases_sha256");
  good = good && (!others || cJSON_IsArray(others));
  cJSON_ArrayForEach (entry, files) good = good && text_in(entry, "path") && text_in(entry, "case");
  cJSON_ArrayForEach (entry, others) good = good && text_in(entry, "path");
  if (good) return MR3D_OK;
  cJSON_Delete(*manifest);
  *manifest = NULL;
  return mr3d_fail(error, MR3D_FORMAT,
                   "%s: expected format 1, cases_sha256, files that each have path and case, and other_files, if any, that have path", path);
}

static const cJSON *entry_of(const cJSON *list, const char *key, const char *value) {
  const cJSON *entry;
  cJSON_ArrayForEach (entry, list)
    if (strcmp(text_in(entry, key), value) == 0) return entry;
  return NULL;
}

struct complaints {
  void (*report)(void *user, const char *line);
  void *user;
  int count;
  char first[1024];
};

static void complain(struct complaints *, const char *format, ...) MR3D_PRINTF(2, 3);
static void complain(struct complaints *to, const char *format, ...) {
  char line[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (to->count++ == 0) memcpy(to->first, line, sizeof line);
  if (to->report) to->report(to->user, line);
}

/** Files in a subfolder, set or scene, that its list does not have. */
static void check_unlisted(const char *golden_dir, const char *subfolder, const cJSON *list, struct complaints *to) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", golden_dir, subfolder);
  DIR *folder = opendir(path);
  for (struct dirent *file; folder && (file = readdir(folder));) {
    char name[300];
    snprintf(name, sizeof name, "%s/%s", subfolder, file->d_name);
    if (strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0 || entry_of(list, "path", name)) continue;
    complain(to, "%s is not listed in manifest.json; remove it, or regenerate the set with golden/generate.py", name);
  }
  if (folder) closedir(folder);
}

/** Whether a recipe somewhere in `json` draws from the scene. */
static bool draws_from_scene(const cJSON *json) {
  const cJSON *child;
  bool found = cJSON_IsObject(json) && text_in(json, "scene") && cJSON_GetObjectItemCaseSensitive(json, "dtype");
  cJSON_ArrayForEach (child, json) found = found || draws_from_scene(child);
  return found;
}

/** Cases and goldens belong together one to one. */
static void check_cases(const char *golden_dir, const cJSON *manifest, struct complaints *to) {
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(golden_dir, NULL, &suite, &error) != MR3D_OK) {
    complain(to, "%s", error.message);
    return;
  }
  char path[4096], hex[65];
  size_t size;
  snprintf(path, sizeof path, "%s/cases.json", golden_dir);
  if (digest_file(path, hex, &size, &error) != MR3D_OK) complain(to, "%s", error.message);
  else if (strcmp(hex, text_in(manifest, "cases_sha256")) != 0)
    complain(to,
             "cases.json has SHA-256 %.16s..., manifest.json says %.16s...: the cases were changed after the goldens were made; regenerate "
             "with golden/generate.py",
             hex, text_in(manifest, "cases_sha256"));
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const char *id = mr3d_suite_at(suite, i)->id;
    golden_path(id, path, sizeof path);
    const cJSON *entry = entry_of(listed(manifest, true), "case", id);
    if (entry && strcmp(text_in(entry, "path"), path) == 0) continue;
    complain(to, "case %s has no golden: manifest.json does not list %s", id, path);
  }
  if (draws_from_scene(suite->root) && !entry_of(listed(manifest, false), "path", SCENE_PATH))
    complain(to, "cases read %s, which manifest.json does not list; run golden/generate.py", SCENE_PATH);
  const cJSON *entry;
  cJSON_ArrayForEach (entry, listed(manifest, true)) {
    if (mr3d_suite_find(suite, text_in(entry, "case"))) continue;
    complain(to, "%s belongs to case %s, which cases.json does not have", text_in(entry, "path"), text_in(entry, "case"));
  }
  mr3d_suite_close(&suite);
}

mr3d_status mr3d_golden_verify(const char *golden_dir, void (*report)(void *user, const char *line), void *user, int *n_files,
                               mr3d_error *error) {
  cJSON *manifest = NULL;
  mr3d_status status = read_manifest(golden_dir, &manifest, error);
  if (status != MR3D_OK) return status;
  struct complaints to = {report, user, 0, ""};
  const cJSON *entry;
  mr3d_error inner = {0};
  int count = 0;
  for (int goldens = 1; goldens >= 0; goldens--) {
    const cJSON *list = listed(manifest, goldens);
    cJSON_ArrayForEach (entry, list)
      if (check_entry(golden_dir, entry, goldens, &inner) != MR3D_OK) complain(&to, "%s", inner.message);
    check_unlisted(golden_dir, goldens ? "set" : "scene", list, &to);
    count += cJSON_GetArraySize(list);
  }
  check_cases(golden_dir, manifest, &to);
  if (cJSON_GetArraySize(listed(manifest, true)) == 0) complain(&to, "manifest.json lists no file");
  cJSON_Delete(manifest);
  if (to.count)
    return mr3d_fail(error, MR3D_FORMAT, "the golden set in %s is damaged (%d problem%s): %.600s", golden_dir, to.count,
                     to.count == 1 ? "" : "s", to.first);
  if (n_files) *n_files = count;
  return MR3D_OK;
}

mr3d_status mr3d_golden_open(const mr3d_suite *suite, const mr3d_case *test, mr3d_golden **golden, mr3d_error *error) {
  mr3d_status status = suite->files->manifest ? MR3D_OK : read_manifest(suite->golden_dir, &suite->files->manifest, error);
  if (status != MR3D_OK) return status;
  char path[600], full[4096];
  golden_path(test->id, path, sizeof path);
  const cJSON *entry = entry_of(listed(suite->files->manifest, true), "path", path);
  if (!entry) return mr3d_fail(error, MR3D_FORMAT, "case %s has no golden: manifest.json does not list %s", test->id, path);
  if ((status = check_entry(suite->golden_dir, entry, true, error)) != MR3D_OK) return status;
  snprintf(full, sizeof full, "%s/%s", suite->golden_dir, path);
  mr3d_bundle *file;
  if ((status = mr3d_safetensors_open(full, 0, &file, error)) != MR3D_OK) return status;
  const char *id = mr3d_bundle_get(file, "case");
  if (!id || strcmp(id, test->id) != 0) {
    status = mr3d_fail(error, MR3D_FORMAT, "%s says it is of case \"%s\", not %s", path, id ? id : "", test->id);
    mr3d_bundle_free(&file);
    return status;
  }
  *golden = mr3d_allocate(1, sizeof **golden);
  (*golden)->file = file;
  return MR3D_OK;
}

void mr3d_golden_close(mr3d_golden **golden) {
  if (!*golden) return;
  mr3d_bundle_free(&(*golden)->file);
  free(*golden);
  *golden = NULL;
}

const char *mr3d_golden_tokens(const mr3d_golden *golden, int *step) {
  for (int i = 0; i < mr3d_bundle_meta_count(golden->file); i++) {
    const char *key, *value;
    int number, end = 0;
    mr3d_bundle_meta_at(golden->file, i, &key, &value);
    if (sscanf(key, "%d.tokens%n", &number, &end) != 1 || !end || key[end]) continue;
    if (step) *step = number;
    return value;
  }
  return NULL;
}

/* ---- agreement ---- */

/** Largest angle of one side's 3D rotation: max over heads, bins and points of sum over axes |w f c|. */
static double largest_turn(const mr3d_tensor *freqs, const mr3d_tensor *weights, int64_t rows, const double *coords) {
  double *f = NULL, *w = NULL, largest = 0;
  int64_t bins = 1, axes = 1; /* bins: heads * F together */
  if (freqs && freqs->rank >= 2) {
    axes = freqs->shape[0];
    bins = axes ? mr3d_tensor_count(freqs) / axes : 0;
    mr3d_tensor_to_double(freqs, f = mr3d_allocate(mr3d_tensor_count(freqs), sizeof *f));
    if (weights && mr3d_tensor_count(weights) == 3 * bins) mr3d_tensor_to_double(weights, w = mr3d_allocate(3 * bins, sizeof *w));
  }
  for (int64_t n = 0; n < rows; n++)
    for (int64_t bin = 0; bin < bins; bin++) {
      double angle = 0;
      for (int64_t a = 0; a < 3; a++)
        angle += fabs((w ? w[3 * bin + a] : 1) * (f ? f[(axes == 3 ? a * bins : 0) + bin] : 1) * coords[3 * n + a]);
      if (angle > largest) largest = angle;
    }
  free(f);
  free(w);
  return largest;
}

/** The largest angle, in radians, by which a request rotates anything (no frequency of either rotation exceeds the first, 1, unless it is
 * learned). */
static double largest_angle(const mr3d_bundle *request) {
  double largest = 0;
  const mr3d_tensor *positions = mr3d_bundle_find(request, "position_ids"), *past = mr3d_bundle_find(request, "past_key"),
                    *rows = mr3d_bundle_find(request, "hidden"), *coords = mr3d_bundle_find(request, "point_coords"),
                    *counts = mr3d_bundle_find(request, "point_counts");
  if (!rows) rows = mr3d_bundle_find(request, "query");
  if (positions) {
    int64_t n = mr3d_tensor_count(positions);
    double *values = mr3d_allocate(n, sizeof *values);
    mr3d_tensor_to_double(positions, values);
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(values[i]));
    free(values);
  } else if (rows && rows->rank >= 3) {
    largest = (double)((past && past->rank == 4 ? past->shape[2] : 0) + rows->shape[rows->rank - 2]);
  }
  const char *op = mr3d_bundle_get(request, "op"), *config_text = mr3d_bundle_get(request, "config");
  bool raw = op && strcmp(op, "cis3d") == 0; /* takes its coordinates as they are */
  if (raw) coords = mr3d_bundle_find(request, "coords");
  if (!coords || coords->rank < 2) return largest;

  int64_t n = mr3d_tensor_count(coords) / 3;
  double *values = mr3d_allocate(3 * n, sizeof *values), *normalised = mr3d_allocate(3 * n, sizeof *values);
  mr3d_tensor_to_double(coords, values);
  mr3d_config config;
  const mr3d_context context = {.op = &mr3d_reference_operators};
  const mr3d_normalize_coords_in in = {.B = coords->rank == 3 ? coords->shape[0] : 1,
                                       .N = coords->shape[coords->rank - 2],
                                       .coords = values,
                                       .point_counts = counts ? counts->data : NULL};
  if (raw || !config_text || mr3d_config_parse(config_text, &config, NULL) != MR3D_OK ||
      mr3d_normalize_coords(&context, &config, &in, normalised, NULL) != MR3D_OK)
    memcpy(normalised, values, (size_t)(3 * n) * sizeof *values);
  static const char *const names[][2] = {{"freqs", "axial_weights"},
                                         {"freqs_q", "axial_weights_q"},
                                         {"freqs_kv", "axial_weights_kv"},
                                         {"self_attn.freqs_3d_q", "self_attn.axial_weights_3d_q"},
                                         {"self_attn.freqs_3d_kv", "self_attn.axial_weights_3d_kv"}};
  double turn = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const mr3d_tensor *freqs = mr3d_bundle_find(request, names[i][0]);
    if (freqs) turn = fmax(turn, largest_turn(freqs, mr3d_bundle_find(request, names[i][1]), n, normalised));
  }
  if (turn == 0) turn = largest_turn(NULL, NULL, n, normalised);
  free(values);
  free(normalised);
  return fmax(largest, turn);
}

static bool rotates(const char *op) {
  static const char *const ops[] = {"rope1d", "cis3d", "mixed_rope", "attention_block", "decoder_layer"};
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
    if (strcmp(op, ops[i]) == 0) return true;
  return false;
}

/** One comparison under way. */
struct comparison {
  const mr3d_bundle *request, *answer;
  const char *op;
  const mr3d_tensor *tensor; /**< the reference's output */
  double *values;            /**< it, in binary64 */
  const mr3d_tensor *skip;   /**< rows that belong to padding, or NULL */
  double relative, angle;    /**< allowed over scale; the largest angle, computed when first needed, -1 before */
  double worst;
};

/** Whether element i belongs to padding: `skip` is [B,q] for [B,q,..] and [B,1,K] for [B,G,K,D]. */
static bool is_padding(const struct comparison *c, int64_t i) {
  if (!c->skip) return false;
  const mr3d_tensor *t = c->tensor, *s = c->skip;
  int64_t index[MR3D_MAX_RANK], flat = 0;
  for (int a = t->rank - 1; a >= 0; a--) index[a] = i % t->shape[a], i /= t->shape[a];
  for (int a = 0; a < s->rank; a++) flat = flat * s->shape[a] + (s->shape[a] == 1 ? 0 : index[a]);
  return ((const bool *)s->data)[flat];
}

/** Checks |got - expected| <= allowed * scale; `what` and `index` say where. */
static mr3d_status check_value(struct comparison *c, double got, double expected, double scale, double widen, const char *what,
                               int64_t index, mr3d_error *error) {
  double difference = fabs(got - expected), bound = c->relative * scale * widen;
  if (difference == 0) return MR3D_OK;
  if (!(difference <= bound) && rotates(c->op)) {
    if (c->angle < 0) c->angle = largest_angle(c->request);
    bound += 0x1p-51 * c->angle * scale * widen;
  }
  double over = difference / (scale * widen);
  if (!(over <= c->worst)) c->worst = over;
  if (difference <= bound) return MR3D_OK;
  char shape[96];
  return mr3d_fail(
      error, MR3D_INVALID,
      "reference and golden part: %s of %s %s, %s %lld: the reference gives %.17g, PyTorch gave %.17g, difference %.3g, allowed %.3g",
      c->tensor->name, c->op, mr3d_shape_text(c->tensor->rank, c->tensor->shape, shape), what, (long long)index, got, expected, difference,
      bound);
}

static mr3d_status compare_whole(struct comparison *c, const mr3d_tensor *golden, mr3d_error *error) {
  char shape[2][96];
  int64_t n = mr3d_tensor_count(golden);
  if (golden->rank != c->tensor->rank || memcmp(golden->shape, c->tensor->shape, (size_t)golden->rank * sizeof *golden->shape) != 0)
    return mr3d_fail(error, MR3D_INVALID, "reference and golden part: %s has shape %s, the golden %s", c->tensor->name,
                     mr3d_shape_text(c->tensor->rank, c->tensor->shape, shape[0]), mr3d_shape_text(golden->rank, golden->shape, shape[1]));
  double *expected = mr3d_allocate(n, sizeof *expected), scale = 0;
  mr3d_tensor_to_double(golden, expected);
  bool exact = !mr3d_dtype_is_float(golden->dtype);
  for (int64_t i = 0; i < n && !exact; i++)
    if (!is_padding(c, i)) scale = fmax(scale, fabs(expected[i]));
  mr3d_status status = MR3D_OK;
  for (int64_t i = 0; i < n && status == MR3D_OK; i++)
    if (!is_padding(c, i)) status = check_value(c, c->values[i], expected[i], scale, 1, "flat index", i, error);
  free(expected);
  return status;
}

static mr3d_status compare_rows(struct comparison *c, const mr3d_tensor *rows, const mr3d_tensor *row_index, const mr3d_tensor *digest,
                                mr3d_error *error) {
  int64_t C = rows->rank == 2 ? rows->shape[1] : 0, n = rows->rank == 2 ? rows->shape[0] : 0, count = mr3d_tensor_count(c->tensor);
  if (C < 1 || count % C || !row_index || row_index->dtype != MR3D_I64 || mr3d_tensor_count(row_index) != n || !digest ||
      digest->rank != 2 || digest->shape[1] != C)
    return mr3d_fail(error, MR3D_INVALID, "golden rows, row_index and digest of %s do not fit its %lld elements", c->tensor->name,
                     (long long)count);
  int64_t R = count / C;
  double *expected = mr3d_allocate(n * C, sizeof *expected), *sums = mr3d_allocate(digest->shape[0] * C, sizeof *sums),
         *sum = mr3d_allocate(C, sizeof *sum), scale = 0;
  mr3d_tensor_to_double(rows, expected);
  mr3d_tensor_to_double(digest, sums);
  for (int64_t i = 0; i < n * C; i++) scale = fmax(scale, fabs(expected[i]));
  mr3d_status status = MR3D_OK;
  for (int64_t i = 0; i < n * C && status == MR3D_OK; i++) {
    int64_t r = ((const int64_t *)row_index->data)[i / C];
    if (r < 0 || r >= R)
      status = mr3d_fail(error, MR3D_INVALID, "golden row_index of %s holds %lld, there are %lld rows", c->tensor->name, (long long)r,
                         (long long)R);
    else if (!is_padding(c, r * C + i % C))
      status = check_value(c, c->values[r * C + i % C], expected[i], scale, 1, "flat index", r * C + i % C, error);
  }
  for (int64_t k = 0; k < digest->shape[0] && status == MR3D_OK; k++) {
    char name[32];
    snprintf(name, sizeof name, "digest/%lld", (long long)k);
    mr3d_stream stream = mr3d_stream_named(0, name);
    memset(sum, 0, (size_t)C * sizeof *sum);
    for (int64_t r = 0; r < R; r++) {
      double sign = mr3d_random_raw(stream, (uint64_t)r) % 2 ? -1 : 1;
      for (int64_t i = 0; i < C; i++) sum[i] += sign * c->values[r * C + i];
    }
    for (int64_t i = 0; i < C && status == MR3D_OK; i++)
      status = check_value(c, sum[i], sums[k * C + i], scale, sqrt((double)R), "digest column", i, error);
  }
  free(expected);
  free(sums);
  free(sum);
  return status;
}

static mr3d_status compare_output(struct comparison *c, const mr3d_bundle *file, int step, mr3d_error *error) {
  char name[160];
  snprintf(name, sizeof name, "%d.%s", step, c->tensor->name);
  const mr3d_tensor *whole = mr3d_bundle_find(file, name);
  snprintf(name, sizeof name, "%d.%s.rows", step, c->tensor->name);
  const mr3d_tensor *rows = mr3d_bundle_find(file, name);
  if (!whole && !rows)
    return mr3d_fail(error, MR3D_INVALID, "reference and golden part: the reference answers \"%s\", the golden has no such tensor",
                     c->tensor->name);
  snprintf(name, sizeof name, "skip:%s", c->tensor->name);
  c->skip = mr3d_bundle_find(c->answer, name);
  c->values = mr3d_allocate(mr3d_tensor_count(c->tensor), sizeof *c->values);
  mr3d_tensor_to_double(c->tensor, c->values);
  mr3d_status status;
  if (whole) status = compare_whole(c, whole, error);
  else {
    snprintf(name, sizeof name, "%d.%s.row_index", step, c->tensor->name);
    const mr3d_tensor *row_index = mr3d_bundle_find(file, name);
    snprintf(name, sizeof name, "%d.%s.digest", step, c->tensor->name);
    status = compare_rows(c, rows, row_index, mr3d_bundle_find(file, name), error);
  }
  free(c->values);
  return status;
}

/** Every output the golden has of this step must be among the answer's. */
static mr3d_status check_none_missing(const mr3d_bundle *file, int step, const mr3d_bundle *answer, mr3d_error *error) {
  for (int i = 0; i < mr3d_bundle_count(file); i++) {
    char name[128];
    int number, end = 0;
    if (sscanf(mr3d_bundle_at(file, i)->name, "%d.%127[^.]%n", &number, name, &end) != 2 || number != step) continue;
    if (strcmp(name, "trace") == 0) continue; /* comes with the answer only where the request asked for it */
    if (!mr3d_bundle_find(answer, name))
      return mr3d_fail(error, MR3D_INVALID, "reference and golden part: the golden has \"%s\", the reference does not answer it", name);
  }
  return MR3D_OK;
}

mr3d_status mr3d_golden_compare(const mr3d_golden *golden, const mr3d_case *test, int step, const mr3d_bundle *request,
                                const mr3d_bundle *answer, double *worst, mr3d_error *error) {
  char key[32];
  snprintf(key, sizeof key, "%d.error", step);
  const char *refused = mr3d_bundle_get(golden->file, key);
  if (refused && answer)
    return mr3d_fail(error, MR3D_INVALID, "reference and golden part: the reference answers step %d, PyTorch refused it", step);
  if (!refused && !answer)
    return mr3d_fail(error, MR3D_INVALID, "reference and golden part: the reference refuses step %d, PyTorch answered it", step);
  if (worst) *worst = 0;
  if (!answer) return MR3D_OK;

  struct comparison c = {.request = request, .answer = answer, .op = test->steps[step].op, .angle = -1};
  c.relative = strcmp(test->level, "L3") == 0 || strcmp(test->level, "L4") == 0 ? 1e-10 : 1e-12;
  mr3d_status status = check_none_missing(golden->file, step, answer, error);
  for (int i = 0; i < mr3d_bundle_count(answer) && status == MR3D_OK; i++) {
    c.tensor = mr3d_bundle_at(answer, i);
    if (!strchr(c.tensor->name, ':')) status = compare_output(&c, golden->file, step, error);
  }
  if (status == MR3D_OK && worst) *worst = c.worst;
  return status;
}
