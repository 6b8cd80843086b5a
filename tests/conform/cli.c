/** The program as a user starts it: exit statuses, messages, files. */
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "../program.h"
#include "pitfalls.h"
#include "small_suite.h"
#include "in_small_suite.h"

/* ---- help and mistakes in the command line ---- */

static void every_command_has_help(void **state) {
  (void)state;
  char commands[64][32];
  int n = 0;
  assert_int_equal(mr3d("--help"), 0);
  for (const char *line = strstr(output, "\n  "); n < 64 && line && sscanf(line, "\n  %31[a-z]", commands[n]) == 1; line = strchr(line + 1, '\n')) n++;
  assert_true(n >= 18 && n < 64);
  for (int i = 0; i < n; i++) {
    assert_int_equal(mr3d("%s --help", commands[i]), 0);
    assert_said("Usage: mr3d ");
    assert_said(commands[i]);
    assert_said("Options:");
    assert_int_equal(mr3d("help %s", commands[i]), 0);
    assert_said("Options:");
  }
  assert_int_equal(mr3d("--version"), 0);
}

static void mistakes_in_the_command_line_exit_1_and_say_what_was_meant(void **state) {
  (void)state;
  const struct {
    const char *words, *said;
  } mistakes[] = {
      {"", "Usage"},
      {"chekc", "did you mean check?"},
      {"check", "--backend is missing"},
      {"check --bakend x", "unknown option --bakend; did you mean --backend?"},
      {"check --backend", "--backend needs a value"},
      {"check --backend builtin:reference --tier fp8", "expected fp64, fp32"},
      {"check --backend builtin:reference --seed -1", "--seed -1: expected a whole number"},
      {"check --backend builtin:reference --seed 99999999999999999999", "expected a whole number"},
      {"check --backend builtin:reference --timeout 0", "seconds above 0"},
      {"check --backend builtin:reference --case 'linear/*' --case 'rope1d/*'", "--case is given twice"},
      {"check --backend builtin:reference --jobs 0", "--jobs 0: expected at least 1"},
      {"check --backend builtin:reference --quiet=yes", "--quiet takes no value"},
      {"check --backend builtin:reference word", "\"word\" is one argument too many"},
      {"check --backend builtin:reference --golden /no/such", "cases.json"},
      {"eval x.safetensors", "-o is missing"},
      {"compare a b --tier fp32,bf16", "compared at one tier"},
      {"compare /no/such.safetensors b", "/no/such.safetensors"},
      {"list colours", "expected cases, pitfalls, mutants, ops, levels or profiles"},
      {"explain mask-lenght", "did you mean mask-length?"},
      {"bench", "for instance: mr3d bench builtin:reference@fp64"},
      {"bench builtin:reference", "\"builtin:reference\": expected SPEC@TIER"},
      {"bench builtin:reference@fp8", "expected SPEC@TIER"},
      {"bench builtin:reference@fp64 --layers 0", "whole numbers of at least 1"},
      {"bench builtin:reference@fp64 --tokens 8,x", "--tokens 8,x: expected"},
      {"bench builtin:reference@fp64 --tokens 8 --points 9", "more points than --tokens 8"},
      {"golden", "for instance: mr3d golden verify"},
      {"compare", "for instance: mr3d compare 0.req"},
      {"compare a b c", "3 files, so the last has no partner"},
      {"eval", "a request file is missing"},
      {"explain", "for instance: mr3d explain mask-length"},
      {"explain L3", "L3 is a level, which is not explained here: `mr3d list levels`"},
      {"explain attention", "attention is an operator, which is not explained here: docs/protocol.md"},
      {"list --level L7", "no case has that"},
      {"golden verfy", "expected verify, list, diff or rules"},
      {"golden diff", "needs the other folder"},
  };
  for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
    if (mr3d("%s", mistakes[i].words) != 1) fail_msg("mr3d %s does not exit with 1: %s", mistakes[i].words, output);
    assert_said(mistakes[i].said);
  }
}

/* ---- check ---- */

