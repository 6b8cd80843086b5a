/** Profiles: exact lists, whose versions golden/profiles.json has. */
#include "certified.h"

static void the_committed_versions_are_those_of_the_committed_cases(void **state) {
  (void)state;
  mr3d_suite *suite = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_suite_open(getenv("MR3D_COMMITTED"), NULL, &suite, &error), MR3D_OK);
  for (int p = 0; mr3d_profile_at(p); p++) {
    int version = 0;
    char root[MR3D_HEX_DIGEST];
    if (mr3d_profile_version(mr3d_profile_at(p), suite, &version, root, &error) != MR3D_OK) fail_msg("%s", error.message);
    assert_true(version >= 1);
  }
  mr3d_suite_close(&suite);
}

/** core in decoder in scan; no level beyond, nothing that needs data or runs the whole model. */
static void each_profile_holds_the_one_before(void **state) {
  (void)state;
  static const char *const highest[] = {"L2", "L4", "L5"};
  mr3d_suite *suite = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_suite_open(getenv("MR3D_COMMITTED"), NULL, &suite, &error), MR3D_OK);
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    for (int p = 0; p < 3; p++) assert_int_equal(mr3d_profile_has(mr3d_profile_at(p), test), !test->needs_data && !mr3d_case_is_whole(test) && strcmp(test->level, highest[p]) <= 0);
  }
  mr3d_suite_close(&suite);
}

static void a_list_that_changed_needs_a_new_version(void **state) {
  (void)state;
  char *text = read_bytes(folder, "profiles.json", NULL), *root = strstr(text, "\"root\": \"");
  root[9] = root[9] == '0' ? '1' : '0';
  write_text(folder, "profiles.json", text);
  assert_int_equal(mr3d("certify --backend builtin:emulated --tier fp32 --nonce " NONCE " --key %s/vendor.key -o %s/c.json", folder, folder), 1);
  assert_said("the list of profile core is another by now");
  assert_said("golden/profiles.py gives it a new version");
  write_text(folder, "some.json", "{}");
  assert_int_equal(verify("some.json", ""), 1); /* could not check: that is no refusal */
  assert_said("the list of profile core is another by now");
  remove_file("profiles.json");
  assert_int_equal(verify("some.json", ""), 1);
  assert_said("profiles.json");
  assert_int_equal(mr3d("certify --backend builtin:emulated --tier fp32 --nonce " NONCE " --key %s/vendor.key -o %s/c.json", folder, folder), 1);
  assert_said("profiles.json");
  write_profiles(folder);
  free(text);
}

static void what_is_missing_or_misspelt_is_said(void **state) {
  (void)state;
  static const struct { const char *words, *says; } wrong[] = {
      {"certify", "--backend is missing"}, {"certify --backend builtin:emulated", "--nonce is missing"}, {"certify --backend builtin:emulated --nonce " NONCE, "--key is missing"},
      {"certify --backend builtin:emulated --nonce " NONCE " --key k", "-o is missing"}, {"certify --backend builtin:emulated --nonce " NONCE " --key k -o never.json", "--tier is missing"},
      {"certify --backend builtin:emulated --nonce " NONCE " --key k -o never.json --tier fp32 --profile decodr", "did you mean \"decoder\""},
      {"certify --backend builtin:emulated --nonce " NONCE " --key k -o never.json --tier fp32 --op rmsnrm", "did you mean \"rmsnorm\""},
      {"certify --backend builtin:emulated --nonce " NONCE " --key no-such-key -o never.json --tier fp32", "no-such-key"}, {"verify", "a certificate is missing"},
      {"verify c.json", "--key is missing"}, {"verify c.json --key k --profile decodr", "there is no profile \"decodr\"; did you mean \"decoder\"?; expected core, decoder or scan"}, {"merge", "the parts are missing"}, {"merge a", "--key is missing"}, {"sign", "a file is missing"}, {"sign a", "--key is missing"}, {"keygen", "a name is missing"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_int_equal(mr3d("%s", wrong[i].words), 1);
    assert_said(wrong[i].says);
  }
  assert_int_equal(run_command("test ! -e never.json"), 0);
}

/** What a backend does not offer is no certificate; asked only for what it has, the certificate says so. */
static void what_is_skipped_is_not_certified(void **state) {
  (void)state;
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  fprintf(to, "%s, {\"id\": \"swiglu/a\", \"title\": \"swiglu\", \"why\": \"a test\", \"level\": \"L0\", \"pitfalls\": [], \"tags\": [], \"config\": {}, \"steps\": [{\"op\": \"swiglu\", \"inputs\": {\"gate\": " X_RECIPE
          ", \"up\": " X_RECIPE "}}]}", WIDE_CASE("a", "L0"));
  fclose(to);
  assert_int_equal(run_command("rm -r \"$MR3D_GOLDEN/set\""), 0);
  make_set(folder, text);
  write_lists(folder);
  free(text);
  char backend[600];
  snprintf(backend, sizeof backend, "exec:%.500s record", getenv("MR3D_CHEAT"));
  setenv("MR3D_CHEAT_STORE", "/dev/null", 1);
  if (certify(backend, "skips.json", "") != 2) fail_msg("%s", output);
  assert_said("skipped");
  assert_said("report of failure: does not conform");
  assert_int_equal(verify("skips.json.failure", ""), 2);
  assert_said("not passed: swiglu/a@fp32: the backend does not offer swiglu");
  assert_int_equal(certify(backend, "part.json", "--op rmsnorm"), 0);
  assert_int_equal(verify("part.json", ""), 2);
  assert_said("it is narrowed to cases that only ask rmsnorm; give --op rmsnorm");
  assert_int_equal(verify("part.json", "--op rmsnorm"), 0);
  assert_said("certificate of decoder@fp32, only rmsnorm: conforms");
  assert_int_equal(certify(backend, "bf16.json", "--op rmsnorm --timeout 5"), 0);
  assert_int_equal(mr3d("certify --backend '%s' --tier bf16 --op rmsnorm --nonce " NONCE " --key %s/vendor.key -o %s/tier.json --quiet", backend, folder, folder), 1); /* nothing was compared */
  assert_said("nothing is signed");
}

static void an_old_file_is_never_replaced(void **state) {
  (void)state;
  write_text(folder, "there.json", "something of mine");
  assert_int_equal(certify("builtin:emulated", "there.json", ""), 1);
  assert_said("exists already");
  write_text(folder, "gone.json.failure", "something of mine");
  assert_int_equal(certify("builtin:emulated", "gone.json", ""), 1);
  char *text = read_bytes(folder, "there.json", NULL);
  assert_string_equal(text, "something of mine");
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_committed_versions_are_those_of_the_committed_cases), cmocka_unit_test(each_profile_holds_the_one_before), cmocka_unit_test(a_list_that_changed_needs_a_new_version),
                                     cmocka_unit_test(what_is_missing_or_misspelt_is_said), cmocka_unit_test(what_is_skipped_is_not_certified), cmocka_unit_test(an_old_file_is_never_replaced)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
