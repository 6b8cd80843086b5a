/** Rules: what golden/rules.json says of a case is what the judge does with its answers. */
#include "../suite.h"
#include "certified.h"

static mr3d_suite *committed;

static mr3d_rules *open_rules(const mr3d_suite *suite) {
  mr3d_rules *rules = NULL;
  mr3d_error error = {0};
  if (mr3d_rules_open(suite, &rules, &error) != MR3D_OK) fail_msg("%s", error.message);
  return rules;
}

/** A case that was changed or added since is missed by its digest; so is one whose weights were. */
static void the_committed_table_is_that_of_the_committed_cases(void **state) {
  (void)state;
  if (mr3d("golden rules --check --golden %s", getenv("MR3D_COMMITTED")) != 0) fail_msg("%s", output);
}

/** Measured again, a sample of simple cases gives what the table has; with other seeds it may only have less. */
static void a_sample_measured_again_gives_the_same(void **state) {
  (void)state;
  static const char *const ids[] = {"rmsnorm/canonical", "rope1d/canonical", "rope1d/any-order", "cis3d/canonical-q", "attention/gqa", "linear/no-rows", "splice/labels", "mixed-rope/batch-of-three",
                                    "swiglu/zeros", "decoder-layer/decode", "token-coords/canonical"};
  mr3d_rules *rules = open_rules(committed);
  mr3d_error error = {0};
  int n = 0;
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    const mr3d_case *test = mr3d_suite_find(committed, ids[i]);
    const char *table;
    char now[MR3D_MOST_RULES];
    if (!test) continue;
    n++;
    assert_int_equal(mr3d_rules_step(rules, test, 0, &table, &error), MR3D_OK);
    if (mr3d_rules_ask(committed, test, MR3D_FP32, 77, NULL, 0, now, &error) != MR3D_OK) fail_msg("%s", error.message);
    assert_string_equal(now, table);
  }
  assert_true(n >= 8);
  mr3d_rules_close(&rules);
}

/** The rules of one attention case depend on the inputs: with some seeds too few rows differ. The table has those that always apply, and the reference knows the rest. */
static void what_depends_on_the_inputs_is_not_in_the_table(void **state) {
  (void)state;
  const mr3d_case *test = mr3d_suite_find(committed, "attention/sharp");
  mr3d_rules *rules = open_rules(committed);
  mr3d_error error = {0};
  const char *table;
  char now[MR3D_MOST_RULES];
  int with = 0;
  assert_non_null(test);
  assert_int_equal(mr3d_rules_step(rules, test, 0, &table, &error), MR3D_OK);
  assert_string_equal(table, "y=element,slice,tensor");
  for (uint64_t seed = 1; seed <= 40; seed++) {
    assert_int_equal(mr3d_rules_ask(committed, test, MR3D_FP32, seed, NULL, 0, now, &error), MR3D_OK);
    with += mr3d_rules_has(now, "y", "gain");
  }
  assert_true(with > 0 && with < 40);
  mr3d_rules_close(&rules);
}

/** Where the table says that a rule always applies and it does not, with these inputs, the reference decides: an honest result is accepted. */
static void the_reference_decides_where_the_table_says_too_much(void **state) {
  (void)state;
  assert_int_equal(run_command("sed -i '/rmsnorm.small\"/s/y=element/y=gain,element/' \"$MR3D_GOLDEN/rules.json\" && grep -q 'small.*y=gain,element' \"$MR3D_GOLDEN/rules.json\""), 0);
  certify_well("builtin:emulated", "much.json", "");
  assert_int_equal(verify("much.json", ""), 0);
  assert_int_equal(run_command("sed -i 's/y=gain,element/y=element/' \"$MR3D_GOLDEN/rules.json\""), 0);
}

static void answers_that_no_nonce_changes_are_known(void **state) {
  (void)state;
  static const struct { const char *id; bool fixed; } cases[] = {
      {"rmsnorm/canonical", false}, {"rmsnorm/refuse-nan", true}, {"rmsnorm/zeros", true}, {"rmsnorm/no-rows", true}, {"swiglu/zeros", true}, {"splice/only-markers", true}, {"splice/labels", false},
      {"attention/far-below", true}, {"attention/gqa", false}, {"decoder-layer/decode", false}};
  mr3d_rules *rules = open_rules(committed);
  mr3d_error error = {0};
  int n = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const mr3d_case *test = mr3d_suite_find(committed, cases[i].id);
    bool fixed;
    if (!test) continue;
    n++;
    assert_int_equal(mr3d_rules_fixed(rules, test, &fixed, &error), MR3D_OK);
    if (fixed != cases[i].fixed) fail_msg("%s", cases[i].id);
  }
  assert_true(n >= 7);
  mr3d_rules_close(&rules);
}