static void check_exits_0_2_or_1(void **state) {
  (void)state;
  assert_int_equal(mr3d("check --backend builtin:reference --golden %s", folder), 0);
  assert_said("COMPLIANT: all");
  assert_int_equal(mr3d("check --backend exec:\"'%s'\" --golden %s --case rmsnorm/a", getenv("MR3D_SUBJECT"), folder), 2);
  assert_said("NOT COMPLIANT");
  assert_int_equal(mr3d("check --backend exec:\"'%s'\" --golden %s --tier fp64", getenv("MR3D_SUBJECT"), folder), 1);
  assert_said("nothing was compared");
  assert_int_equal(mr3d("check --backend exec:\"'%s'\" --golden %s --op rmsnorm --level L4", getenv("MR3D_SUBJECT"), folder), 1);
  assert_int_equal(mr3d("check --backend builtin:reference --golden %s --case 'rmsnorm/z*'", folder), 1);
  assert_said("the selection is empty");
  assert_int_equal(mr3d("check --backend exec:false --golden %s", folder), 1);
}

static void deleted_or_changed_golden_makes_check_and_verify_exit_1(void **state) {
  (void)state;
  assert_int_equal(mr3d("golden verify --golden %s", folder), 0);
  assert_said("2 files");
  flip_byte(folder, "set/rmsnorm_refused.safetensors.gz", 20);
  for (int round = 0; round < 2; round++) {
    assert_int_equal(mr3d("golden verify --golden %s", folder), 1);
    assert_said("set/rmsnorm_refused.safetensors.gz");
    assert_said("damaged: 1 problem\n");
    assert_null(strstr(strstr(output, "manifest.json") + 1, "manifest.json")); /* each problem once */
    assert_int_equal(mr3d("check --backend builtin:reference --case rmsnorm/a --golden %s", folder),
                     1); /* also when another case is asked for */
    assert_said("set/rmsnorm_refused.safetensors.gz");
    assert_said("damaged");
    char path[600];
    snprintf(path, sizeof path, "%s/set/rmsnorm_refused.safetensors.gz", folder);
    unlink(path);
  }
}

static void report_files_are_written_and_their_folder_must_exist(void **state) {
  (void)state;
  assert_int_equal(mr3d("check --backend builtin:reference --tier fp64,fp32,tf32,bf16,fp16 --golden %s --json %s/r.json --junit %s/r.xml "
                        "--html %s/r.html",
                        folder, folder, folder, folder),
                   0);
  char *json = read_bytes(folder, "r.json", NULL), *xml = read_bytes(folder, "r.xml", NULL), *html = read_bytes(folder, "r.html", NULL);
  int lines = 0;
  for (char *line = strtok(json, "\n"); line; line = strtok(NULL, "\n"), lines++) {
    cJSON *value = cJSON_Parse(line);
    assert_non_null(value);
    cJSON_Delete(value);
  }
  assert_int_equal(lines, 12); /* run, 2 cases at 5 tiers, summary */
  assert_non_null(strstr(xml, "<testsuites"));
  assert_non_null(strstr(html, "<h1>COMPLIANT</h1>"));
  free(json);
  free(xml);
  free(html);
  assert_int_equal(mr3d("check --backend builtin:reference --golden %s --json %s/no/r.json", folder, folder), 1);
  assert_said("--json: ");
}

static void quiet_says_the_verdict_only(void **state) {
  (void)state;
  assert_int_equal(mr3d("check --backend builtin:reference --golden %s --quiet", folder), 0);
  assert_said("COMPLIANT");
  assert_null(strstr(output, "operator "));
  assert_null(strstr(output, "\033"));
}

