/** mr3d export and dir: as a user meets them: requests go out as files, answers come back as files, and what is no answer is known for what it is. */
#include "offline.h"

#include "../program.h"
#include "small_suite.h"

static char folder[256];

/** Runs a command line through the shell in the test's folder; $MR3D is the program. */
static int shell(const char *words) {
  char command[5000];
  snprintf(command, sizeof command, "{ cd '%s' && %s; } 2>&1", folder, words);
  return run_command(command);
}

static void assert_shell(const char *words, int status) {
  int got = shell(words);
  if (got != status) fail_msg("%s: exit status %d, expected %d; %.3000s", words, got, status, output);
}

#define EVAL(to) "cd requests && { \"$MR3D\" eval *.req.safetensors -o ../" to "; cd ..; }"
#define CHECK "\"$MR3D\" check --backend dir:answers --golden . "

/** A golden set, its requests of seed 7 at fp32, and the reference's answers. */
static int make(void **state) {
  (void)state;
  make_folder(folder);
  make_set(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("b", "", "") ", " REFUSED_CASE("refused", ""));
  assert_shell("\"$MR3D\" export requests --seed 7 --tier fp32 --golden .", 0);
  assert_said("3 requests and 0 weights files of seed 7 in requests");
  shell(EVAL("answers")); /* status 1: one is refused, as it must be */
  return 0;
}

static int drop(void **state) {
  (void)state;
  remove_folder(folder);
  return 0;
}

static void right_answers_pass(void **state) {
  (void)state;
  assert_shell(CHECK "--seed 7", 0);
  assert_said("all 3 compared results passed");
  if (strstr(output, "extra")) fail_msg("%s", output);
}

static void the_index_lists_every_request_with_its_sha256(void **state) {
  (void)state;
  assert_shell("cat requests/index.json", 0);
  cJSON *index = cJSON_Parse(output), *request;
  assert_non_null(index);
  assert_string_equal(cJSON_GetObjectItem(index, "seed")->valuestring, "7");
  assert_non_null(cJSON_GetObjectItem(index, "mr3d"));
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(index, "requests")), 3);
  cJSON_ArrayForEach(request, cJSON_GetObjectItem(index, "requests")) {
    char name[300], hex[65];
    size_t size;
    snprintf(name, sizeof name, "requests/%s", cJSON_GetObjectItem(request, "file")->valuestring);
    char *bytes = read_bytes(folder, name, &size);
    hex_of(bytes, size, hex);
    free(bytes);
    assert_string_equal(cJSON_GetObjectItem(request, "sha256")->valuestring, hex);
    mr3d_request_id id;
    assert_true(mr3d_request_id_parse(cJSON_GetObjectItem(request, "id")->valuestring, &id));
    assert_string_equal(id.test, cJSON_GetObjectItem(request, "case")->valuestring);
    assert_int_equal(id.step, cJSON_GetObjectItem(request, "step")->valueint);
  }
  cJSON_Delete(index);
}

static void a_missing_answer_fails_its_case_alone(void **state) {
  (void)state;
  assert_shell("rm answers/rmsnorm_b.fp32.000.ans.safetensors", 0);
  assert_shell(CHECK "--seed 7", 2);
  assert_said("rmsnorm_b.fp32.000.ans.safetensors is missing: nobody answered this request");
  assert_said("2 passed, 1 failed");
}

static void a_renamed_answer_is_found_by_its_id(void **state) {
  (void)state;
  assert_shell("mv answers/rmsnorm_b.fp32.000.ans.safetensors answers/mine.ans.safetensors", 0);
  assert_shell(CHECK "--seed 7", 2);
  assert_said("rmsnorm_b.fp32.000.ans.safetensors is missing, but mine.ans.safetensors answers this request: it is renamed");
  assert_shell("mv answers/mine.ans.safetensors answers/rmsnorm_a.fp32.000.ans.safetensors", 0);
  assert_shell(CHECK "--seed 7", 2);
  assert_said("rmsnorm_a.fp32.000.ans.safetensors is renamed: by its id it answers step 0 of rmsnorm/b at fp32");
}

