/** The golden set: nothing is missing, changed or too many unseen; the reference's answers must agree with it, every element. */
#include <math.h>

#include "mr3d/random.h"
#include "small_suite.h"
#include "in_small_suite.h"

/* ---- integrity ---- */

static char complaints[8192];
static void keep(void *user, const char *line) {
  (void)user;
  strncat(complaints, line, sizeof complaints - strlen(complaints) - 2);
  strcat(complaints, "\n");
}

/** The set must be refused, with a complaint that holds every fragment; a run on it must not take place either. */
static void assert_damaged(const char *const *fragments) {
  mr3d_error error = {0};
  int n = -1;
  complaints[0] = '\0';
  assert_int_not_equal(mr3d_golden_verify(folder, keep, NULL, &n, &error), MR3D_OK);
  assert_int_equal(n, -1);
  strncat(complaints, error.message, sizeof complaints - strlen(complaints) - 1);
  for (const char *const *f = fragments; *f; f++)
    if (!strstr(complaints, *f)) fail_msg("the complaints\n  %s\nlack\n  %s", complaints, *f);
  mr3d_run *run = NULL;
  mr3d_error refused = {0};
  assert_int_not_equal(
      mr3d_run_suite(&(mr3d_run_options){.backend = "builtin:reference", .golden_dir = folder}, NULL, NULL, &run, &refused), MR3D_OK);
  assert_null(run);
  assert_true(strlen(refused.message) > 0);
}
#define DAMAGED(...) assert_damaged((const char *const[]){__VA_ARGS__, NULL})

static void whole_set_is_verified_and_counted(void **state) {
  (void)state;
  mr3d_error error = {0};
  int n = 0;
  if (mr3d_golden_verify(folder, keep, NULL, &n, &error) != MR3D_OK) fail_msg("%s", error.message);
  assert_int_equal(n, 2);
}

static void deleted_golden_is_named(void **state) {
  (void)state;
  char path[600];
  snprintf(path, sizeof path, "%s/set/rmsnorm_a.safetensors.gz", folder);
  assert_int_equal(unlink(path), 0);
  DAMAGED("set/rmsnorm_a.safetensors.gz", "cannot be read", "1 problem");
}

/** Any byte: a few places of each file. */
static void flipped_byte_is_seen_anywhere(void **state) {
  (void)state;
  const char *const files[] = {"set/rmsnorm_a.safetensors.gz", "set/rmsnorm_refused.safetensors.gz"};
  for (int i = 0; i < 2; i++) {
    size_t size;
    free(read_bytes(folder, files[i], &size));
    const size_t places[] = {0, 4, size / 2, size - 1};
    for (int k = 0; k < 4; k++) {
      flip_byte(folder, files[i], places[k]);
      DAMAGED(files[i], "SHA-256", "the file was changed");
      flip_byte(folder, files[i], places[k]);
    }
  }
  whole_set_is_verified_and_counted(NULL);
}

static void longer_file_is_named_with_both_sizes(void **state) {
  (void)state;
  char path[600];
  snprintf(path, sizeof path, "%s/set/rmsnorm_a.safetensors.gz", folder);
  FILE *file = fopen(path, "ab");
  fputc(0, file);
  fclose(file);
  DAMAGED("set/rmsnorm_a.safetensors.gz", "bytes, manifest.json says");
}

static void unlisted_file_is_named(void **state) {
  (void)state;
  write_text(folder, "set/extra.safetensors", "x");
  DAMAGED("set/extra.safetensors is not listed");
}

/** Adds files outside set/ to the manifest, each with the digest of what it holds now. */
static void list_others(int n, const char *const *paths) {
  char *manifest = read_bytes(folder, "manifest.json", NULL), *text = NULL, hex[65];
  size_t size = 0, length;
  FILE *file = open_memstream(&text, &size);
  fprintf(file, "%.*s, \"other_files\": [", (int)strlen(manifest) - 1, manifest);
  for (int i = 0; i < n; i++) {
    char *bytes = read_bytes(folder, paths[i], &length);
    hex_of(bytes, length, hex);
    free(bytes);
    fprintf(file, "%s{\"path\": \"%s\", \"sha256\": \"%s\", \"bytes\": %zu}", i ? ", " : "", paths[i], hex, length);
  }
  fprintf(file, "]}");
  fclose(file);
  write_text(folder, "manifest.json", text);
  free(manifest);
  free(text);
}