/** A call that never returns, interrupted: the weights file that was written is gone with its folder. */
static void interrupted_run_leaves_no_weights_behind(void **state) {
  (void)state;
  const int signals[] = {SIGINT, SIGTERM};
  const char *program = getenv("MR3D"), *golden = committed_set();
  char scratch[300];
  assert_non_null(program);
  snprintf(scratch, sizeof scratch, "%s/scratch", folder);
  mkdir(scratch, 0777);
  for (int i = 0; i < 2; i++) {
    pid_t pid = fork();
    if (pid == 0) {
      setenv("TMPDIR", scratch, 1);
      freopen("/dev/null", "w", stdout);
      execl(program, "mr3d", "check", "--backend", "mutant:mask-ownership/never-returns", "--case", "prefill/option-interleaved", "--tier",
            "fp32", "--timeout", "60", "--golden", golden, (char *)NULL);
      _exit(127);
    }
    char found[600] = "";
    for (int wait = 0; wait < 600 && !*found; wait++) { /* until the file is there, at most a minute */
      nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
      char *list = NULL, command[400];
      snprintf(command, sizeof command, "ls %s/*/*.safetensors 2>/dev/null", scratch);
      FILE *pipe = popen(command, "r");
      size_t size = 0;
      if (getline(&list, &size, pipe) > 0) snprintf(found, sizeof found, "%s", list);
      free(list);
      pclose(pipe);
    }
    assert_true(*found);
    assert_int_equal(kill(pid, signals[i]), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
    assert_int_equal(rmdir(scratch), 0); /* empty */
    mkdir(scratch, 0777);
  }
}

/* ---- eval ---- */

/** A request file of rmsnorm, `columns` wide in x; weight has 4. */
static void save_request(const char *name, int64_t columns) {
  mr3d_bundle *r = request("rmsnorm", RMSNORM_CONFIG);
  char path[600];
  mr3d_error error = {0};
  mr3d_bundle_set(r, "type", "request");
  mr3d_bundle_set(r, "id", name);
  add_reals(r, "x", 1, SHAPE(2, columns));
  add_reals(r, "weight", 0, SHAPE(4));
  snprintf(path, sizeof path, "%s/%s.req.safetensors", folder, name);
  if (mr3d_safetensors_save(path, r, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&r);
}

static mr3d_bundle *open_answer(const char *name) {
  char path[600];
  mr3d_error error = {0};
  mr3d_bundle *bundle = NULL;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  if (mr3d_safetensors_open(path, 0, &bundle, &error) != MR3D_OK) fail_msg("%s", error.message);
  return bundle;
}

static void eval_answers_what_the_formula_says(void **state) {
  (void)state;
  save_request("good", 4);
  assert_int_equal(mr3d("eval %s/good.req.safetensors -o %s/answer.safetensors", folder, folder), 0);
  assert_string_equal(output, "");
  mr3d_bundle *a = open_answer("answer.safetensors"), *r = open_answer("good.req.safetensors");
  assert_string_equal(mr3d_bundle_get(a, "type"), "answer");
  assert_string_equal(mr3d_bundle_get(a, "id"), "good");
  assert_int_equal(mr3d_bundle_count(a), 1);
  const double *x = reals(r, "x"), *w = reals(r, "weight"), *y = reals(a, "y");
  for (int row = 0; row < 2; row++) {
    double squares = 0;
    for (int i = 0; i < 4; i++) squares += x[4 * row + i] * x[4 * row + i];
    for (int i = 0; i < 4; i++) assert_true(fabs(y[4 * row + i] - x[4 * row + i] / sqrt(squares / 4 + 1e-6) * w[i]) < 1e-15);
  }
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&r);
}

static void refused_request_is_answered_with_an_error_file_and_exit_1(void **state) {
  (void)state;
  save_request("bad", 5);
  assert_int_equal(mr3d("eval %s/bad.req.safetensors -o %s/answer.safetensors", folder, folder), 1);
  assert_said("bad.req.safetensors: error: ");
  mr3d_bundle *a = open_answer("answer.safetensors");
  assert_string_equal(mr3d_bundle_get(a, "type"), "error");
  assert_non_null(strstr(mr3d_bundle_get(a, "message"), "weight"));
  assert_int_equal(mr3d_bundle_count(a), 0);
  mr3d_bundle_free(&a);
}

/** step0 to step3: prefill, decode, drop_session, and a decode that comes too late. The caller removes the weights file. */
static void save_session(char weights[64]) {
  mr3d_error error = {0};
  char path[600];
  save_decoder((layer_options){.dtype = MR3D_F64}, weights);
  const char *const steps[] = {"prefill", "decode", "drop_session", "decode"};
  for (int s = 0; s < 4; s++) {
    mr3d_bundle *r = request(steps[s], CONFIG);
    mr3d_bundle_set(r, "session", "a");
    if (s == 0) {
      mr3d_bundle_set(r, "weights", weights);
      add_reals(r, "inputs_embeds", 1, SHAPE(1, 3, HIDDEN));
      add_filled(r, "attention_mask", 1, SHAPE(1, 3));
    } else if (s != 2) add_filled(r, "input_ids", 7, SHAPE(1, 1));
    snprintf(path, sizeof path, "%s/step%d.req.safetensors", folder, s);
    assert_int_equal(mr3d_safetensors_save(path, r, &error), MR3D_OK);
    mr3d_bundle_free(&r);
  }
}

static void several_requests_share_a_session_table_and_fill_a_folder(void **state) {
  (void)state;
  save_request("one", 4);
  save_request("two", 5);
  char weights[64], path[600];
  save_session(weights);
  assert_int_equal(mr3d("eval %s/one.req.safetensors %s/two.req.safetensors %s/step0.req.safetensors %s/step1.req.safetensors "
                        "%s/step2.req.safetensors %s/step3.req.safetensors -o %s/answers",
                        folder, folder, folder, folder, folder, folder, folder),
                   1);
  unlink(weights);
  const struct {
    const char *name, *type;
  } expected[] = {{"one", "answer"}, {"two", "error"}, {"step0", "answer"}, {"step1", "answer"}, {"step2", "answer"}, {"step3", "error"}};
  for (int i = 0; i < 6; i++) {
    snprintf(path, sizeof path, "answers/%s.ans.safetensors", expected[i].name);
    mr3d_bundle *a = open_answer(path);
    if (strcmp(mr3d_bundle_get(a, "type"), expected[i].type) != 0) fail_msg("%s is %s: %s", path, mr3d_bundle_get(a, "type"), output);
    if (i == 3) assert_shape(a, "logits", SHAPE(1, 1, V));
    mr3d_bundle_free(&a);
  }
}

static void eval_refuses_what_is_no_request(void **state) {
  (void)state;
  write_text(folder, "broken.safetensors", "no container");
  assert_int_equal(mr3d("eval %s/broken.safetensors -o %s/answer.safetensors", folder, folder), 1);
  assert_said("broken.safetensors");
  assert_int_equal(mr3d("eval %s/missing.safetensors -o %s/answer.safetensors", folder, folder), 1);
  assert_said("missing.safetensors");
  save_request("good", 4);
  assert_int_equal(mr3d("eval %s/good.req.safetensors -o %s/answer.safetensors", folder, folder), 0);
  assert_int_equal(mr3d("eval %s/answer.safetensors -o %s/again.safetensors", folder, folder), 1); /* an answer is no request */
  assert_said("\"type\" is \"answer\", expected \"request\"");
  assert_int_equal(mr3d("eval %s/good.req.safetensors %s/./good.req.safetensors -o %s/answers", folder, folder, folder), 1);
  assert_said("two requests would both be answered");
}

static void eval_asks_other_backends_too(void **state) {
  (void)state;
  save_request("good", 4);
  assert_int_equal(
      mr3d("eval %s/good.req.safetensors -o %s/answer.safetensors --backend exec:\"'%s'\"", folder, folder, getenv("MR3D_SUBJECT")), 0);
  mr3d_bundle *a = open_answer("answer.safetensors");
  assert_non_null(mr3d_bundle_find(a, "x")); /* subject.c sends the request's tensors back */
  mr3d_bundle_free(&a);
}

/* ---- compare ---- */

/** `good.req.safetensors` and the reference's answer to it, `good.ans.safetensors`, or that of another backend. */
static void save_pair(const char *backend) {
  save_request("good", 4);
  assert_int_equal(mr3d("eval %s/good.req.safetensors -o %s/good.ans.safetensors --backend %s", folder, folder, backend), 0);
}

static int compare_pair(const char *options) {
  return mr3d("compare %s/good.req.safetensors %s/good.ans.safetensors %s", folder, folder, options);
}

/** Saves a bundle as an answer file and frees it. */
static void save_answer(mr3d_bundle *bundle, const char *name, const char *type) {
  char path[600];
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/%s", folder, name);
  if (type) mr3d_bundle_set(bundle, "type", type);
  assert_int_equal(mr3d_safetensors_save(path, bundle, &error), MR3D_OK);
  mr3d_bundle_free(&bundle);
}

/** The tensor y of the reference's answer with `change` added to element [1,2]; in an answer file without metadata. */
static void save_changed(double change) {
  mr3d_bundle *a = open_answer("good.ans.safetensors"), *changed = mr3d_bundle_new();
  double *y = mr3d_bundle_copy(changed, "y", mr3d_bundle_find(a, "y"))->data;
  y[6] += change;
  mr3d_bundle_free(&a);
  save_answer(changed, "good.ans.safetensors", NULL);
}

static void compare_passes_what_is_equal_or_within_tolerance(void **state) {
  (void)state;
  save_pair("builtin:reference");
  assert_int_equal(compare_pair(""), 0);
  assert_said("rmsnorm at fp64: passed");
  assert_said("y: within tolerance, 8 elements");
  assert_said("WITHIN TOLERANCE: 1 of 1 passed");
  save_changed(1e-16);
  assert_int_equal(compare_pair("--op rmsnorm,linear"), 0);
}

static void compare_shows_the_element_that_is_wrong(void **state) {
  (void)state;
  save_pair("builtin:reference");
  save_changed(1e-3);
  assert_int_equal(compare_pair(""), 2);
  const char *const parts[] = {"rmsnorm at fp64: failed", "y: NOT within tolerance", "element ", "BROKEN",         "worst element [1,2]: got ",
                               "bound ",                  "relative L2",             "ulps p50", "1 of 1 passed"};
  for (int i = 0; i < 8; i++) assert_said(parts[i]);
  assert_said("NOT WITHIN TOLERANCE: 0 of 1 passed, 1 failed");
  assert_null(strstr(output, parts[8]));
}

static void compare_names_the_mistake(void **state) {
  (void)state;
  save_pair("mutant:qwen2-details/mean-subtracted");
  assert_int_equal(compare_pair(""), 2);
  assert_said("qwen2-details/mean-subtracted");
  assert_int_equal(mr3d("compare %s/good.req.safetensors %s/good.ans.safetensors --json %s/c.json", folder, folder, folder), 2);
  char *json = read_bytes(folder, "c.json", NULL);
  cJSON *pair = cJSON_Parse(strtok(json, "\n")), *total = cJSON_Parse(strtok(NULL, "\n"));
  assert_string_equal(cJSON_GetObjectItem(pair, "mistake")->valuestring, "qwen2-details/mean-subtracted");
  assert_string_equal(cJSON_GetObjectItem(pair, "verdict")->valuestring, "failed");
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(cJSON_GetObjectItem(pair, "step"), "tensors")), 1);
  assert_int_equal(cJSON_GetObjectItem(total, "exit_status")->valueint, 2);
  cJSON_Delete(pair);
  cJSON_Delete(total);
  free(json);
}

