#include "leaves.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge_limits.h"
#include "report.h"

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."
#define MOST_LEAF (1 << 20)

static const char *const verdict_words[] = {"passed", "failed", "skipped"};

static bool has_fixed_limit(const char *op, const char *rule) {
  double least, most;
  if (strcmp(rule, "exact") == 0) return true;
  return (mr3d_op_is_composed(op) ? mr3d_yardstick_limit : mr3d_scale_limit)(rule, &least, &most) && least == most;
}

/* ---- writing ---- */

/** Rounded to binary32, value and limit alike: what was within stays within, and a file has half the size. */
static void print_number(FILE *to, double value) {
  const float rounded = (float)value;
  uint32_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  if (bits == 0) fputc('0', to);
  else fprintf(to, "%08X", bits);
}

static void print_tensor(FILE *to, const char *op, const mr3d_tensor_verdict *v) {
  fputc(' ', to);
  for (const char *c = v->name; *c; c++) fputc(strchr(NAME_CHARACTERS, *c) ? *c : '?', to); /* a backend's own names may hold anything */
  if (v->n_statistics == 0) fputc('!', to);
  for (int i = 0; i < v->n_statistics; i++) {
    const mr3d_statistic *s = &v->statistics[i];
    fprintf(to, "%c%s", i ? ',' : ':', s->rule);
    if (!s->tested) {
      fputc('~', to);
      continue;
    }
    fputc('=', to);
    print_number(to, s->value);
    if (has_fixed_limit(op, s->rule)) continue;
    fputc('/', to);
    print_number(to, s->limit);
  }
}

static void print_leaf(FILE *to, const mr3d_result *result, const mr3d_test *test) {
  char name[MR3D_TEST_NAME];
  mr3d_test_name(test, name);
  const bool skipped = result->verdict == MR3D_SKIPPED || result->verdict == MR3D_BROKEN;
  mr3d_leaf_verdict verdict = skipped ? MR3D_LEAF_SKIPPED : result->verdict == MR3D_PASSED || result->failed_again ? MR3D_LEAF_PASSED : MR3D_LEAF_FAILED;
  if (test->variant == MR3D_AGAIN) { /* what could not be asked again, after a timeout, failed anyway */
    fprintf(to, "%s %s\n", name, verdict_words[verdict != MR3D_LEAF_PASSED || !result->difference.failed ? verdict : MR3D_LEAF_FAILED]);
    return;
  }
  fprintf(to, "%s %s", name, verdict_words[verdict]);
  for (int s = 0; s < result->n_steps; s++) {
    const mr3d_step_result *step = &result->steps[s];
    fprintf(to, "|%s", step->asked ? mr3d_reply_name(step->reply.kind) : "-");
    for (int t = 0; t < step->judgement.n_tensors; t++) print_tensor(to, step->op, &step->judgement.tensors[t]);
  }
  fputc('\n', to);
}

char *mr3d_leaves_print(const mr3d_run *run, int n_tests, const mr3d_test tests[]) {
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  int r = 0;
  for (int i = 0; i < n_tests; i++) {
    const mr3d_variant variant = tests[i].variant == MR3D_AGAIN ? MR3D_PLAIN : tests[i].variant;
    int k = 0; /* the results come in the order of the tests, but for those asked again, whose result is a few places back */
    for (; k < run->n_results; k++) {
      const mr3d_result *result = &run->results[(r + k) % run->n_results];
      if (strcmp(result->test->id, tests[i].test->id) == 0 && result->tier == tests[i].tier && result->variant == variant) break;
    }
    if (k == run->n_results) continue;
    r = (r + k) % run->n_results;
    print_leaf(to, &run->results[r], &tests[i]);
  }
  fclose(to);
  return text;
}

/* ---- reading ---- */

size_t mr3d_leaf_length(const char *line) { return strcspn(line, "\n"); }

/** A leaf under the eye: what is left of it, whose it is, and what it is held against. */
struct leaf {
  const char *at;
  const char *name;
  const mr3d_test *test;
  const mr3d_leaf_rules *against;
  int step;
  const char *rules; /* of the step */
  mr3d_leaf_outputs outputs; /* so far */
  mr3d_error *error;
};

static bool takes(struct leaf *leaf, const char *text) {
  const size_t n = strlen(text);
  if (strncmp(leaf->at, text, n) != 0) return false;
  leaf->at += n;
  return true;
}

static mr3d_status is_malformed(const struct leaf *leaf, const char *expected) {
  return mr3d_fail(leaf->error, MR3D_FORMAT, "results: %s: expected %s, found \"%.*s\"", leaf->name, expected, (int)strnlen(leaf->at, strcspn(leaf->at, "\n") < 40 ? strcspn(leaf->at, "\n") : 40),
                   leaf->at);
}