static void make_scene(const char *text) {
  char path[600];
  snprintf(path, sizeof path, "%s/scene", folder);
  mkdir(path, 0777);
  write_text(folder, "scene/canonical.ply", text);
}

static void files_beside_the_set_are_checked_like_goldens(void **state) {
  (void)state;
  const char *const paths[] = {"scene/canonical.ply", "digests.json"};
  make_scene("ply\n");
  write_text(folder, "digests.json", "{}");
  list_others(2, paths);
  mr3d_error error = {0};
  int n = 0;
  if (mr3d_golden_verify(folder, keep, NULL, &n, &error) != MR3D_OK) fail_msg("%s", error.message);
  assert_int_equal(n, 4);
  for (int i = 0; i < 2; i++) {
    flip_byte(folder, paths[i], 1);
    DAMAGED(paths[i], "SHA-256", "restore it from version control", "1 problem");
    flip_byte(folder, paths[i], 1);
  }
  write_text(folder, "digests.json", "{ }");
  DAMAGED("digests.json has 3 bytes, manifest.json says 2");
  write_text(folder, "digests.json", "{}");
  write_text(folder, "scene/other.ply", "ply\n");
  DAMAGED("scene/other.ply is not listed");
  char path[600];
  snprintf(path, sizeof path, "%s/scene/other.ply", folder);
  unlink(path);
  snprintf(path, sizeof path, "%s/scene/canonical.ply", folder);
  unlink(path);
  DAMAGED("scene/canonical.ply is listed in manifest.json but cannot be read", "restore it from version control", "1 problem");
}

static void scene_that_cases_read_must_be_listed(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", ""));
  const char *case_ = "{\"id\": \"rmsnorm/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {}, \"steps\": [{\"op\": "
                      "\"rmsnorm\", \"inputs\": {\"x\": {\"shape\": [556, 3], \"dtype\": \"I64\", \"scene\": \"coords\"}}}]}";
  write_cases(folder, case_);
  DAMAGED("cases read scene/canonical.ply, which manifest.json does not list");
  write_manifest(folder);
  DAMAGED("cases read scene/canonical.ply, which manifest.json does not list");
}

static void changed_cases_are_seen(void **state) {
  (void)state;
  write_cases(folder, RMSNORM_CASE("a", "", "") ", " REFUSED_CASE("refused", "") " ");
  DAMAGED("cases.json has SHA-256", "generate.py");
}

static void case_without_golden_and_golden_without_case_are_named(void **state) {
  (void)state;
  write_cases(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("new", "", ""));
  DAMAGED("case rmsnorm/new has no golden", "rmsnorm/refused, which cases.json does not have");
}

static void missing_or_malformed_manifest_is_an_error(void **state) {
  (void)state;
  const char *const broken[] = {"",
                                "[]",
                                "{\"format\": 2, \"cases_sha256\": \"\", \"files\": []}",
                                "{\"format\": 1, \"files\": []}",
                                "{\"format\": 1, \"cases_sha256\": \"\", \"files\": [{\"path\": \"set/a\"}]}",
                                "{\"format\": 1, \"cases_sha256\": \"\", \"files\": [], \"other_files\": {}}",
                                "{\"format\": 1, \"cases_sha256\": \"\", \"files\": [], \"other_files\": [{\"bytes\": 1}]}",
                                ("{\"format\": 1, \"cases_sha256\": \"\", \"files\": [], \"other_files\": [{\"path\": "
                                 "\"../cases.json\", \"sha256\": \"\", \"bytes\": 1}]}"),
                                ("{\"format\": 1, \"cases_sha256\": \"\", \"files\": [{\"path\": \"../cases.json\", \"case\": "
                                 "\"rmsnorm/a\", \"sha256\": \"\", \"bytes\": 1}]}")};
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    write_text(folder, "manifest.json", broken[i]);
    DAMAGED("manifest.json");
  }
  char path[600];
  snprintf(path, sizeof path, "%s/manifest.json", folder);
  unlink(path);
  DAMAGED("manifest.json");
}

static void manifest_of_no_file_is_damage(void **state) {
  (void)state;
  size_t n;
  char *cases, hex[65], text[300];
  write_cases(folder, "");
  cases = read_bytes(folder, "cases.json", &n);
  hex_of(cases, n, hex);
  free(cases);
  snprintf(text, sizeof text, "{\"format\": 1, \"cases_sha256\": \"%s\", \"files\": []}", hex);
  write_text(folder, "manifest.json", text);
  DAMAGED("lists no file");
}

/* ---- agreement ---- */