static void compare_fails_a_wrong_shape_and_a_missing_tensor(void **state) {
  (void)state;
  save_pair("builtin:reference");
  mr3d_bundle *a = mr3d_bundle_new();
  add_reals(a, "y", 1, SHAPE(4, 2));
  save_answer(a, "good.ans.safetensors", "answer");
  assert_int_equal(compare_pair(""), 2);
  assert_said("shape [4,2], expected [2,4]");
  save_answer(mr3d_bundle_new(), "good.ans.safetensors", "answer");
  assert_int_equal(compare_pair(""), 2);
  assert_said("missing; expected");
}

static void compare_judges_refusals(void **state) {
  (void)state;
  save_request("good", 4);
  const struct {
    int64_t columns; /* 5 must be refused */
    const char *type;
    int status;
    const char *said;
  } refusals[] = {
      {4, "error", 2, "refused a request that must be answered"},
      {4, "unsupported", 1, "nothing was compared"},
      {4, "crash", 2, "crashed"},
      {4, "request", 1, "\"type\" is \"request\""},
      {5, "error", 0, "refused, as the reference refuses it"},
      {5, "unsupported", 2, "must be refused"},
      {5, "answer", 2, "must be refused"},
  };
  for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
    save_request("good", refusals[i].columns);
    save_answer(mr3d_bundle_new(), "good.ans.safetensors", refusals[i].type);
    if (compare_pair("") != refusals[i].status) fail_msg("%s: %s", refusals[i].type, output);
    assert_said(refusals[i].said);
  }
}

