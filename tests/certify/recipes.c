/** The scripts that judge shards and merge them: what an earlier run left behind is told apart, and nothing is lost. */
#include "certified.h"

/** A script of tools/recipes with its settings; the exit status. */
static int recipe(const char *script, const char *settings, const char *arguments) {
  char command[4000];
  snprintf(command, sizeof command, "PARTS=%s/parts KEY=%s/vendor.key TIER=fp32 PROFILE=decoder NONCE=" NONCE " BACKEND=builtin:emulated %s sh \"$MR3D_RECIPES/%s\" %s 2>&1", folder, folder, settings, script,
           arguments);
  return run_command(command);
}

static int merge(const char *settings, const char *name) {
  char arguments[400];
  snprintf(arguments, sizeof arguments, "2 %s/%s", folder, name);
  return recipe("merge.sh", settings, arguments);
}

static void a_shard_that_is_there_is_not_judged_again(void **state) {
  (void)state;
  for (int i = 1; i <= 2; i++) {
    char arguments[8];
    snprintf(arguments, sizeof arguments, "%d 2", i);
    assert_int_equal(recipe("shard.sh", "", arguments), 0);
    assert_int_equal(recipe("shard.sh", "", arguments), 0);
    assert_said("of-2.json is there already");
  }
  assert_int_equal(merge("", "merged.json"), 0);
  assert_int_equal(verify("merged.json", "--nonce " NONCE), 0);
}

/** Another nonce, profile, tier, backend; an empty file, a damaged one, that of another shard: put aside, and the shard is judged. */
static void what_is_left_from_another_run_is_put_aside(void **state) {
  (void)state;
  static const char *const others[] = {("NONCE=" OTHER_NONCE), "PROFILE=core", "TIER=bf16", "TIER=fp32,bf16", "OPS=rmsnorm", "BACKEND=\"exec:$MR3D_CHEAT rows 7\"", "KEY=$MR3D_GOLDEN/stranger.key"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    assert_int_equal(run_command("rm -f \"$MR3D_GOLDEN\"/parts/1-of-2.json*"), 0);
    if (recipe("shard.sh", others[i], "1 2") != 0) fail_msg("%s", output);
    if (recipe("shard.sh", "", "1 2") != 0) fail_msg("%s: %s", others[i], output);
    assert_said("is not of this run: put aside as");
    assert_int_equal(run_command("test -s \"$MR3D_GOLDEN/parts/1-of-2.json.stale\""), 0);
    assert_int_equal(recipe("shard.sh", "", "1 2"), 0);
    assert_said("is there already");
  }
  static const char *const damages[] = {": >", "echo '{}' >", "head -c 900 \"$MR3D_GOLDEN/parts/2-of-2.json\" >", "cat \"$MR3D_GOLDEN/parts/2-of-2.json\" >"};
  for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
    char command[400];
    snprintf(command, sizeof command, "%s \"$MR3D_GOLDEN/parts/1-of-2.json\"", damages[i]);
    assert_int_equal(run_command(command), 0);
    assert_int_equal(recipe("shard.sh", "", "1 2"), 0);
    assert_said("is not of this run: put aside as");
  }
  remove_file("merged.json");
  assert_int_equal(merge("", "merged.json"), 0); /* none of those aside is merged */
}

/** One that nobody looked at before the merge is named. */
static void a_part_of_another_nonce_is_not_merged(void **state) {
  (void)state;
  assert_int_equal(run_command("rm \"$MR3D_GOLDEN\"/parts/*.stale && mv \"$MR3D_GOLDEN/parts/2-of-2.json\" \"$MR3D_GOLDEN/kept.json\""), 0);
  assert_int_equal(recipe("shard.sh", "NONCE=" OTHER_NONCE, "2 2"), 0);
  assert_int_equal(merge("", "never.json"), 1);
  assert_said("parts/2-of-2.json: it answers another nonce than that of --nonce: it is left from another run");
  assert_int_equal(run_command(": >\"$MR3D_GOLDEN/parts/2-of-2.json\""), 0);
  assert_int_equal(merge("", "never.json"), 1);
  assert_said("parts/2-of-2.json: ");
  assert_int_equal(run_command("test ! -e \"$MR3D_GOLDEN/never.json\" && mv \"$MR3D_GOLDEN/kept.json\" \"$MR3D_GOLDEN/parts/2-of-2.json\""), 0);
}

static void waivers_and_sealed_keys_go_through_the_scripts(void **state) {
  (void)state;
  char settings[1500];
  write_text(folder, "pass", "a long phrase\n");
  assert_int_equal(mr3d("keygen %s/sealed.key --passphrase-file %s/pass", folder, folder), 0);
  write_text(folder, "list.json", "{\"format\": 1, \"waivers\": [{\"cases\": \"rmsnorm/[ij]\", \"tiers\": [\"fp32\"], \"reason\": \"r\", \"issue\": \"https://example.com/1\", \"expires\": \"2999-12-31\"}]}");
  assert_int_equal(mr3d("sign %s/list.json --key %s/lab.key -o %s/list.signed", folder, folder, folder), 0);
  snprintf(settings, sizeof settings, "PARTS=%s/sealed KEY=%s/sealed.key PASSPHRASE_FILE=%s/pass BACKEND=\"exec:$MR3D_CHEAT rows 24\" WAIVERS=%s/list.signed WAIVER_KEY=%s/lab.key.pub", folder, folder, folder,
           folder, folder);
  assert_int_equal(recipe("shard.sh", settings, "1 2"), 0);
  assert_int_equal(recipe("shard.sh", settings, "2 2"), 0);
  if (merge(settings, "waived.json") != 0) fail_msg("%s", output);
  assert_said("conforms with 1 waiver");
  assert_int_equal(mr3d("verify %s/waived.json --key %s/sealed.key.pub --waiver-key %s/lab.key.pub", folder, folder, folder), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_shard_that_is_there_is_not_judged_again), cmocka_unit_test(what_is_left_from_another_run_is_put_aside),
                                     cmocka_unit_test(a_part_of_another_nonce_is_not_merged), cmocka_unit_test(waivers_and_sealed_keys_go_through_the_scripts)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
