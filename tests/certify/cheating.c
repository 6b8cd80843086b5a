/** Those who want a certificate without deserving it: stored answers, forged numbers, exchanged files, answers that depend on what they must not depend on. */
#include <unistd.h>

#include "certified.h"
#include "protocol.h"

static char cheat[600], elsewhere[256]; /* a folder that no suite reads, so that a backend may write to it */

static int certify_cheat(const char *mode, const char *nonce, const char *name, const char *more) {
  return mr3d("certify --backend \"exec:'%s' %s\" --profile decoder --tier fp32 --nonce %s --key %s/vendor.key -o %s/%s --quiet %s", cheat, mode, nonce, folder, folder, name, more);
}

/** One that kept everything passes where it is asked the same again, and nowhere else. */
static void stored_answers_fail_on_the_next_nonce(void **state) {
  (void)state;
  static const char *const nonces[] = {"000102030405060708090a0b0c0d0e10", "010102030405060708090a0b0c0d0e0f", "ffffffffffffffffffffffffffffffff", "0001020304050607", "00000000000000000000000000000000",
                                       "000102030405060708090a0b0c0d0e0f00", "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"};
  char name[32];
  assert_int_equal(certify_cheat("record", NONCE, "honest.json", "--no-isolation"), 0);
  assert_int_equal(certify_cheat("replay", NONCE, "replayed.json", ""), 0); /* the store works: else the rest would prove nothing */
  for (size_t i = 0; i < sizeof nonces / sizeof *nonces; i++) {
    snprintf(name, sizeof name, "cheat-%zu.json", i);
    const int expected = strlen(nonces[i]) < 32 ? 1 : 2; /* one is too short to be a nonce */
    if (certify_cheat("replay", nonces[i], name, "") != expected) fail_msg("nonce %s: %s", nonces[i], output);
    assert_said(expected == 2 ? "does not conform" : "is no nonce");
  }
  assert_int_equal(run_command("test ! -e \"$MR3D_GOLDEN/cheat-0.json\" && test -e \"$MR3D_GOLDEN/cheat-0.json.failure\""), 0);
  /* and the certificate of the old nonce does not answer a new one */
  assert_int_equal(verify("replayed.json", "--nonce " OTHER_NONCE), 2);
}

static void a_report_of_failure_is_authentic_and_no_certificate(void **state) {
  (void)state;
  assert_int_equal(verify("cheat-0.json.failure", ""), 2);
  assert_said("report of failure of decoder@fp32: does not conform");
  assert_said("not passed: rmsnorm/");
  cJSON *statement = statement_of("cheat-0.json.failure");
  assert_string_equal(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(statement, "predicate"), "result")->valuestring, "FAILED");
  /* signed anew as a certificate, by the very key: the numbers say otherwise */
  cJSON_SetValuestring(cJSON_GetObjectItemCaseSensitive(extension_of(statement), "kind"), "certificate");
  char *payload = cJSON_PrintUnformatted(statement);
  write_signed("tampered.json", payload, "vendor");
  assert_int_equal(verify("tampered.json", ""), 2);
  assert_said("kind: the file says \"certificate\", but from its results and this suite follows \"report of failure\"");
  cJSON_free(payload);
  cJSON_Delete(statement);
}

static void what_depends_on_its_neighbours_is_found(void **state) {
  (void)state;
  assert_int_equal(certify_cheat("batch 40", NONCE, "batch.json", ""), 2);
  assert_said("#batch at fp32");
  assert_said("passed in a batch of its own, fails beside other samples: the answer depends on its neighbours (P26)");
  assert_said("order-sensitivity");
  assert_int_equal(verify("batch.json.failure", ""), 2);
  assert_said("#batch: step 0 (rmsnorm)");
}

static void what_depends_on_order_or_threads_is_found(void **state) {
  (void)state;
  assert_int_equal(certify_cheat("threads", NONCE, "threads.json", "--threads 1"), 2);
  assert_said("order-sensitivity");
  assert_int_equal(verify("threads.json.failure", ""), 2);
  assert_said("#again: step 0 (rmsnorm), asked again");
}

/** Whether the statement has a protection, or a sentence of what it does not prove. */
static bool states(const char *name, const char *text) {
  cJSON *statement = statement_of(name);
  char *all = cJSON_PrintUnformatted(statement);
  const bool found = strstr(all, text) != NULL;
  cJSON_free(all);
  cJSON_Delete(statement);
  return found;
}