/** A golden made of given tensors in place of rmsnorm_a's, with its manifest, opened. */
static mr3d_golden *golden_with(mr3d_bundle *file, mr3d_suite **suite) {
  char path[600];
  mr3d_error error = {0};
  mr3d_golden *golden = NULL;
  mr3d_bundle_set(file, "case", "rmsnorm/a");
  snprintf(path, sizeof path, "%s/set/rmsnorm_a.safetensors.gz", folder);
  if (mr3d_safetensors_save(path, file, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&file);
  write_manifest(folder);
  if (mr3d_suite_open(folder, NULL, suite, &error) != MR3D_OK ||
      mr3d_golden_open(*suite, mr3d_suite_at(*suite, 0), &golden, &error) != MR3D_OK)
    fail_msg("%s", error.message);
  return golden;
}

enum { R = 300, C = 100 }; /* more than 16,384 elements */

static mr3d_bundle *big_answer(void) {
  mr3d_bundle *answer = mr3d_bundle_new();
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 1}, mr3d_stream_named(0, "big"),
                   mr3d_bundle_add(answer, "y", MR3D_F64, SHAPE(3, R / 3, C)));
  return answer;
}

/** Its golden by docs/cases.md: rows 0, 7 and the last, and digests of all rows. */
static mr3d_bundle *big_golden(void) {
  mr3d_bundle *answer = big_answer(), *golden = mr3d_bundle_new();
  const double *y = mr3d_bundle_find(answer, "y")->data;
  const int64_t index[] = {0, 7, R - 1};
  double *rows = mr3d_bundle_add(golden, "0.y.rows", MR3D_F64, SHAPE(3, C))->data;
  double *digest = mr3d_bundle_add(golden, "0.y.digest", MR3D_F64, SHAPE(4, C))->data;
  add_integers(golden, "0.y.row_index", index, SHAPE(3));
  for (int i = 0; i < 3; i++) memcpy(rows + i * C, y + index[i] * C, C * sizeof *y);
  for (int k = 0; k < 4; k++)
    for (int r = 0; r < R; r++) {
      char name[16];
      snprintf(name, sizeof name, "digest/%d", k);
      const double sign = mr3d_random_raw(mr3d_stream_named(0, name), (uint64_t)r) & 1 ? -1 : 1;
      for (int c = 0; c < C; c++) digest[k * C + c] += sign * y[r * C + c];
    }
  mr3d_bundle_free(&answer);
  return golden;
}

/** Compares step 0; returns the message, "" when it agrees. */
static const char *compare(const mr3d_golden *golden, const mr3d_suite *suite, const mr3d_bundle *answer, double *worst) {
  static mr3d_error error;
  error = (mr3d_error){0};
  mr3d_bundle *asked = request("rmsnorm", "{}");
  mr3d_status status = mr3d_golden_compare(golden, mr3d_suite_at(suite, 0), 0, asked, answer, worst, &error);
  mr3d_bundle_free(&asked);
  assert_int_equal(status != MR3D_OK, error.message[0] != '\0');
  return error.message;
}

static void small_tensor_agrees_within_1e_12_of_its_scale(void **state) {
  (void)state;
  mr3d_suite *suite;
  mr3d_bundle *file = mr3d_bundle_new(), *answer = mr3d_bundle_new();
  const double golden_values[] = {100, 1, -3, 0};
  memcpy(mr3d_bundle_add(file, "0.y", MR3D_F64, SHAPE(2, 2))->data, golden_values, sizeof golden_values);
  double *y = mr3d_bundle_add(answer, "y", MR3D_F64, SHAPE(2, 2))->data;
  mr3d_golden *golden = golden_with(file, &suite);
  const struct {
    int at;
    double by;
    bool agrees;
  } changes[] = {{0, 0, true}, {1, 0.9e-10, true}, {1, 1.1e-10, false}, {3, -1.1e-10, false}, {0, NAN, false}, {2, INFINITY, false}};
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    double worst;
    memcpy(y, golden_values, sizeof golden_values);
    y[changes[i].at] += changes[i].by;
    const char *message = compare(golden, suite, answer, &worst);
    if (changes[i].agrees != (*message == '\0')) fail_msg("change %zu: %s", i, message);
    char place[32];
    snprintf(place, sizeof place, "flat index %d", changes[i].at);
    if (*message) assert_non_null(strstr(message, place));
    else assert_true(worst <= 1e-12);
  }
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
  mr3d_bundle_free(&answer);
}