/** A word of letters, digits, "_", "." and, in what a backend made up, "?". */
static mr3d_status take_word(struct leaf *leaf, char word[64]) {
  size_t n = strspn(leaf->at, NAME_CHARACTERS "?");
  if (n == 0 || n > 63) return is_malformed(leaf, "a name");
  memcpy(word, leaf->at, n);
  word[n] = '\0';
  leaf->at += n;
  return MR3D_OK;
}

static mr3d_status take_number(struct leaf *leaf, double *value) {
  uint32_t bits = 0;
  float rounded;
  size_t n = strspn(leaf->at, "0123456789ABCDEF");
  if (n == 8) {
    for (size_t i = 0; i < 8; i++) bits = bits << 4 | (uint32_t)(isdigit((unsigned char)leaf->at[i]) ? leaf->at[i] - '0' : leaf->at[i] - 'A' + 10);
    if (bits << 1 == 0) return is_malformed(leaf, "0 for zero");
  } else if (n != 1 || *leaf->at != '0') return is_malformed(leaf, "a number of 8 hexadecimal digits, or 0");
  leaf->at += n;
  memcpy(&rounded, &bits, sizeof bits);
  *value = rounded;
  return MR3D_OK;
}

/** The rules of an answer's floating output, in their order; an optional one may be missing. */
static const struct { const char *rule; bool optional, of_logits; } scale_rules[] = {{"finite", false, false}, {"element", false, false}, {"slice", false, false}, {"tensor", false, false}, {"gain", false, false}, {"angle", true, false}},
    yardstick_rules[] = {{"finite", false, false}, {"element", false, false}, {"slice", false, false}, {"tensor", false, false}, {"gain", false, false}, {"kl", false, true}, {"top1", false, true}};

#define MAX_RULES 8
struct statistics {
  int n;
  char rules[MR3D_MAX_STATISTICS][64];
  bool tested[MR3D_MAX_STATISTICS], limited[MR3D_MAX_STATISTICS];
  double values[MR3D_MAX_STATISTICS], limits[MR3D_MAX_STATISTICS];
};

static mr3d_status take_statistics(struct leaf *leaf, struct statistics *s) {
  s->n = 0;
  do {
    if (s->n == MR3D_MAX_STATISTICS) return is_malformed(leaf, "no more rules");
    const int i = s->n++;
    mr3d_status status = take_word(leaf, s->rules[i]);
    if (status != MR3D_OK) return status;
    s->tested[i] = !takes(leaf, "~");
    s->limited[i] = false;
    if (!s->tested[i]) continue;
    if (!takes(leaf, "=")) return is_malformed(leaf, "\"=\" or \"~\" behind a rule");
    status = take_number(leaf, &s->values[i]);
    if (status == MR3D_OK && takes(leaf, "/")) s->limited[i] = true, status = take_number(leaf, &s->limits[i]);
    if (status != MR3D_OK) return status;
  } while (takes(leaf, ","));
  return MR3D_OK;
}

/** The rules must be those of the operator's family, all of them and no others. */
static mr3d_status check_rules(struct leaf *leaf, const char *op, const char *tensor, const struct statistics *s) {
  const bool composed = mr3d_op_is_composed(op), logits = strcmp(tensor, "logits") == 0;
  const size_t n = composed ? sizeof yardstick_rules / sizeof *yardstick_rules : sizeof scale_rules / sizeof *scale_rules;
  int i = 0;
  const bool exact = s->n == 1 && strcmp(s->rules[0], "exact") == 0, integers = mr3d_rules_has(leaf->rules, tensor, "exact");
  if (!exact && integers) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\" holds whole numbers, which the rule exact alone judges", leaf->name, tensor);
  bool equal = exact;
  for (int k = 0; k < s->n; k++) equal = equal || (strcmp(s->rules[k], "element") == 0 && s->tested[k] && s->values[k] == 0);
  if (!integers && mr3d_rules_has(leaf->rules, tensor, NULL) && leaf->outputs != MR3D_LEAF_EQUAL) leaf->outputs = equal ? MR3D_LEAF_EQUAL : MR3D_LEAF_FLOATING;
  if (exact) return MR3D_OK;
  for (size_t k = 0; k < n; k++) {
    const char *rule = composed ? yardstick_rules[k].rule : scale_rules[k].rule;
    const bool optional = composed ? yardstick_rules[k].of_logits && !logits : scale_rules[k].optional;
    if (i < s->n && strcmp(s->rules[i], rule) == 0) i++;
    else if (!optional) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\" lacks the rule %s, so it cannot have passed", leaf->name, tensor, rule);
  }
  return i == s->n ? MR3D_OK : mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\" has a rule %s that %s has not, or has it twice", leaf->name, tensor, s->rules[i], op);
}