static void an_extra_answer_is_told_and_harms_nobody(void **state) {
  (void)state;
  assert_shell("cp answers/rmsnorm_b.fp32.000.ans.safetensors answers/more.ans.safetensors", 0);
  assert_shell(CHECK "--seed 7", 0);
  assert_said("1 extra answer file in answers, to nothing that this run asked: more.ans.safetensors (rmsnorm/b at fp32, step 0, seed 7");
  assert_shell(CHECK "--seed 7 --case rmsnorm/a", 0);
  assert_said("3 extra answer files in answers");
}

static void an_answer_of_another_seed_is_stale(void **state) {
  (void)state;
  assert_shell(CHECK, 2);
  assert_said("is stale: it answers the request of seed 7, asked was that of seed 0; check with --seed 7, or export anew");
}

/** Writes `from` again as answer `to`, its id changed from one text to another. */
static void change_id(const char *from, const char *to, const char *old, const char *new) {
  char path[600], id[MR3D_REQUEST_ID_SIZE + 64] = "";
  mr3d_bundle *bundle = NULL;
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/answers/%s", folder, from);
  if (mr3d_safetensors_open(path, 0, &bundle, &error) != MR3D_OK) fail_msg("%s", error.message);
  const char *was = mr3d_bundle_get(bundle, "id"), *at = strstr(was, old);
  assert_non_null(at);
  snprintf(id, sizeof id, "%.*s%s%s", (int)(at - was), was, new, at + strlen(old));
  mr3d_bundle_set(bundle, "id", id);
  snprintf(path, sizeof path, "%s/answers/%s", folder, to);
  if (mr3d_safetensors_save(path, bundle, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&bundle);
}

static void an_answer_of_another_version_or_request_is_stale(void **state) {
  (void)state;
  const char *a = "rmsnorm_a.fp32.000.ans.safetensors", *b = "rmsnorm_b.fp32.000.ans.safetensors";
  change_id(a, a, "mr3d=", "mr3d=0.0.1+");
  assert_shell(CHECK "--seed 7", 2);
  assert_said("rmsnorm_a.fp32.000.ans.safetensors is stale: it answers a request of mr3d 0.0.1+");
  size_t size;
  char *bytes = read_bytes(folder, "answers/rmsnorm_b.fp32.000.ans.safetensors", &size), *at = memmem(bytes, size, "request=", 8);
  assert_non_null(at);
  char old[16] = "request=", new[16] = "request=";
  old[8] = at[8], new[8] = at[8] == '0' ? '1' : '0';
  free(bytes);
  change_id(b, b, old, new);
  assert_shell(CHECK "--seed 7 --case rmsnorm/b", 2);
  assert_said("is stale: the request has changed since it was exported");
}

/* Puts something else in the place of one answer, named $A. */
static void assert_spoilt(const char *spoil, const char *told) {
  char words[600];
  snprintf(words, sizeof words, "cp -a answers kept; A=answers/rmsnorm_b.fp32.000.ans.safetensors; %s", spoil);
  assert_shell(words, 0);
  const int status = shell("timeout 20 " CHECK "--seed 7");
  if (status != 2 || !strstr(output, told) || !strstr(output, "2 passed, 1 failed")) fail_msg("%s: exit status %d, expected %s; %.3000s", spoil, status, told, output);
  assert_shell("rm -r answers && mv kept answers", 0);
}

static void what_is_no_answer_file_fails_its_case_alone_and_says_why(void **state) {
  (void)state;
  assert_spoilt("truncate -s 100 $A", "unreadable: rmsnorm_b.fp32.000.ans.safetensors: header length is");
  assert_spoilt("truncate -s -1 $A", "unreadable: rmsnorm_b.fp32.000.ans.safetensors: tensor \"y\": data_offsets");
  assert_spoilt("printf x >>$A", "bytes follow the last tensor");
  assert_spoilt("truncate -s 0 $A", "0 bytes; a safetensors file starts with the header's length");
  assert_spoilt("head -c 4096 \"$MR3D\" >$A", "is this a safetensors file?");
  assert_spoilt("printf '\\377\\377\\377\\377\\377\\377\\377\\177{}' >$A", "header length 9223372036854775807 is above the limit");
  assert_spoilt("truncate -s 5G $A", "5368709120 bytes, at most 4294967296 are accepted");
  assert_spoilt("rm $A; mkfifo $A", "a device or pipe, not a regular file");
  assert_spoilt("rm $A; mkdir $A", "a folder, not a regular file");
  assert_spoilt("mv $A secret.safetensors; ln -s ../secret.safetensors $A", "unreadable: rmsnorm_b.fp32.000.ans.safetensors: a link out of the folder");
  assert_spoilt("rm $A; ln -s /dev/zero $A", "a link out of the folder");
  assert_spoilt("mv $A answers-beside; ln -s ../answers-beside $A", "a link out of the folder");
  assert_spoilt("rm $A; ln -s ../nowhere $A", "cannot find it: No such file");
  assert_spoilt("rm $A; ln -s rmsnorm_b.fp32.000.ans.safetensors $A", "cannot find it: Too many levels of symbolic links");
}

static void a_link_inside_the_folder_is_an_answer(void **state) {
  (void)state;
  assert_shell("cd answers && mv rmsnorm_b.fp32.000.ans.safetensors b.data && ln -s b.data rmsnorm_b.fp32.000.ans.safetensors && cd .. && ln -s answers linked", 0);
  assert_shell("\"$MR3D\" check --backend dir:linked --golden . --seed 7", 0);
  assert_said("all 3 compared results passed");
}

static void what_holds_no_answer_does_not_start(void **state) {
  (void)state;
  assert_shell("\"$MR3D\" check --backend dir:nowhere --golden .", 1);
  assert_said("answers nowhere: No such file");
  assert_shell("mkdir empty; \"$MR3D\" check --backend dir:empty --golden .", 1);
  assert_said("empty holds no answer: no file is named NAME.ans.safetensors");
  assert_shell("echo x > empty/a.ans.safetensors; "
               "\"$MR3D\" check --backend dir:empty --golden .", 1);
  assert_said("none of the 1 answers in empty is to a request of `mr3d export`; the first, a.ans.safetensors: ");
}

static void a_folder_that_holds_something_is_not_exported_into(void **state) {
  (void)state;
  assert_shell("\"$MR3D\" export requests --golden .", 1);
  assert_said("requests holds something already");
  assert_shell("\"$MR3D\" export more --op rmsnorn --golden .", 1);
  assert_said("did you mean \"rmsnorm\"?");
}

static void wrong_answers_fail_and_are_diagnosed_as_of_any_backend(void **state) {
  (void)state;
  assert_shell("rm -r answers; cd requests && \"$MR3D\" eval *.req.safetensors -o ../answers --backend mutant:qwen2-details/weight-plus-one; cd ..", 0);
  assert_shell(CHECK "--seed 7", 2);
  assert_said("qwen2-details/weight-plus-one");
}

/** On the committed set: prefill, decodes, and weights that lie beside the requests. */
static void a_session_goes_out_and_comes_back(void **state) {
  (void)state;
  assert_shell("\"$MR3D\" export sessions --seed 3 --case drop-session/reopen --tier fp64 --golden \"$MR3D_GOLDEN\"", 0);
  assert_shell("cd sessions && \"$MR3D\" eval *.req.safetensors -o ../back; cd ..; ls sessions/weights | wc -l", 0);
  assert_shell("\"$MR3D\" check --backend dir:back --seed 3 --case drop-session/reopen --tier fp64 --golden \"$MR3D_GOLDEN\"", 0);
  assert_said("all 1 compared results passed");
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, make, drop)

int main(void) {
  const struct CMUnitTest tests[] = {
    FRESH(right_answers_pass),
    FRESH(the_index_lists_every_request_with_its_sha256),
    FRESH(a_missing_answer_fails_its_case_alone),
    FRESH(a_renamed_answer_is_found_by_its_id),
    FRESH(an_extra_answer_is_told_and_harms_nobody),
    FRESH(an_answer_of_another_seed_is_stale),
    FRESH(an_answer_of_another_version_or_request_is_stale),
    FRESH(what_is_no_answer_file_fails_its_case_alone_and_says_why),
    FRESH(a_link_inside_the_folder_is_an_answer),
    FRESH(what_holds_no_answer_does_not_start),
    FRESH(a_folder_that_holds_something_is_not_exported_into),
    FRESH(wrong_answers_fail_and_are_diagnosed_as_of_any_backend),
    FRESH(a_session_goes_out_and_comes_back),
  };
  return cmocka_run_group_tests_name("offline", tests, NULL, NULL);
}
