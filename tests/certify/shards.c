/** Shards: what several machines judge is what one would have judged, and nothing is missing or there twice. */
#include <unistd.h>

#include "certified.h"
#include "shard.h"

/** One part; the exit status. */
static int part(const char *backend, int index, int of, const char *name, const char *more) {
  char words[400];
  snprintf(words, sizeof words, "--shard %d/%d %s", index, of, more);
  remove_file(name);
  return certify(backend, name, words);
}

static int merge(const char *parts, const char *name) {
  char list[2000] = "";
  for (const char *at = parts; *at; at += strspn(at, " ")) {
    snprintf(list + strlen(list), sizeof list - strlen(list), " %s/%.*s", folder, (int)strcspn(at, " "), at);
    at += strcspn(at, " ");
  }
  remove_file(name);
  return mr3d("merge%s --key %s/vendor.key -o %s/%s", list, folder, folder, name);
}

/** What must not depend on how many machines there were: tests, counts, verdict, reasons and every number. */
static char *essence(const char *name) {
  cJSON *statement = statement_of(name), *extension = extension_of(statement);
  static const char *const gone[] = {"issued", "machines", "parts"};
  for (int i = 0; i < 3; i++) cJSON_DeleteItemFromObjectCaseSensitive(extension, gone[i]);
  char *text = cJSON_PrintUnformatted(statement);
  cJSON_Delete(statement);
  return text;
}

static void assert_same_as_one(const char *backend, const char *suffix) {
  char one[64], name[64], merged[64], list[400];
  snprintf(one, sizeof one, "one-%d.json", (int)strlen(backend));
  remove_file(one);
  const int expected = certify(backend, one, "");
  snprintf(one, sizeof one, "one-%d.json%s", (int)strlen(backend), suffix);
  char *whole = essence(one);
  for (int of = 2; of <= 5; of++) {
    list[0] = 0;
    for (int index = of; index >= 1; index--) { /* in whatever order they come */
      snprintf(name, sizeof name, "part-%d-%d.json", of, index);
      assert_int_equal(part(backend, index, of, name, index % 2 ? "--jobs 2" : "--threads 2"), 0);
      snprintf(list + strlen(list), sizeof list - strlen(list), "%s ", name);
    }
    snprintf(merged, sizeof merged, "merged-%d.json%s", of, suffix);
    remove_file(merged);
    snprintf(merged, sizeof merged, "merged-%d.json", of);
    if (merge(list, merged) != expected) fail_msg("%s", output);
    snprintf(merged, sizeof merged, "merged-%d.json%s", of, suffix);
    char *together = essence(merged);
    assert_string_equal(together, whole);
    free(together);
    assert_int_equal(verify(merged, ""), expected);
  }
  free(whole);
}

static void parts_make_what_one_run_makes_bit_for_bit(void **state) {
  (void)state;
  assert_same_as_one("builtin:emulated", "");
}

static void also_where_it_is_a_report_of_failure(void **state) {
  (void)state;
  assert_same_as_one("mutant:qwen2-details/eps-1e-5", ".failure");
}

static void a_part_is_no_certificate(void **state) {
  (void)state;
  assert_int_equal(verify("part-2-1.json", ""), 2);
  assert_said("partial result");
  assert_said("part 1 of 2, to be merged");
}

static void all_parts_must_be_there_once_and_of_one_run(void **state) {
  (void)state;
  const char *emulated = "builtin:emulated";
  for (int index = 1; index <= 3; index++) {
    char name[32];
    snprintf(name, sizeof name, "p%d.json", index);
    assert_int_equal(part(emulated, index, 3, name, ""), 0);
  }
  assert_int_equal(merge("p1.json p2.json p3.json", "m.json"), 0);
  assert_int_equal(merge("p1.json p3.json", "m.json"), 1);
  assert_said("shard 2/3 is missing: run it again, alone");
  assert_int_equal(merge("p1.json p2.json p2.json p3.json", "m.json"), 1);
  assert_said("shard 2/3 is there twice");
  assert_int_equal(part(emulated, 2, 4, "q.json", ""), 0);
  assert_int_equal(merge("p1.json q.json p3.json", "m.json"), 1);
  assert_said("the number of shards differs");
  assert_int_equal(part("builtin:reference", 2, 3, "q.json", ""), 0);
  assert_int_equal(merge("p1.json q.json p3.json", "m.json"), 1);
  assert_said("the backend differs");
  assert_int_equal(part(emulated, 2, 3, "q.json", "--op rmsnorm"), 0);
  assert_int_equal(merge("p1.json q.json p3.json", "m.json"), 1);
  assert_said("its operators differs");
  assert_int_equal(mr3d("certify --backend builtin:emulated --profile decoder --tier fp32 --nonce " OTHER_NONCE " --key %s/vendor.key -o %s/other.json --quiet --shard 2/3", folder, folder), 0);
  assert_int_equal(merge("p1.json other.json p3.json", "m.json"), 1);
  assert_said("the nonce differs");
  assert_int_equal(merge("p1.json m-gone.json p3.json", "m.json"), 1);
  certify_well(emulated, "whole.json", "");
  assert_int_equal(merge("whole.json p2.json p3.json", "m.json"), 1);
  assert_said("is no part");
  /* signed by somebody else, or changed after it was signed */
  assert_int_equal(mr3d("certify --backend builtin:emulated --profile decoder --tier fp32 --nonce " NONCE " --key %s/stranger.key -o %s/strange.json --quiet --shard 2/3", folder, folder), 0);
  assert_int_equal(merge("p1.json strange.json p3.json", "m.json"), 1);
  assert_said("signature: none is by key");
  size_t size;
  char *text = read_bytes(folder, "p2.json", &size);
  text[size / 2] = text[size / 2] == 'A' ? 'B' : 'A';
  write_text(folder, "changed.json", text);
  free(text);
  assert_int_equal(merge("p1.json changed.json p3.json", "m.json"), 1);
  assert_int_equal(run_command("test ! -e \"$MR3D_GOLDEN/m.json\""), 0); /* nothing was written by any of these */
}