static void texts_of_rules_are_read(void **state) {
  (void)state;
  const char *rules = "query=element,slice key=element keys=gain labels=exact none=";
  assert_true(mr3d_rules_has(rules, "query", "element") && mr3d_rules_has(rules, "query", "slice") && mr3d_rules_has(rules, "key", "element") && mr3d_rules_has(rules, "labels", "exact"));
  assert_false(mr3d_rules_has(rules, "key", "slice") || mr3d_rules_has(rules, "key", "elemen") || mr3d_rules_has(rules, "keys", "element") || mr3d_rules_has(rules, "ke", "element"));
  assert_false(mr3d_rules_has(rules, "none", "element") || mr3d_rules_has(rules, "", "element") || mr3d_rules_has("error", "error", "element") || mr3d_rules_has("", "y", "element"));
  assert_true(mr3d_rules_has(rules, "key", NULL) && !mr3d_rules_has(rules, "none", NULL) && !mr3d_rules_has(rules, "other", NULL) && !mr3d_rules_has("none= y=element", "none", NULL));
  assert_true(mr3d_rules_names(rules, "none") && !mr3d_rules_names(rules, "uery") && !mr3d_rules_names("error", "error"));
}

/** A case that changed is measured anew, the others are kept; without the table, or with one of other cases, nothing is certified or verified. */
static void a_table_that_is_out_of_date_is_said_to_be(void **state) {
  (void)state;
  assert_int_equal(mr3d("golden rules --check"), 0);
  certify_well("builtin:emulated", "before.json", "");
  assert_int_equal(run_command("cp \"$MR3D_GOLDEN/cases.json\" \"$MR3D_GOLDEN/kept.json\" && sed -i '0,/\\[40, 32\\]/s//[41, 32]/' \"$MR3D_GOLDEN/cases.json\""), 0);
  assert_int_equal(mr3d("golden rules --check"), 1);
  assert_said("rmsnorm/a is not what golden/rules.json was measured of: mr3d golden rules brings it up to date");
  assert_int_equal(mr3d("golden rules"), 0);
  assert_said("1 case measured anew");
  assert_int_equal(mr3d("golden rules --check"), 0);
  assert_int_equal(run_command("mv \"$MR3D_GOLDEN/kept.json\" \"$MR3D_GOLDEN/cases.json\" && sed -i '/rmsnorm.b\"/d' \"$MR3D_GOLDEN/rules.json\""), 0);
  assert_int_equal(certify("builtin:emulated", "lacking.json", ""), 1);
  assert_said("golden/rules.json says nothing of rmsnorm/b");
  assert_int_equal(verify("before.json", ""), 1);
  assert_said("golden/rules.json says nothing of rmsnorm/b");
  remove_file("rules.json");
  assert_int_equal(verify("before.json", ""), 1); /* could not check: that is no refusal */
  assert_null(strstr(output, "REFUSED"));
  write_text(folder, "rules.json", "{\"cases\": []}");
  assert_int_equal(verify("before.json", ""), 1);
  write_lists(folder);
  assert_int_equal(verify("before.json", ""), 0);
}

static int open_committed(void **state) {
  mr3d_error error = {0};
  if (mr3d_suite_open(getenv("MR3D_COMMITTED"), NULL, &committed, &error) != MR3D_OK) fail_msg("%s", error.message);
  return make_certified(state);
}

static int close_committed(void **state) {
  mr3d_suite_close(&committed);
  return drop(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_committed_table_is_that_of_the_committed_cases), cmocka_unit_test(a_sample_measured_again_gives_the_same),
                                     cmocka_unit_test(what_depends_on_the_inputs_is_not_in_the_table), cmocka_unit_test(the_reference_decides_where_the_table_says_too_much), cmocka_unit_test(answers_that_no_nonce_changes_are_known),
                                     cmocka_unit_test(texts_of_rules_are_read), cmocka_unit_test(a_table_that_is_out_of_date_is_said_to_be)};
  return cmocka_run_group_tests(tests, open_committed, close_committed);
}
