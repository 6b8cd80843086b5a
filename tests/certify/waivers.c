/** Waivers: what they must say, who may sign them, and that none is broader, older or idler than it should be. */
#include "certified.h"

#define WAIVER(cases, tiers, issue, expires)                                                                                                 \
  "{\"cases\": \"" cases "\", \"tiers\": [" tiers "], \"reason\": \"a known defect\", \"issue\": \"" issue "\", \"expires\": \"" expires "\"}"
#define GOOD_ISSUE "https://example.com/issues/7"
#define FAR "2999-12-31"
#define LIST(waivers) "{\"format\": 1, \"waivers\": [" waivers "]}"

static int sign_list(const char *list, const char *key) {
  write_text(folder, "list.json", list);
  char old[600];
  snprintf(old, sizeof old, "%s/list.signed", folder);
  remove(old);
  return mr3d("sign %s/list.json --key %s/%s.key -o %s/list.signed", folder, folder, key, folder);
}

static int certify_waived(const char *backend, const char *name, const char *more) {
  char words[2000];
  snprintf(words, sizeof words, "--waivers %s/list.signed %s", folder, more);
  return certify(backend, name, words);
}

/** A backend that fails rmsnorm/i and rmsnorm/j, with the list that was signed last. */
static int certify_with(const char *name, const char *more) {
  char backend[700];
  snprintf(backend, sizeof backend, "exec:%s rows 24", getenv("MR3D_CHEAT"));
  return certify_waived(backend, name, more);
}

/** One that fails everything but what must be refused: eleven of twelve cases. */
static int certify_wrong_with(const char *name) { return certify_waived("mutant:qwen2-details/weight-plus-one", name, ""); }

static void a_list_that_says_too_little_is_not_signed(void **state) {
  (void)state;
  static const struct { const char *list, *says; } wrong[] = {
      {LIST(""), "at least one"}, {"{\"format\": 2, \"waivers\": [" WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, FAR) "]}", "\"format\" must be 1"},
      {LIST("{\"cases\": \"rmsnorm/a\"}"), "waiver 1: \"tiers\" is missing"}, {LIST(WAIVER("rmsnorm/a", "", GOOD_ISSUE, FAR)), "\"tiers\" must be a list"},
      {LIST(WAIVER("rmsnorm/a", "\"fp8\"", GOOD_ISSUE, FAR)), "\"tiers\" must be a list"}, {LIST(WAIVER("rmsnorm/a", "\"fp32\"", "later", FAR)), "\"issue\" must be a link"},
      {LIST(WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, "2027-02-30")), "\"expires\" must be a day"}, {LIST(WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, "soon")), "\"expires\" must be a day"},
      {LIST(WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, "2997- 1- 1")), "\"expires\" must be a day"}, {LIST(WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, " 2997-01-1")), "\"expires\" must be a day"},
      {LIST(WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, "2020-01-01")), "waiver 1 (rmsnorm/a) expired on 2020-01-01"},
      {LIST(WAIVER("*", "\"fp32\"", GOOD_ISSUE, FAR)), "over-broad: the operator"}, {LIST(WAIVER("rms*/a", "\"fp32\"", GOOD_ISSUE, FAR)), "over-broad: the operator"},
      {LIST(WAIVER("[a-z]*/a", "\"fp32\"", GOOD_ISSUE, FAR)), "over-broad: the operator"}, {LIST(WAIVER("", "\"fp32\"", GOOD_ISSUE, FAR)), "\"cases\" must be a text"},
      {LIST(WAIVER("rmsnorm/a", "\"fp32\"", GOOD_ISSUE, FAR) ", 1"), "waiver 2: expected a JSON object"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_int_equal(sign_list(wrong[i].list, "vendor"), 1);
    assert_said(wrong[i].says);
  }
}

/** All that failed is covered, and nothing else: the verdict counts the waivers, and the certificate shows them. */
static void a_certificate_says_how_many_waivers_it_needed(void **state) {
  (void)state;
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/i", "\"fp32\"", GOOD_ISSUE, FAR) ", " WAIVER("rmsnorm/[j]", "\"fp32\", \"bf16\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  if (certify_with("waived.json", "") != 0) fail_msg("%s", output);
  assert_said("certificate: conforms with 2 waivers");
  assert_int_equal(verify("waived.json", ""), 0);
  assert_said("conforms with 2 waivers");
  assert_said("waived: rmsnorm/i at fp32 until " FAR ": a known defect (" GOOD_ISSUE ")");
  assert_int_equal(verify("waived.json", "--no-waivers"), 2);
  assert_said("waivers: it needs 2");
  cJSON *statement = statement_of("waived.json"), *predicate = cJSON_GetObjectItemCaseSensitive(statement, "predicate");
  assert_string_equal(cJSON_GetObjectItemCaseSensitive(predicate, "result")->valuestring, "WARNED");
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(predicate, "failedTests")), 0);
  assert_true(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(predicate, "warnedTests")) >= 2);
  cJSON_Delete(statement);
}