static void shards_are_named_properly(void **state) {
  (void)state;
  static const char *const wrong[] = {"0/2", "3/2", "1", "1/", "/2", "1/2/3", "a/b", "-1/2", "1/2000", "1/0"};
  mr3d_shard shard;
  mr3d_error error = {0};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(mr3d_shard_parse(wrong[i], &shard, &error), MR3D_INVALID);
  assert_int_equal(mr3d_shard_parse("2/4", &shard, &error), MR3D_OK);
  assert_true(shard.index == 2 && shard.of == 4);
  assert_int_equal(part("builtin:emulated", 1, 20, "many.json", ""), 1);
  assert_said("20 shards, but only 12 cases to deal out: some would be empty");
}

/** Each case on one shard; together they are all; check takes the same parts. */
static void every_case_is_on_one_shard(void **state) {
  (void)state;
  int seen = 0;
  for (int index = 1; index <= 3; index++) {
    int passed = 0;
    assert_int_equal(mr3d("check --backend builtin:emulated --tier fp32 --shard %d/3 --quiet", index), 0);
    assert_int_equal(sscanf(strstr(output, "all ") + 4, "%d", &passed), 1);
    seen += passed;
  }
  assert_int_equal(seen, 12);
}

static bool all(void *user, const mr3d_case *test) {
  (void)user;
  return !test->needs_data;
}

/** By the committed costs no shard of the committed set has much more to do than its part, or than the dearest case alone, which cannot be divided. */
static void shards_take_about_as_long(void **state) {
  (void)state;
  mr3d_suite *suite = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_suite_open(getenv("MR3D_COMMITTED"), NULL, &suite, &error), MR3D_OK);
  int n = 0;
  double dearest = 0;
  mr3d_deal *singles = NULL;
  for (int i = 0; i < mr3d_suite_count(suite); i++) n += all(NULL, mr3d_suite_at(suite, i));
  assert_int_equal(mr3d_deal_new(suite, all, NULL, n, &singles, &error), MR3D_OK);
  for (int shard = 1; shard <= n; shard++)
    if (mr3d_deal_cost(singles, shard) > dearest) dearest = mr3d_deal_cost(singles, shard);
  mr3d_deal_free(&singles);
  for (int of = 2; of <= 8; of *= 2) {
    mr3d_deal *deal = NULL, *again = NULL;
    double most = 0, total = 0;
    assert_int_equal(mr3d_deal_new(suite, all, NULL, of, &deal, &error), MR3D_OK);
    assert_int_equal(mr3d_deal_new(suite, all, NULL, of, &again, &error), MR3D_OK);
    for (int shard = 1; shard <= of; shard++) {
      total += mr3d_deal_cost(deal, shard);
      if (mr3d_deal_cost(deal, shard) > most) most = mr3d_deal_cost(deal, shard);
    }
    if (!(most <= 1.1 * total / of || most == dearest)) fail_msg("of %d shards one costs %g, the mean is %g", of, most, total / of);
    for (int i = 0; i < mr3d_suite_count(suite); i++) assert_int_equal(mr3d_deal_shard_of(deal, mr3d_suite_at(suite, i)), mr3d_deal_shard_of(again, mr3d_suite_at(suite, i)));
    mr3d_deal_free(&deal), mr3d_deal_free(&again);
  }
  mr3d_suite_close(&suite);
}

static void dear_cases_are_dealt_first_and_unknown_ones_cost_the_median(void **state) {
  (void)state;
  write_text(folder, "costs.json", "{\"format\": 1, \"cases\": {\"rmsnorm/a\": 90, \"rmsnorm/b\": 50, \"rmsnorm/c\": 40, \"rmsnorm/d\": 10, \"rmsnorm/e\": 10}}");
  mr3d_suite *suite = NULL;
  mr3d_deal *deal = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_suite_open(folder, NULL, &suite, &error), MR3D_OK);
  assert_int_equal(mr3d_deal_new(suite, all, NULL, 2, &deal, &error), MR3D_OK);
  const int a = mr3d_deal_shard_of(deal, mr3d_suite_find(suite, "rmsnorm/a")), b = mr3d_deal_shard_of(deal, mr3d_suite_find(suite, "rmsnorm/b"));
  assert_int_not_equal(a, b);
  assert_true(mr3d_deal_cost(deal, 1) + mr3d_deal_cost(deal, 2) == 90 + 50 + 40 + 10 + 10 + 7 * 40); /* seven unknown ones, 40 each */
  mr3d_deal_free(&deal);
  write_text(folder, "costs.json", "{\"cases\": []}");
  assert_int_equal(mr3d_deal_new(suite, all, NULL, 2, &deal, &error), MR3D_FORMAT);
  write_text(folder, "costs.json", "{");
  assert_int_not_equal(mr3d_deal_new(suite, all, NULL, 2, &deal, &error), MR3D_OK);
  remove_file("costs.json");
  mr3d_suite_close(&suite);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(parts_make_what_one_run_makes_bit_for_bit), cmocka_unit_test(also_where_it_is_a_report_of_failure), cmocka_unit_test(a_part_is_no_certificate),
                                     cmocka_unit_test(all_parts_must_be_there_once_and_of_one_run), cmocka_unit_test(shards_are_named_properly), cmocka_unit_test(every_case_is_on_one_shard),
                                     cmocka_unit_test(shards_take_about_as_long), cmocka_unit_test(dear_cases_are_dealt_first_and_unknown_ones_cost_the_median)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