/** Rotations are allowed 4 * 2^-53 of the largest angle more: here 1e6, so 4.4e-10 of the scale. */
static void rotation_by_a_large_angle_is_allowed_a_few_roundings_of_it(void **state) {
  (void)state;
  const char *const cases[] = {
      "{\"id\": \"rope1d/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {\"rope_theta\": 100}, \"steps\": [{\"op\": "
      "\"rope1d\", \"inputs\": {"
      "\"x\": {\"shape\": [1, 1, 1, 2], \"dtype\": \"tier\", \"values\": [1, 0]}, \"position_ids\": {\"shape\": [1, 1], \"dtype\": "
      "\"I64\", \"values\": [1000000]}}}]}",
      "{\"id\": \"cis3d/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {}, \"steps\": [{\"op\": \"cis3d\", "
      "\"inputs\": {"
      "\"freqs\": {\"shape\": [3, 1, 1], \"dtype\": \"tier\", \"values\": [1, 2, 3]}, \"axial_weights\": {\"shape\": [1, 1, 3], \"dtype\": "
      "\"tier\", \"values\": [5, -5, 10]}, "
      "\"coords\": {\"shape\": [1, 3], \"dtype\": \"I64\", \"values\": [20000, 20000, 23333]}}}]}"}; /* 100000 + 200000 + 699990 */
  for (int i = 0; i < 2; i++) {
    remove_folder(folder);
    mkdir(folder, 0777);
    make_set(folder, cases[i]);
    mr3d_error error = {0};
    mr3d_suite *suite = NULL;
    mr3d_golden *golden = NULL;
    mr3d_bundle *asked = NULL, *given = NULL;
    mr3d_server *server = new_server();
    assert_int_equal(mr3d_suite_open(folder, NULL, &suite, &error), MR3D_OK);
    const mr3d_case *test = mr3d_suite_at(suite, 0);
    assert_int_equal(mr3d_golden_open(suite, test, &golden, &error), MR3D_OK);
    assert_int_equal(mr3d_case_request(suite, test, 0, MR3D_FP64, 0, NULL, NULL, &asked, &error), MR3D_OK);
    assert_int_equal(mr3d_server_answer(server, asked, &given, &error), MR3D_OK);
    double *y = mr3d_bundle_at(given, 0)->data, before = y[0], scale = i ? fabs(y[0]) : fmax(fabs(y[0]), fabs(y[1]));
    y[0] = before + 4.3e-10 * scale;
    assert_int_equal(mr3d_golden_compare(golden, test, 0, asked, given, NULL, &error), MR3D_OK);
    y[0] = before + 4.6e-10 * scale;
    assert_int_equal(mr3d_golden_compare(golden, test, 0, asked, given, NULL, &error), MR3D_INVALID);
    mr3d_server_free(&server);
    mr3d_bundle_free(&asked);
    mr3d_bundle_free(&given);
    mr3d_golden_close(&golden);
    mr3d_suite_close(&suite);
  }
}

static void change_in_a_row_that_is_not_kept_is_seen_in_the_digest(void **state) {
  (void)state;
  mr3d_suite *suite;
  mr3d_golden *golden = golden_with(big_golden(), &suite);
  mr3d_bundle *answer = big_answer();
  double *y = mr3d_bundle_find(answer, "y")->data, before, worst;
  assert_string_equal(compare(golden, suite, answer, &worst), "");
  const struct {
    int row;
    const char *where;
  } changes[] = {{7, "flat index 703"}, {150, "digest column 3"}, {R - 1, "flat index 29903"}};
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    before = y[changes[i].row * C + 3];
    y[changes[i].row * C + 3] += 1e-9;
    const char *message = compare(golden, suite, answer, &worst);
    if (!strstr(message, changes[i].where)) fail_msg("row %d: %s", changes[i].row, message);
    y[changes[i].row * C + 3] = before;
  }
  y[150 * C + 3] = NAN;
  assert_string_not_equal(compare(golden, suite, answer, &worst), "");
  mr3d_bundle_free(&answer);
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
}