static void compare_refuses_what_it_cannot_compare(void **state) {
  (void)state;
  save_pair("builtin:reference");
  assert_int_equal(compare_pair("--op attention"), 1);
  assert_said("the request asks rmsnorm, not attention");
  assert_int_equal(compare_pair("--tier fp32"), 1); /* its tensors are F64 */
  assert_said("at --tier fp32 the reference refuses it");
  assert_int_equal(mr3d("compare %s/good.ans.safetensors %s/good.req.safetensors", folder, folder), 1);
  assert_said("expected \"request\"");
  mr3d_bundle *a = open_answer("good.ans.safetensors");
  mr3d_bundle_set(a, "id", "other");
  save_answer(a, "other.ans.safetensors", "answer");
  assert_int_equal(mr3d("compare %s/good.req.safetensors %s/other.ans.safetensors", folder, folder), 1);
  assert_said("it answers the request with id \"other\"");
  write_text(folder, "good.ans.safetensors", "no container");
  assert_int_equal(compare_pair(""), 1);
  assert_said("good.ans.safetensors");
  save_answer(request("rope4d", "{}"), "good.req.safetensors", "request");
  assert_int_equal(compare_pair(""), 1);
  assert_said("asks rope4d, which the reference does not answer");
  save_answer(mr3d_bundle_new(), "good.req.safetensors", NULL);
  assert_int_equal(compare_pair(""), 1);
  assert_said("metadata \"op\" is missing");
}