/** Whether a rule that is said not to apply does: the table says so for all inputs, or else the reference for these. */
static mr3d_status check_untested(const struct leaf *leaf, const char *tensor, const char *rule, mr3d_error *error) {
  const mr3d_test *test = leaf->test;
  const mr3d_challenge *challenge = leaf->against->challenge;
  char now[MR3D_MOST_RULES];
  if (!mr3d_rules_has(leaf->rules, tensor, rule)) return MR3D_OK;
  const uint64_t neighbour = mr3d_challenge_neighbour_seed(challenge, test->test->id);
  const mr3d_beside beside = {.seed = neighbour, .first = neighbour % 2};
  mr3d_status status = mr3d_rules_ask(leaf->against->suite, test->test, test->tier, mr3d_challenge_seed(challenge, test->test->id, test->variant),
                                      test->variant == MR3D_BESIDE ? &beside : NULL, leaf->step, now, error);
  if (status != MR3D_OK || !mr3d_rules_has(now, tensor, rule)) return status;
  return mr3d_fail(error, MR3D_INVALID, "results: %s: leaves out the rule %s for \"%s\", which this suite applies to this answer", leaf->name, rule, tensor);
}

/** One rule of an answer that is said to have passed, under the limit of this suite. */
static mr3d_status check_statistic(const struct leaf *leaf, const char *op, const char *tensor, const struct statistics *s, int i) {
  double least = 0, most = 0, limit;
  const char *rule = s->rules[i];
  if (!s->tested[i])
    return strcmp(rule, "finite") && strcmp(rule, "exact") ? check_untested(leaf, tensor, rule, leaf->error)
                                                           : mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\": %s cannot be left untested", leaf->name, tensor, rule);
  if (strcmp(rule, "exact") != 0) (mr3d_op_is_composed(op) ? mr3d_yardstick_limit : mr3d_scale_limit)(rule, &least, &most);
  if (s->limited[i] == (least == most))
    return mr3d_fail(leaf->error, MR3D_FORMAT, "results: %s: \"%s\": %s %s", leaf->name, tensor, rule, s->limited[i] ? "has a limit of its own, which this rule cannot have" : "lacks its limit");
  least = (float)least, most = (float)most; /* as what is recorded */
  limit = s->limited[i] ? s->limits[i] : most;
  if (!(limit >= least && limit <= most))
    return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\": %s says its limit was %.6g; this suite's lies between %.6g and %.6g", leaf->name, tensor, rule, limit, least, most);
  if (!(s->values[i] >= 0)) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\": %s is %g, which no statistic can be", leaf->name, tensor, rule, s->values[i]);
  if (!(s->values[i] <= limit))
    return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: says passed, but \"%s\" breaks a limit: %s is %.6g, at most %.6g is allowed", leaf->name, tensor, rule, s->values[i], limit);
  return MR3D_OK;
}

static bool has_word(const char *list, const char *word) {
  const size_t n = strlen(word);
  for (const char *at = list; (at = strstr(at, word)); at += n)
    if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
  return false;
}

/** The tensors of one answer; of one that passed all outputs that the step has, once each. */
static mr3d_status take_answer(struct leaf *leaf, const char *op, bool passed) {
  char seen[256] = "", tensor[64];
  struct statistics s;
  while (takes(leaf, " ")) {
    mr3d_status status = take_word(leaf, tensor);
    if (status != MR3D_OK) return status;
    if (takes(leaf, "!")) {
      if (passed) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: says passed, but \"%s\" could not be compared", leaf->name, tensor);
      continue;
    }
    if (!takes(leaf, ":")) return is_malformed(leaf, "\":\" or \"!\" behind a tensor");
    status = take_statistics(leaf, &s);
    if (status != MR3D_OK) return status;
    if (!passed) continue;
    if (!mr3d_rules_names(leaf->rules, tensor)) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\" is no output of %s", leaf->name, tensor, op);
    if (has_word(seen, tensor)) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: \"%s\" stands twice", leaf->name, tensor);
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s%s", *seen ? " " : "", tensor);
    status = check_rules(leaf, op, tensor, &s);
    for (int i = 0; i < s.n && status == MR3D_OK; i++) status = check_statistic(leaf, op, tensor, &s, i);
    if (status != MR3D_OK) return status;
  }
  for (const char *at = leaf->rules; passed && *at; at += strcspn(at, " "), at += strspn(at, " ")) {
    snprintf(tensor, sizeof tensor, "%.*s", (int)strcspn(at, "="), at);
    if (!has_word(seen, tensor)) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: says passed, but the output \"%s\" of %s was not compared", leaf->name, tensor, op);
  }
  return MR3D_OK;
}