static void what_no_waiver_covers_fails(void **state) {
  (void)state;
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/i", "\"fp32\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(certify_with("partly.json", ""), 2);
  assert_said("report of failure: does not conform: of 15 tests,");
}

static void one_that_covers_nothing_that_failed_is_unused(void **state) {
  (void)state;
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/i", "\"fp32\"", GOOD_ISSUE, FAR) ", " WAIVER("rmsnorm/j", "\"fp32\"", GOOD_ISSUE, FAR) ", " WAIVER("rmsnorm/gone", "\"fp32\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(certify_with("unused.json", ""), 2);
  assert_said("waiver 3 (rmsnorm/gone) is unused");
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/i", "\"fp32\"", GOOD_ISSUE, FAR) ", " WAIVER("rmsnorm/j", "\"bf16\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(certify_with("other-tier.json", ""), 2);
  assert_int_equal(verify("unused.json.failure", ""), 2);
  assert_said("is unused");
}

static void one_that_covers_what_passed_is_over_broad(void **state) {
  (void)state;
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/*", "\"fp32\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(certify_with("broad.json", ""), 2);
  assert_said("waiver 1 (rmsnorm/*) is over-broad: it covers rmsnorm/a at fp32, which passed");
  /* and so does one for a backend at which nothing fails */
  char words[700];
  snprintf(words, sizeof words, "--waivers %s/list.signed", folder);
  assert_int_equal(certify("builtin:emulated", "needless.json", words), 2);
  assert_said("over-broad");
}

static void one_that_covers_too_many_cases_is_over_broad(void **state) {
  (void)state;
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/[!r]*", "\"fp32\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(certify_wrong_with("many.json"), 2);
  assert_said("is over-broad: it covers 11 cases, one may cover 10");
}

/** However they are divided: a waiver for each failure makes no certificate of a backend that does nothing right. */
static void all_together_they_may_cover_one_case_in_ten(void **state) {
  (void)state;
  static const char *const names[] = {"[ab]", "[cd]", "[ef]", "[gh]", "[ij]", "small"};
  char list[3000] = "{\"format\": 1, \"waivers\": [";
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    snprintf(list + strlen(list), sizeof list - strlen(list), "%s{\"cases\": \"rmsnorm/%s\", \"tiers\": [\"fp32\"], \"reason\": \"r\", \"issue\": \"" GOOD_ISSUE "\", \"expires\": \"" FAR "\"}", i ? ", " : "", names[i]);
  snprintf(list + strlen(list), sizeof list - strlen(list), "]}");
  assert_int_equal(sign_list(list, "vendor"), 0);
  assert_int_equal(certify_wrong_with("each.json"), 2);
  assert_said("the waivers are over-broad: together they cover 11 of 12 cases; one in 10 may be waived, here 2");
  assert_int_equal(verify("each.json.failure", ""), 2);
}

static void one_that_covers_what_another_covers_is_a_duplicate(void **state) {
  (void)state;
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/[ij]", "\"fp32\"", GOOD_ISSUE, FAR) ", " WAIVER("rmsnorm/j", "\"fp32\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(certify_with("doubled.json", ""), 2);
  assert_said("waiver 2 (rmsnorm/j) is a duplicate: it covers rmsnorm/j at fp32, which one before it covers");
}

/** A waiver outlives the key that signed it, where the one who verifies knows that the certificate's key succeeds it. */
static void a_waiver_of_a_key_that_was_replaced_holds(void **state) {
  (void)state;
  assert_int_equal(mr3d("keygen %s/fresh.key --replaces %s/vendor.key", folder, folder), 0);
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/[ij]", "\"fp32\"", GOOD_ISSUE, FAR)), "vendor"), 0);
  assert_int_equal(mr3d("certify --backend 'exec:%s rows 24' --profile decoder --tier fp32 --nonce " NONCE " --key %s/fresh.key -o %s/rotated.json --quiet --waivers %s/list.signed --waiver-key %s/vendor.key.pub",
                        getenv("MR3D_CHEAT"), folder, folder, folder, folder), 0);
  assert_int_equal(verify("rotated.json", ""), 2); /* of the rotation nobody has told */
  char words[1300];
  snprintf(words, sizeof words, "--rotations %s/fresh.key.rotation", folder);
  assert_int_equal(verify("rotated.json", words), 0);
  assert_int_equal(mr3d("verify %s/rotated.json --key %s/fresh.key.pub %s", folder, folder, words), 0);
  assert_int_equal(mr3d("verify %s/rotated.json --key %s/fresh.key.pub", folder, folder), 2);
  assert_said("waivers: signature: none is by key");
  assert_int_equal(mr3d("verify %s/rotated.json --key %s/fresh.key.pub --waiver-key %s/lab.key.pub %s", folder, folder, folder, words), 2);
}