/** F32 tensors fit fp32 and tf32 alike. */
static void compare_judges_at_another_tier(void **state) {
  (void)state;
  mr3d_bundle *r = request("rmsnorm", RMSNORM_CONFIG);
  mr3d_bundle_set(r, "tier", "fp32");
  add_reals_seeded(r, "x", 1, MR3D_F32, 1, SHAPE(2, 4));
  add_reals_seeded(r, "weight", 2, MR3D_F32, 0, SHAPE(4));
  save_answer(r, "good.req.safetensors", "request");
  assert_int_equal(mr3d("eval %s/good.req.safetensors -o %s/good.ans.safetensors", folder, folder), 0);
  save_changed(1e-6);
  assert_int_equal(compare_pair("--tier tf32"), 0);
  assert_said("rmsnorm at tf32: passed");
  assert_int_equal(compare_pair("--tier=bf16"), 1);
}

/** Asks a backend the first `n` steps of the session and compares its answers. */
static int compare_session(const char *backend, int n) {
  char requests[4][300], words[4000] = "", pairs[4000] = "";
  for (int i = 0; i < n; i++) {
    snprintf(requests[i], sizeof requests[i], "%s/step%d.req.safetensors", folder, i);
    snprintf(words + strlen(words), sizeof words - strlen(words), " %s", requests[i]);
    snprintf(pairs + strlen(pairs), sizeof pairs - strlen(pairs), " %s %s/answers/step%d.ans.safetensors", requests[i], folder, i);
  }
  mr3d("eval --backend %s -o %s/answers%s", backend, folder, words);
  return mr3d("compare%s", pairs);
}

static void compare_follows_a_session(void **state) {
  (void)state;
  char weights[64];
  save_session(weights);
  assert_int_equal(compare_session("builtin:reference", 4), 0);
  assert_said("prefill at fp64: passed");
  assert_said("decode at fp64: passed");
  assert_said("refused, as the reference refuses it"); /* the last */
  assert_said("4 of 4 passed");
  assert_int_equal(compare_session("mutant:qwen2-details/final-norm-missing", 2), 2);
  assert_said("qwen2-details/final-norm-missing");
  assert_int_equal(mr3d("compare %s/step1.req.safetensors %s/answers/step1.ans.safetensors", folder, folder), 2); /* no session is open */
  assert_said("must be refused");
  unlink(weights);
  assert_int_equal(mr3d("compare %s/step0.req.safetensors %s/answers/step0.ans.safetensors", folder, folder), 1);
  assert_said("its weights cannot be read");
}

/* ---- list, explain, golden ---- */

static void lists_are_complete_and_json_parses(void **state) {
  (void)state;
  const struct {
    const char *what;
    int lines;
  } lists[] = {{"pitfalls", 36}, {"ops", 19}, {"levels", 6}, {"cases", -1}};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    assert_int_equal(mr3d("list %s --json", lists[i].what), 0);
    int lines = 0;
    for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n"), lines++) {
      cJSON *value = cJSON_Parse(line);
      if (!value) fail_msg("%s: no JSON: %s", lists[i].what, line);
      cJSON_Delete(value);
    }
    assert_true(lists[i].lines < 0 ? lines > 100 : lines == lists[i].lines);
  }
  assert_int_equal(mr3d("list cases --golden %s", folder), 0);
  assert_said("rmsnorm/a");
  assert_said("2 cases");
  assert_int_equal(mr3d("list --op swiglu --golden %s", folder), 1);
}