static void shapes_names_and_refusals_must_agree_too(void **state) {
  (void)state;
  mr3d_suite *suite;
  mr3d_bundle *file = mr3d_bundle_new();
  mr3d_bundle_add(file, "0.y", MR3D_F64, SHAPE(2, 2));
  mr3d_golden *golden = golden_with(file, &suite);
  mr3d_bundle *transposed = mr3d_bundle_new(), *other = mr3d_bundle_new(), *more = mr3d_bundle_new();
  mr3d_bundle_add(transposed, "y", MR3D_F64, SHAPE(4));
  mr3d_bundle_add(other, "z", MR3D_F64, SHAPE(2, 2));
  mr3d_bundle_add(more, "y", MR3D_F64, SHAPE(2, 2));
  mr3d_bundle_add(more, "z", MR3D_F64, SHAPE(2, 2));
  assert_non_null(strstr(compare(golden, suite, transposed, NULL), "shape [4], the golden [2,2]"));
  assert_non_null(strstr(compare(golden, suite, other, NULL), "\"y\""));
  assert_non_null(strstr(compare(golden, suite, more, NULL), "\"z\""));
  assert_non_null(strstr(compare(golden, suite, NULL, NULL), "the reference refuses step 0, PyTorch answered it"));
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
  file = mr3d_bundle_new();
  mr3d_bundle_set(file, "0.error", "1");
  golden = golden_with(file, &suite);
  assert_non_null(strstr(compare(golden, suite, more, NULL), "PyTorch refused it"));
  assert_string_equal(compare(golden, suite, NULL, NULL), "");
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
  mr3d_bundle_free(&transposed);
  mr3d_bundle_free(&other);
  mr3d_bundle_free(&more);
}

static void rows_of_padding_are_not_compared(void **state) {
  (void)state;
  mr3d_suite *suite;
  mr3d_bundle *file = mr3d_bundle_new(), *answer = mr3d_bundle_new();
  double *golden_values = mr3d_bundle_add(file, "0.hidden", MR3D_F64, SHAPE(1, 2, 2))->data, worst;
  double *y = mr3d_bundle_add(answer, "hidden", MR3D_F64, SHAPE(1, 2, 2))->data;
  bool *skip = mr3d_bundle_add(answer, "skip:hidden", MR3D_BOOL, SHAPE(1, 2))->data;
  for (int i = 0; i < 4; i++) golden_values[i] = y[i] = 1;
  mr3d_golden *golden = golden_with(file, &suite);
  y[2] = 5;
  assert_string_not_equal(compare(golden, suite, answer, &worst), "");
  skip[1] = true;
  assert_string_equal(compare(golden, suite, answer, &worst), "");
  y[1] = 5;
  assert_string_not_equal(compare(golden, suite, answer, &worst), "");
  mr3d_bundle_free(&answer);
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
}

static void tokens_are_those_of_the_first_prefill_named(void **state) {
  (void)state;
  mr3d_suite *suite;
  mr3d_bundle *file = mr3d_bundle_new();
  int step = -1;
  mr3d_bundle_set(file, "3.tokens", "5,6,7");
  mr3d_golden *golden = golden_with(file, &suite);
  assert_string_equal(mr3d_golden_tokens(golden, &step), "5,6,7");
  assert_int_equal(step, 3);
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
  golden = golden_with(mr3d_bundle_new(), &suite);
  assert_null(mr3d_golden_tokens(golden, &step));
  mr3d_golden_close(&golden);
  mr3d_suite_close(&suite);
}

static void committed_set_is_whole(void **state) {
  (void)state;
  mr3d_error error = {0};
  int n = 0;
  complaints[0] = '\0';
  if (mr3d_golden_verify(committed_set(), keep, NULL, &n, &error) != MR3D_OK) fail_msg("%s", complaints);
  assert_true(n > 0);
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, make_small_suite, drop)
int main(void) {
  const struct CMUnitTest tests[] = {
      FACT(whole_set_is_verified_and_counted),
      FACT(deleted_golden_is_named),
      FACT(flipped_byte_is_seen_anywhere),
      FACT(longer_file_is_named_with_both_sizes),
      FACT(unlisted_file_is_named),
      FACT(files_beside_the_set_are_checked_like_goldens),
      FACT(scene_that_cases_read_must_be_listed),
      FACT(changed_cases_are_seen),
      FACT(case_without_golden_and_golden_without_case_are_named),
      FACT(missing_or_malformed_manifest_is_an_error),
      FACT(manifest_of_no_file_is_damage),
      FACT(small_tensor_agrees_within_1e_12_of_its_scale),
      FACT(rotation_by_a_large_angle_is_allowed_a_few_roundings_of_it),
      FACT(change_in_a_row_that_is_not_kept_is_seen_in_the_digest),
      FACT(shapes_names_and_refusals_must_agree_too),
      FACT(rows_of_padding_are_not_compared),
      FACT(tokens_are_those_of_the_first_prefill_named),
      cmocka_unit_test(committed_set_is_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