static void only_those_named_may_waive(void **state) {
  (void)state;
  char words[1300];
  assert_int_equal(sign_list(LIST(WAIVER("rmsnorm/[ij]", "\"fp32\"", GOOD_ISSUE, FAR)), "lab"), 0);
  assert_int_equal(certify_with("stranger.json", ""), 1);
  assert_said("signature: none is by key");
  snprintf(words, sizeof words, "--waiver-key %s/lab.key.pub", folder);
  assert_int_equal(certify_with("by-lab.json", words), 0);
  assert_int_equal(verify("by-lab.json", ""), 2); /* who verifies says whom he trusts */
  assert_said("waivers: signature: none is by key");
  assert_int_equal(verify("by-lab.json", words), 0);
}

/** A waiver that was good on the day of issue and is no longer. */
static void a_certificate_ends_with_its_waivers(void **state) {
  (void)state;
  mr3d_secret_key key;
  mr3d_error error = {0};
  char path[600];
  load_key("vendor", &key);
  snprintf(path, sizeof path, "%s/list.signed", folder);
  const char *old = LIST(WAIVER("rmsnorm/[ij]", "\"fp32\"", GOOD_ISSUE, "2020-01-01"));
  mr3d_envelope *envelope = mr3d_envelope_new(MR3D_WAIVERS_TYPE, old, strlen(old));
  assert_int_equal(mr3d_envelope_sign(envelope, &key, &error), MR3D_OK);
  assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
  assert_int_equal(certify_with("expired.json", ""), 1); /* before anything is judged */
  assert_said("expired on 2020-01-01");
  /* a statement of 2019 that bears it, put together by hand */
  mr3d_suite *suite = NULL;
  mr3d_claims claims;
  mr3d_conclusion c;
  mr3d_envelope *whole = load_envelope("partly.json.failure");
  assert_int_equal(mr3d_suite_open(folder, NULL, &suite, &error), MR3D_OK);
  assert_int_equal(mr3d_statement_read(whole->payload, whole->size, &claims, NULL, &error), MR3D_OK);
  char *text = mr3d_envelope_print(envelope), *payload = NULL;
  cJSON_Delete(claims.waivers);
  claims.waivers = cJSON_Parse(text);
  assert_int_equal(mr3d_statement_make(suite, &claims, &payload, &c, &error), MR3D_INVALID); /* issued today, expired long ago */
  snprintf(claims.issued, sizeof claims.issued, "2019-06-01T00:00:00Z");
  assert_int_equal(mr3d_statement_make(suite, &claims, &payload, &c, &error), MR3D_OK);
  write_signed("ended.json", payload, "vendor");
  assert_int_equal(verify("ended.json", ""), 2);
  assert_said("waivers: waiver 1 (rmsnorm/[ij]) expired on 2020-01-01");
  free(text), cJSON_free(payload);
  mr3d_claims_clear(&claims);
  mr3d_suite_close(&suite);
  mr3d_envelope_free(&whole), mr3d_envelope_free(&envelope);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_list_that_says_too_little_is_not_signed), cmocka_unit_test(a_certificate_says_how_many_waivers_it_needed), cmocka_unit_test(what_no_waiver_covers_fails),
                                     cmocka_unit_test(one_that_covers_nothing_that_failed_is_unused), cmocka_unit_test(one_that_covers_what_passed_is_over_broad),
                                     cmocka_unit_test(one_that_covers_too_many_cases_is_over_broad), cmocka_unit_test(all_together_they_may_cover_one_case_in_ten), cmocka_unit_test(one_that_covers_what_another_covers_is_a_duplicate), cmocka_unit_test(a_waiver_of_a_key_that_was_replaced_holds),
                                     cmocka_unit_test(only_those_named_may_waive), cmocka_unit_test(a_certificate_ends_with_its_waivers)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