static void catalogue_holds_36_whole_pitfalls(void **state) {
  (void)state;
  assert_int_equal(mr3d_pitfall_count(), 36);
  for (int p = 0; p < 36; p++) {
    const mr3d_pitfall *pitfall = mr3d_pitfall_at(p);
    char id[8];
    snprintf(id, sizeof id, "P%d", p + 1);
    assert_string_equal(pitfall->id, id);
    const char *const parts[] = {pitfall->slug, pitfall->title, pitfall->mistake, pitfall->effect, pitfall->symptom, pitfall->fix};
    for (int i = 0; i < 6; i++)
      if (!parts[i] || !*parts[i]) fail_msg("%s lacks part %d", id, i);
    assert_int_equal(strspn(pitfall->slug, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(pitfall->slug));
  }
}

static void every_pitfall_of_cases_and_mutants_is_in_the_catalogue(void **state) {
  (void)state;
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  assert_int_equal(mr3d_suite_open(committed_set(), NULL, &suite, &error), MR3D_OK);
  for (int i = 0; i < mr3d_suite_count(suite); i++)
    for (int p = 0; p < mr3d_suite_at(suite, i)->n_pitfalls; p++)
      if (!mr3d_pitfall_named(mr3d_suite_at(suite, i)->pitfalls[p]))
        fail_msg("%s: no pitfall %s", mr3d_suite_at(suite, i)->id, mr3d_suite_at(suite, i)->pitfalls[p]);
  for (int m = 0; m < mr3d_mutant_count(); m++)
    if (!mr3d_pitfall_named(mr3d_mutant_at(m)->slug))
      fail_msg("mutant %s/%s: no such pitfall", mr3d_mutant_at(m)->slug, mr3d_mutant_at(m)->name);
  mr3d_suite_close(&suite);
}

static void explain_tells_pitfall_mutant_and_case(void **state) {
  (void)state;
  const char *const names[] = {"P1", "p1", "mask-length"};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(mr3d("explain %s", names[i]), 0);
    const char *const parts[] = {"P1 mask-length", "Mistake.", "Effect.", "Symptom.", "Fix.", "unrepaired", "mask/decode-232-of-787"};
    for (int k = 0; k < 7; k++) assert_said(parts[k]);
  }
  assert_int_equal(mr3d("explain 'The size of tensor a (787) must match the size of tensor b (232)'"), 0);
  assert_said("P1 mask-length");
  assert_int_equal(mr3d("explain 106328"), 0);
  assert_said("P4 coords-count");
  assert_int_equal(mr3d("explain 'never returns'"), 0);
  assert_said("P5 mask-ownership");
  assert_int_equal(mr3d("explain 'no such thing 4711'"), 1);
  assert_int_equal(mr3d("explain mutant:mask-length/unrepaired"), 0);
  assert_said("Operators it changes: mask");
  assert_int_equal(mr3d("explain rmsnorm/refused --golden %s", folder), 0);
  assert_said("must be refused");
  assert_said("mr3d check --backend SPEC --case rmsnorm/refused");
}