static mr3d_status take_steps(struct leaf *leaf, const mr3d_case *test, bool passed) {
  int s = 0;
  for (; takes(leaf, "|"); s++) {
    if (s == test->n_steps) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: has more steps than the case, which has %d", leaf->name, test->n_steps);
    const mr3d_step *step = &test->steps[s];
    mr3d_reply_kind kind = MR3D_REPLY_ANSWER;
    while (kind <= MR3D_REPLY_MALFORMED && !takes(leaf, mr3d_reply_name(kind))) kind++;
    if (kind > MR3D_REPLY_MALFORMED && !takes(leaf, "-")) return is_malformed(leaf, "a kind of reply");
    mr3d_status status = mr3d_rules_step(leaf->against->rules, test, s, &leaf->rules, leaf->error);
    if (status != MR3D_OK) return status;
    leaf->step = s;
    if (passed && kind != (step->expect_error ? MR3D_REPLY_ERROR : MR3D_REPLY_ANSWER))
      return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: says passed, but step %d (%s) %s", leaf->name, s, step->op,
                       step->expect_error ? "must be refused and was not" : "was not answered");
    if (kind != MR3D_REPLY_ANSWER && *leaf->at == ' ') return is_malformed(leaf, "no tensor behind a reply that is no answer");
    status = take_answer(leaf, step->op, passed && kind == MR3D_REPLY_ANSWER);
    if (status != MR3D_OK) return status;
  }
  if (passed && s != test->n_steps) return mr3d_fail(leaf->error, MR3D_INVALID, "results: %s: says passed, but has %d of the case's %d steps", leaf->name, s, test->n_steps);
  return MR3D_OK;
}

static mr3d_status judge_leaf(const char *line, const mr3d_leaf_rules *against, const mr3d_test *test, mr3d_leaf_verdict *verdict, mr3d_leaf_outputs *outputs, mr3d_error *error) {
  char name[MR3D_TEST_NAME];
  struct leaf leaf = {.at = line, .name = mr3d_test_name(test, name), .test = test, .against = against, .error = error};
  if (!takes(&leaf, name) || !takes(&leaf, " "))
    return mr3d_fail(error, MR3D_INVALID, "results: expected the test %s next, found \"%.*s\": a test is missing, doubled, out of order or not in the profile", name,
                     (int)(strcspn(line, " \n") < 100 ? strcspn(line, " \n") : 100), line);
  int v = 0;
  while (v < 3 && !takes(&leaf, verdict_words[v])) v++;
  if (v == 3) return is_malformed(&leaf, "passed, failed or skipped");
  *verdict = (mr3d_leaf_verdict)v;
  mr3d_status status = test->variant == MR3D_AGAIN ? MR3D_OK : take_steps(&leaf, test->test, *verdict == MR3D_LEAF_PASSED);
  if (status == MR3D_OK && *leaf.at != '\n') status = is_malformed(&leaf, "the end of the line");
  *outputs = leaf.outputs;
  return status;
}

mr3d_status mr3d_leaves_judge(const char *leaves, const mr3d_leaf_rules *against, int n_tests, const mr3d_test tests[], mr3d_leaf_verdict verdicts[], mr3d_leaf_outputs outputs[],
                              mr3d_error *error) {
  const char *line = leaves;
  for (int i = 0; i < n_tests; i++) {
    char name[MR3D_TEST_NAME];
    if (!*line) return mr3d_fail(error, MR3D_INVALID, "results: %d of %d tests are there; the first that is missing is %s", i, n_tests, mr3d_test_name(&tests[i], name));
    const char *end = strchr(line, '\n');
    if (!end || end - line > MOST_LEAF) return mr3d_fail(error, MR3D_FORMAT, "results: line %d does not end", i + 1);
    mr3d_status status = judge_leaf(line, against, &tests[i], &verdicts[i], &outputs[i], error);
    if (status != MR3D_OK) return status;
    line = end + 1;
  }
  if (*line) return mr3d_fail(error, MR3D_INVALID, "results: more than the %d tests of the profile; the first too many is \"%.*s\"", n_tests, (int)(strcspn(line, " \n") < 100 ? strcspn(line, " \n") : 100), line);
  return MR3D_OK;
}
