/** A golden set small enough to break on purpose, in a folder of its own: what the tests of cases, goldens, runner, reports and commands
 * share. */
#ifndef MR3D_TEST_SMALL_SUITE_H
#define MR3D_TEST_SMALL_SUITE_H

#include <sodium.h>
#include <sys/stat.h>

#include "../folder.h"
#include "../suite.h"
#include "case_internal.h"
#include "golden.h"

static inline void write_text(const char *folder, const char *name, const char *text) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
  assert_int_equal(fclose(file), 0);
}

/** Fresh memory with a file's bytes; a zero follows them. */
static inline char *read_bytes(const char *folder, const char *name, size_t *size) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) fail_msg("%s cannot be read", path);
  char *bytes = NULL;
  size_t n = 0;
  FILE *memory = open_memstream(&bytes, &n);
  for (int c; (c = fgetc(file)) != EOF;) fputc(c, memory);
  fclose(memory);
  fclose(file);
  if (size) *size = n;
  return bytes;
}

static inline void flip_byte(const char *folder, const char *name, size_t at) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "r+b");
  assert_non_null(file);
  assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
  int c = fgetc(file);
  assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
  fputc(c ^ 1, file);
  fclose(file);
}

static inline void hex_of(const void *bytes, size_t size, char hex[65]) {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(digest, bytes, size);
  sodium_bin2hex(hex, 65, digest, sizeof digest);
}

#define RMSNORM_CONFIG "{\"rms_norm_eps\": 1e-6}"
#define X_RECIPE "{\"shape\": [2, 8], \"dtype\": \"tier\", \"dist\": \"normal\"}"
#define W_RECIPE "{\"shape\": [8], \"dtype\": \"tier\", \"dist\": \"uniform\", \"lo\": 0.5, \"hi\": 2}"

/** The text of a case on rmsnorm; `more` is put in front of its steps, `step` among the step's keys, both with a comma behind. */
#define RMSNORM_CASE(id, more, step)                                                                                                       \
  "{\"id\": \"rmsnorm/" id                                                                                                                 \
  "\", \"title\": \"rmsnorm of two rows\", \"why\": \"a test\", \"level\": \"L0\", \"pitfalls\": [\"qwen2-details\"], "                    \
  "\"tags\": [\"small\"], \"config\": " RMSNORM_CONFIG ", " more "\"steps\": [{\"op\": \"rmsnorm\", " step "\"inputs\": {\"x\": " X_RECIPE \
  ", \"weight\": " W_RECIPE "}}]}"

/** One that must be refused: the weight is one too short. */
#define REFUSED_CASE(id, step)                                                                                           \
  "{\"id\": \"rmsnorm/" id                                                                                               \
  "\", \"title\": \"a short weight\", \"why\": \"a test\", \"level\": \"L0\", \"pitfalls\": [], \"tags\": [\"error\"], " \
  "\"config\": " RMSNORM_CONFIG ", \"steps\": [{\"op\": \"rmsnorm\", " step                                              \
  "\"expect\": \"error\", \"message\": [\"weight\", \"7\"], \"inputs\": {\"x\": " X_RECIPE                               \
  ", \"weight\": {\"shape\": [7], \"dtype\": \"tier\", \"dist\": \"const\"}}}]}"

static inline void write_cases(const char *folder, const char *cases) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  fprintf(file, "{\"format\": 1, \"weights\": {}, \"cases\": [%s]}", cases);
  fclose(file);
  write_text(folder, "cases.json", text);
  free(text);
}

/** Writes the manifest of what lies in the folder's set/. */
static inline void write_manifest(const char *folder) {
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(folder, NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  char *text = NULL, hex[65];
  size_t size = 0, n;
  FILE *file = open_memstream(&text, &size);
  char *bytes = read_bytes(folder, "cases.json", &n);
  hex_of(bytes, n, hex);
  free(bytes);
  fprintf(file, "{\"format\": 1, \"cases_sha256\": \"%s\", \"files\": [", hex);
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    char name[128];
    snprintf(name, sizeof name, "set/%s.safetensors.gz", test->id);
    for (char *c = name + 4; *c; c++)
      if (*c == '/') *c = '_';
    bytes = read_bytes(folder, name, &n);
    hex_of(bytes, n, hex);
    free(bytes);
    fprintf(file, "%s{\"path\": \"%s\", \"sha256\": \"%s\", \"bytes\": %zu, \"case\": \"%s\", \"op\": \"rmsnorm\"}", i ? ", " : "", name,
            hex, n, test->id);
  }
  fprintf(file, "]}");
  fclose(file);
  write_text(folder, "manifest.json", text);
  free(text);
  mr3d_suite_close(&suite);
}

/** What the golden of a case would be if PyTorch agreed with the reference: its answers at fp64, seed 0. */
static inline mr3d_bundle *golden_of(const mr3d_suite *suite, const mr3d_case *test) {
  mr3d_bundle *golden = mr3d_bundle_new();
  mr3d_server *server = new_server();
  mr3d_bundle_set(golden, "case", test->id);
  for (int s = 0; s < test->n_steps; s++) {
    mr3d_error error = {0};
    mr3d_bundle *asked = NULL, *given = NULL;
    char name[128];
    if (mr3d_case_request(suite, test, s, MR3D_FP64, 0, NULL, NULL, &asked, &error) != MR3D_OK) fail_msg("%s", error.message);
    if (mr3d_server_answer(server, asked, &given, &error) != MR3D_OK) {
      snprintf(name, sizeof name, "%d.error", s);
      mr3d_bundle_set(golden, name, "1");
    }
    for (int i = 0; given && i < mr3d_bundle_count(given); i++) {
      snprintf(name, sizeof name, "%d.%s", s, mr3d_bundle_at(given, i)->name);
      mr3d_bundle_copy(golden, name, mr3d_bundle_at(given, i));
    }
    mr3d_bundle_free(&asked);
    mr3d_bundle_free(&given);
  }
  mr3d_server_free(&server);
  return golden;
}

/** A whole golden set: cases.json, set/, manifest.json. */
static inline void make_set(const char *folder, const char *cases) {
  char path[600];
  snprintf(path, sizeof path, "%s/set", folder);
  mkdir(path, 0777);
  write_cases(folder, cases);
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(folder, NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    mr3d_bundle *golden = golden_of(suite, mr3d_suite_at(suite, i));
    snprintf(path, sizeof path, "%s/set/%s.safetensors.gz", folder, mr3d_suite_at(suite, i)->id);
    for (char *c = path + strlen(folder) + 5; *c; c++)
      if (*c == '/') *c = '_';
    if (mr3d_safetensors_save(path, golden, &error) != MR3D_OK) fail_msg("%s", error.message);
    mr3d_bundle_free(&golden);
  }
  mr3d_suite_close(&suite);
  write_manifest(folder);
}

#endif