static void golden_list_and_diff_show_tensors(void **state) {
  (void)state;
  assert_int_equal(mr3d("golden list --golden %s", folder), 0);
  assert_said("0.y");
  assert_said("[2,8]");
  char other[256], path[600], there[600];
  make_folder(other);
  make_set(other, RMSNORM_CASE("a", "", "") ", " REFUSED_CASE("refused", ""));
  assert_int_equal(mr3d("golden diff %s --golden %s", other, folder), 0);
  assert_said("2 files, equal in every tensor");
  mr3d_error error = {0};
  mr3d_bundle *file = open_answer("set/rmsnorm_a.safetensors.gz"), *changed = mr3d_bundle_new();
  double *y = mr3d_bundle_copy(changed, "0.y", mr3d_bundle_find(file, "0.y"))->data;
  mr3d_bundle_set(changed, "case", "rmsnorm/a");
  y[5] += 1;
  snprintf(path, sizeof path, "%s/set/rmsnorm_a.safetensors.gz", other);
  assert_int_equal(mr3d_safetensors_save(path, changed, &error), MR3D_OK);
  snprintf(path, sizeof path, "%s/set/rmsnorm_refused.safetensors.gz", other);
  snprintf(there, sizeof there, "%s/set/rmsnorm_z.safetensors.gz", other);
  assert_int_equal(rename(path, there), 0);
  assert_int_equal(mr3d("golden diff %s --golden %s", other, folder), 2);
  assert_said("0.y: 1 of 16 elements differ, most at flat index 5");
  assert_said("rmsnorm_refused.safetensors.gz is only in the first");
  assert_said("rmsnorm_z.safetensors.gz is only in the second");
  mr3d_bundle_free(&file);
  mr3d_bundle_free(&changed);
  remove_folder(other);
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, make_small_suite, drop)
static void signals_of_a_backend_do_not_end_a_run(void **state) {
  (void)state;
  assert_int_equal(mr3d("check --golden '%s' --backend exec:\"'%s' signals\" --op linear --case 'linear/*' --tier fp32 --no-isolation --quiet", getenv("MR3D_GOLDEN"), getenv("MR3D_SUBJECT")), 2);
  assert_said("NOT COMPLIANT: 20 of 20 compared results failed"); /* it sends back what it was sent, but the run has come to its end */
}

/** One byte more behind the judge's library, which the loader does not see. */
static void yardsticks_kept_by_another_version_of_the_judge_are_not_taken(void **state) {
  (void)state;
  static const char script[] =
      "set -e; w=$(mktemp -d); trap 'rm -rf $w' EXIT; libs=$(dirname \"$MR3D\")/conform; mkdir $w/lib; cp \"$libs\"/libmr3d-judge.so.0 $w/lib/\n"
      "run() { \"$MR3D\" check --backend builtin:emulated --tier fp32 --case attention-block/canonical-prefill --yardsticks $w/kept --quiet --json $w/r >/dev/null; grep -o 'yardsticks_taken\":[0-9]*' $w/r; }\n"
      "run; run; printf x >>$w/lib/libmr3d-judge.so.0; export LD_LIBRARY_PATH=$w/lib:$LD_LIBRARY_PATH; run";
  assert_int_equal(run_command(script), 0);
  assert_string_equal(output, "yardsticks_taken\":0\nyardsticks_taken\":8\nyardsticks_taken\":0\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      FACT(every_command_has_help),
      FACT(mistakes_in_the_command_line_exit_1_and_say_what_was_meant),
      FACT(check_exits_0_2_or_1),
      FACT(deleted_or_changed_golden_makes_check_and_verify_exit_1),
      FACT(report_files_are_written_and_their_folder_must_exist),
      FACT(quiet_says_the_verdict_only),
      FACT(interrupted_run_leaves_no_weights_behind),
      FACT(eval_answers_what_the_formula_says),
      FACT(refused_request_is_answered_with_an_error_file_and_exit_1),
      FACT(several_requests_share_a_session_table_and_fill_a_folder),
      FACT(eval_refuses_what_is_no_request),
      FACT(eval_asks_other_backends_too),
      FACT(compare_passes_what_is_equal_or_within_tolerance),
      FACT(compare_shows_the_element_that_is_wrong),
      FACT(compare_names_the_mistake),
      FACT(compare_fails_a_wrong_shape_and_a_missing_tensor),
      FACT(compare_judges_refusals),
      FACT(compare_refuses_what_it_cannot_compare),
      FACT(compare_judges_at_another_tier),
      FACT(compare_follows_a_session),
      FACT(lists_are_complete_and_json_parses),
      cmocka_unit_test(yardsticks_kept_by_another_version_of_the_judge_are_not_taken),
      cmocka_unit_test(signals_of_a_backend_do_not_end_a_run),
      cmocka_unit_test(catalogue_holds_36_whole_pitfalls),
      cmocka_unit_test(every_pitfall_of_cases_and_mutants_is_in_the_catalogue),
      FACT(explain_tells_pitfall_mutant_and_case),
      FACT(golden_list_and_diff_show_tensors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