/** Whether a protection could not be had here, for a reason that is said; else it must have been in force. */
static bool is_lacking(const char *name, const char *protection) {
  char lacking[200];
  snprintf(lacking, sizeof lacking, "%s: ", protection);
  if (!states(name, "mount namespace: ") && !states(name, lacking)) {
    assert_true(states(name, protection));
    return false;
  }
  print_message("this system lacks \"%s\": not tested\n", protection);
  return true;
}

/** A backend that keeps its answers in a file gives them again, whatever the order; isolated, it finds the file gone. */
static void no_file_outlives_a_backend(void **state) {
  (void)state;
  char mode[700], path[300];
  snprintf(mode, sizeof mode, "disk %s", elsewhere);
  if (certify_cheat(mode, NONCE, "open.json", "--threads 1 --no-isolation") != 0) fail_msg("%s", output); /* not seen, and the certificate says that it could not be */
  assert_true(states("open.json", "the backend could keep answers in files from one start to the next"));
  snprintf(path, sizeof path, "%s/remembered", elsewhere);
  assert_int_equal(remove(path), 0);
  const int status = certify_cheat(mode, NONCE, "closed.json", "--threads 1");
  if (is_lacking(status ? "closed.json.failure" : "closed.json", MR3D_FORGETS)) {
    assert_true(states(status ? "closed.json.failure" : "closed.json", "the backend could keep answers in files"));
    return;
  }
  assert_int_equal(status, 2);
  assert_said("order-sensitivity");
  assert_int_equal(access(path, F_OK), -1);
  assert_false(states("closed.json.failure", "the backend could keep answers in files"));
}

/** The key that signs is not for the backend's eyes. */
static void a_backend_cannot_read_the_key(void **state) {
  (void)state;
  char mode[700];
  snprintf(mode, sizeof mode, "peek %s/vendor.key", folder);
  assert_int_equal(certify_cheat(mode, NONCE, "seen.json", "--no-isolation"), 2); /* it answers wrongly where it sees the key */
  const int status = certify_cheat(mode, NONCE, "unseen.json", "");
  if (is_lacking(status ? "unseen.json.failure" : "unseen.json", "keys hidden by a mount")) return;
  assert_int_equal(status, 0);
  assert_int_equal(verify("unseen.json", "--require isolation"), 0);
  assert_said("note: only the words of its command were hashed");
  assert_int_equal(verify("seen.json.failure", "--require isolation"), 2);
  assert_said("without isolation (--no-isolation)");
  assert_int_equal(verify("unseen.json", "--require isolation,files"), 2);
  assert_said("subject: only the words of the command were hashed, not what its program loads (--files)");
  assert_int_equal(verify("unseen.json", "--require privacy"), 1);
  assert_said("--require privacy: expected isolation or files");
}

static void files_must_stay_what_they_were(void **state) {
  (void)state;
  char mode[700], more[700];
  write_text(elsewhere, "weights.bin", "some weights");
  snprintf(mode, sizeof mode, "change %s/weights.bin", elsewhere);
  snprintf(more, sizeof more, "--no-isolation --files %s/weights.bin", elsewhere); /* isolated, it could change what it sees alone */
  assert_int_equal(certify_cheat(mode, NONCE, "changed.json", more), 1);
  assert_said("nothing is signed: the backend's files changed while it was judged");
  assert_int_equal(run_command("ls \"$MR3D_GOLDEN\" | grep changed"), 1);
}

static void stored_files_cannot_be_certified(void **state) {
  (void)state;
  char spec[400];
  snprintf(spec, sizeof spec, "dir:%s", folder);
  assert_int_equal(certify(spec, "dir.json", ""), 1);
  assert_said("stored answers cannot be certified");
}

/* ---- replay ---- */

/** A store earned it, with the nonce at hand: its own inputs it answers again, bit for bit, and other inputs never, whichever single case is drawn. */
static void stored_answers_do_not_survive_replay(void **state) {
  (void)state;
  char words[900];
  assert_int_equal(verify("replayed.json", "--nonce " NONCE), 0); /* nothing in it is wrong */
  for (int i = 0; i < 8; i++) {
    snprintf(words, sizeof words, "--replay 1 --backend \"exec:'%s' replay\" --picks %02x112233445566778899aabbccddeeff", cheat, i);
    if (verify("replayed.json", words) != 2) fail_msg("%s", output);
    assert_said("replayed 1 of the tests: 1 with the recorded numbers, bit for bit");
    assert_said("on inputs of your own: step 0 (rmsnorm)");
    assert_said("the certificate's answers may be stored ones");
    assert_null(strstr(output, "It proves"));
  }
  snprintf(words, sizeof words, "--replay 100 --backend \"exec:'%s' record\"", cheat);
  assert_int_equal(verify("replayed.json", words), 0); /* the same files, answering for themselves */
  assert_said("judged 11 of its cases on inputs of your own: ");
}

/** All of a certificate's numbers, judged again by another run of the same program, are the recorded ones, bit for bit. */
static void an_honest_certificate_survives_replay(void **state) {
  (void)state;
  certify_well("builtin:emulated", "good.json", "--threads 1");
  assert_int_equal(verify("good.json", "--replay 100 --backend builtin:emulated"), 0);
  assert_said("with the recorded numbers, bit for bit");
  assert_int_equal(verify("good.json", "--replay 3 --backend builtin:emulated --threads 2"), 0);
  assert_said("replayed 3 of the tests: 3 with");
  assert_int_equal(verify("good.json", "--replay 3 --backend builtin:emulated --picks " OTHER_NONCE), 0);
  assert_said("replayed is what --picks " OTHER_NONCE " draws");
  assert_int_equal(verify("good.json", "--replay 3"), 1);
  assert_said("--replay and --backend go together");
}

/** Numbers from elsewhere, well within their limits and rightly signed, are not those of the backend. */
static void forged_numbers_do_not_survive_replay(void **state) {
  (void)state;
  assert_int_equal(certify("mutant:qwen2-details/weight-plus-one", "wrong.json", ""), 2);
  cJSON *statement = statement_of("good.json"), *failure = statement_of("wrong.json.failure");
  /* the certificate of another, with this backend's name and the same file, for both are the suite's program */
  cJSON_ReplaceItemInObjectCaseSensitive(extension_of(statement), "backend", cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(extension_of(failure), "backend"), true));
  char *payload = cJSON_PrintUnformatted(statement);
  write_signed("forged.json", payload, "vendor");
  cJSON_free(payload);
  cJSON_Delete(statement), cJSON_Delete(failure);
  assert_int_equal(verify("forged.json", ""), 0); /* nothing in it contradicts itself: that is what replay is for */
  assert_int_equal(verify("forged.json", "--replay 4 --backend mutant:qwen2-details/weight-plus-one"), 2);
  assert_said("recorded passed, now failed");
  assert_said("on inputs of your own: step 0 (rmsnorm): ");
  assert_said("qwen2-details/weight-plus-one; the certificate's answers may be stored ones"); /* the mistake, by its name */
  assert_int_equal(verify("forged.json", "--replay 4 --backend builtin:reference"), 2);
  assert_said("verdict alike, but not the numbers");
  assert_int_equal(verify("forged.json", "--replay 4 --backend builtin:reference --other-machine"), 0);
  char words[700];
  snprintf(words, sizeof words, "--replay 4 --backend \"exec:'%s' batch 99\"", cheat);
  assert_int_equal(verify("good.json", words), 2);
  assert_said("is none of the files that were certified");
}

static int make_cheated(void **state) {
  char store[600];
  snprintf(cheat, sizeof cheat, "%s", getenv("MR3D_CHEAT"));
  const int status = make_certified(state);
  make_folder(elsewhere);
  snprintf(store, sizeof store, "%s/store", elsewhere);
  setenv("MR3D_CHEAT_STORE", store, 1);
  return status;
}

static int drop_cheated(void **state) {
  remove_folder(elsewhere);
  return drop(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(stored_answers_fail_on_the_next_nonce), cmocka_unit_test(a_report_of_failure_is_authentic_and_no_certificate),
                                     cmocka_unit_test(what_depends_on_its_neighbours_is_found), cmocka_unit_test(what_depends_on_order_or_threads_is_found),
                                     cmocka_unit_test(no_file_outlives_a_backend), cmocka_unit_test(a_backend_cannot_read_the_key), cmocka_unit_test(files_must_stay_what_they_were), cmocka_unit_test(stored_files_cannot_be_certified),
                                     cmocka_unit_test(stored_answers_do_not_survive_replay), cmocka_unit_test(an_honest_certificate_survives_replay), cmocka_unit_test(forged_numbers_do_not_survive_replay)};
  return cmocka_run_group_tests(tests, make_cheated, drop_cheated);
}
