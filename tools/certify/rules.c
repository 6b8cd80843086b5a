#include "rules.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "case_internal.h"
#include "judge_limits.h"
#include "mr3d/judge.h"
#include "posing.h"
#include "run.h"
#include "scratch.h"
#include "text.h"

#define DIGEST 16      /* hexadecimal digits of `of` */
#define SEEDS 4        /* that a case is measured with */
#define DEAR 1.0       /* seconds: what takes longer once is measured with two seeds at one tier */

struct mr3d_rules {
  cJSON *root;
  const cJSON *cases;
  const cJSON *last; /* found: cases are mostly asked for in the order of the table, which may be long */
};

/* ---- reading ---- */

mr3d_status mr3d_rules_open(const mr3d_suite *suite, mr3d_rules **out, mr3d_error *error) {
  char path[4096];
  cJSON *root = NULL;
  snprintf(path, sizeof path, "%s/rules.json", suite->golden_dir);
  mr3d_status status = mr3d_read_json(path, &root, error);
  if (status != MR3D_OK) return status;
  const cJSON *cases = cJSON_GetObjectItemCaseSensitive(root, "cases");
  if (!cJSON_IsObject(cases)) {
    cJSON_Delete(root);
    return mr3d_fail(error, MR3D_FORMAT, "%s: expected an object \"cases\" (mr3d golden rules writes it)", path);
  }
  mr3d_rules *rules = mr3d_allocate(1, sizeof *rules);
  *rules = (mr3d_rules){.root = root, .cases = cases};
  *out = rules;
  return MR3D_OK;
}

void mr3d_rules_close(mr3d_rules **rules) {
  if (!*rules) return;
  cJSON_Delete((*rules)->root);
  free(*rules);
  *rules = NULL;
}

static const cJSON *entry_of(mr3d_rules *rules, const mr3d_case *test) {
  const cJSON *last = rules->last, *entry = last && strcmp(last->string, test->id) == 0 ? last : last && last->next && strcmp(last->next->string, test->id) == 0 ? last->next : NULL;
  if (!entry) entry = cJSON_GetObjectItemCaseSensitive(rules->cases, test->id);
  if (entry) rules->last = entry;
  return entry;
}

static mr3d_status is_silent(const mr3d_case *test, mr3d_error *error) {
  return mr3d_fail(error, MR3D_IO, "golden/rules.json says nothing of %s, or of another case of that name: mr3d golden rules measures it", test->id);
}

mr3d_status mr3d_rules_step(mr3d_rules *rules, const mr3d_case *test, int step, const char **text, mr3d_error *error) {
  const cJSON *steps = cJSON_GetObjectItemCaseSensitive(entry_of(rules, test), "steps"), *item = cJSON_GetArrayItem(steps, step);
  if (!cJSON_IsString(item) || cJSON_GetArraySize(steps) != test->n_steps) return is_silent(test, error);
  *text = item->valuestring;
  return MR3D_OK;
}

mr3d_status mr3d_rules_fixed(mr3d_rules *rules, const mr3d_case *test, bool *fixed, mr3d_error *error) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(entry_of(rules, test), "fixed");
  if (!cJSON_IsBool(item)) return is_silent(test, error);
  *fixed = cJSON_IsTrue(item);
  return MR3D_OK;
}

/* ---- measuring ---- */

/** What is known of a case so far. */
struct measured {
  int n;                     /* judgements that went into `steps` */
  bool fixed;                /* answers to other inputs have passed */
  char (*steps)[MR3D_MOST_RULES]; /* of each step */
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/** The outputs of an answer, without what the reference adds for the judge. `spoilt`: the first element of each floating one is so wrong that the judge takes no time over it. */
static mr3d_bundle *outputs_of(const mr3d_bundle *answer, bool spoilt) {
  mr3d_bundle *outputs = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(answer, i);
    if (strchr(t->name, ':')) continue;
    mr3d_bundle_copy(outputs, NULL, t);
    double *values = mr3d_bundle_at(outputs, mr3d_bundle_count(outputs) - 1)->data;
    if (spoilt && t->dtype == MR3D_F64 && mr3d_tensor_count(t) > 0) values[0] += 1e30;
  }
  return outputs;
}

/** "y=element,slice key=exact": the rules that were applied, without those that always are (finite) or that depend on the values (top1). Of no numbers none is needed. */
static void print_rules(const mr3d_bundle *answer, const mr3d_judgement *judgement, char text[MR3D_MOST_RULES]) {
  size_t n = 0;
  text[0] = '\0';
  for (int t = 0; t < judgement->n_tensors; t++) {
    const mr3d_tensor_verdict *v = &judgement->tensors[t];
    n += (size_t)snprintf(text + n, MR3D_MOST_RULES - n, "%s%s=", t ? " " : "", v->name);
    const char *comma = "";
    const mr3d_tensor *output = mr3d_bundle_find(answer, v->name);
    if (output && output->dtype == MR3D_F64 && mr3d_tensor_count(output) == 0) continue;
    for (int i = 0; i < v->n_statistics; i++) {
      const mr3d_statistic *s = &v->statistics[i];
      if (!s->tested || strcmp(s->rule, "finite") == 0 || strcmp(s->rule, "top1") == 0) continue;
      n += (size_t)snprintf(text + n, MR3D_MOST_RULES - n, "%s%s", comma, s->rule);
      comma = ",";
    }
  }
}

/** Where the rules of an output begin, or NULL. */
static const char *rules_of(const char *rules, const char *tensor) {
  const size_t n = strlen(tensor);
  for (const char *at = rules; *at; at += strcspn(at, " "), at += strspn(at, " "))
    if (strncmp(at, tensor, n) == 0 && at[n] == '=') return at + n + 1;
  return NULL;
}

bool mr3d_rules_names(const char *rules, const char *tensor) { return rules_of(rules, tensor) != NULL; }

bool mr3d_rules_has(const char *rules, const char *tensor, const char *rule) {
  const size_t n = rule ? strlen(rule) : 0;
  if (!rule) return rules_of(rules, tensor) && *rules_of(rules, tensor) && *rules_of(rules, tensor) != ' ';
  for (const char *at = rules_of(rules, tensor); at && *at && *at != ' '; at += strcspn(at, ", "), at += *at == ',')
    if (strncmp(at, rule, n) == 0 && (!at[n] || at[n] == ',' || at[n] == ' ')) return true;
  return false;
}

/** Keeps of a step's rules those that `also` has. */
static void intersect(char rules[MR3D_MOST_RULES], const char *also) {
  char kept[MR3D_MOST_RULES] = "", tensor[64], rule[32];
  size_t n = 0;
  if (!strchr(rules, '=')) return; /* "error", or no outputs */
  for (const char *at = rules; *at;) {
    const size_t length = strcspn(at, "=");
    snprintf(tensor, sizeof tensor, "%.*s", (int)length, at);
    n += (size_t)snprintf(kept + n, sizeof kept - n, "%s%s=", n ? " " : "", tensor);
    at += length + 1;
    for (const char *comma = ""; *at && *at != ' ';) {
      snprintf(rule, sizeof rule, "%.*s", (int)strcspn(at, ", "), at);
      if (mr3d_rules_has(also, tensor, rule)) n += (size_t)snprintf(kept + n, sizeof kept - n, "%s%s", comma, rule), comma = ",";
      at += strcspn(at, ", ");
      at += *at == ',';
    }
    at += *at == ' ';
  }
  memcpy(rules, kept, MR3D_MOST_RULES);
}

/** What is shared by the measurements of a run. */
struct laboratory {
  const mr3d_suite *suite;
  mr3d_weights_cache *weights;
  const char *scratch;
  int threads;
};

/**
 * Poses a case; its answers go into `answers` [n_steps] (NULL: refused), where that is not NULL. With `m` it also finds which rules apply and, with `stored`, the answers to other
 * inputs, whether those pass.
 */
static mr3d_status pose(const struct laboratory *lab, const mr3d_case *test, mr3d_tier tier, uint64_t seed, const mr3d_beside *beside, mr3d_bundle *const stored[],
                        mr3d_bundle *answers[], struct measured *m, mr3d_error *error) {
  mr3d_posing p;
  bool passes = stored != NULL;
  mr3d_status status = MR3D_OK;
  mr3d_posing_open(&p, lab->suite, test, tier, seed, lab->scratch, lab->weights, lab->threads);
  p.beside = beside;
  mr3d_truth_spare_runs(p.truth);
  for (int step = 0; step < test->n_steps && status == MR3D_OK; step++) {
    status = mr3d_posing_request(&p, step, error);
    if (status == MR3D_OK) status = mr3d_posing_answer(&p, step, NULL, error);
    if (status != MR3D_OK) break;
    if (answers) answers[step] = p.answers[step] ? outputs_of(p.answers[step], false) : NULL;
    if (!m) continue;
    char rules[MR3D_MOST_RULES] = "error";
    if (p.answers[step]) {
      mr3d_judgement judgement;
      mr3d_bundle *wrong = outputs_of(p.answers[step], true);
      mr3d_judge(p.truth, wrong, &judgement);
      print_rules(p.answers[step], &judgement, rules);
      mr3d_judgement_clear(&judgement);
      mr3d_bundle_free(&wrong);
      if (passes) {
        mr3d_judge(p.truth, stored[step], &judgement);
        passes = judgement.passed;
        mr3d_judgement_clear(&judgement);
      }
    }
    if (m->n == 0) memcpy(m->steps[step], rules, sizeof rules);
    else intersect(m->steps[step], rules);
  }
  mr3d_posing_close(&p);
  if (status == MR3D_OK && m) m->n++, m->fixed = m->fixed || passes;
  return status;
}

static bool is_composed(const mr3d_case *test) {
  bool composed = false;
  for (int s = 0; s < test->n_steps; s++) composed = composed || mr3d_op_is_composed(test->steps[s].op);
  return composed;
}

static mr3d_tier coarsest(uint32_t tiers) {
  static const mr3d_tier order[] = {MR3D_BF16_TIER, MR3D_FP16, MR3D_TF32, MR3D_FP32, MR3D_FP64};
  int i = 0;
  while (!(tiers >> order[i] & 1)) i++;
  return order[i];
}

/** At the coarsest tier, where most passes; composed operators also at the others, since the yardstick of each could leave out other rows. */
static mr3d_status measure(const struct laboratory *lab, const mr3d_case *test, struct measured *m, mr3d_error *error) {
  mr3d_status status = MR3D_OK;
  const mr3d_tier most = coarsest(test->tiers);
  bool dear = false;
  for (int t = 0; t < MR3D_N_TIERS && status == MR3D_OK; t++) {
    const mr3d_tier tier = (mr3d_tier)((most + t) % MR3D_N_TIERS);
    if (!(test->tiers >> tier & 1) || (t > 0 && (dear || !is_composed(test)))) continue;
    mr3d_bundle **answers[2] = {mr3d_allocate(test->n_steps, sizeof **answers), mr3d_allocate(test->n_steps, sizeof **answers)};
    for (int s = 0; s < (dear ? 2 : SEEDS) && status == MR3D_OK; s++) {
      const double start = now();
      status = pose(lab, test, tier, (uint64_t)s + 1, NULL, s ? answers[(s + 1) % 2] : NULL, answers[s % 2], s ? m : NULL, error);
      dear = dear || (is_composed(test) ? 8 : 1) * (now() - start) > DEAR;
      for (int step = 0; s && step < test->n_steps; step++) mr3d_bundle_free(&answers[(s + 1) % 2][step]);
    }
    for (int i = 0; i < 2; i++) {
      for (int step = 0; step < test->n_steps; step++) mr3d_bundle_free(&answers[i][step]);
      free(answers[i]);
    }
    mr3d_scratch_clear("");
  }
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", test->id);
}

mr3d_status mr3d_rules_ask(const mr3d_suite *suite, const mr3d_case *test, mr3d_tier tier, uint64_t seed, const mr3d_beside *beside, int step, char rules[MR3D_MOST_RULES],
                           mr3d_error *error) {
  struct laboratory lab = {.suite = suite};
  mr3d_status status = mr3d_scratch_open(&lab.scratch, error);
  if (status != MR3D_OK) return status;
  struct measured m = {.steps = mr3d_allocate(test->n_steps, sizeof *m.steps)};
  lab.weights = mr3d_weights_cache_new();
  status = pose(&lab, test, tier, seed, beside, NULL, NULL, &m, error);
  if (status == MR3D_OK) memcpy(rules, m.steps[step], sizeof *m.steps);
  mr3d_weights_cache_free(&lab.weights);
  mr3d_scratch_close();
  free(m.steps);
  return status;
}

/** Begins the SHA-256 of a case and the weights that it names, as JSON without blanks. */
static void digest(const mr3d_suite *suite, int index, char hex[65]) {
  const cJSON *sets = cJSON_GetObjectItemCaseSensitive(suite->root, "weights");
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  const mr3d_case *test = &suite->cases[index];
  char *json = cJSON_PrintUnformatted(suite->json[index]);
  fputs(json, to);
  cJSON_free(json);
  for (int s = 0; s < test->n_steps; s++) {
    if (!test->steps[s].weights) continue;
    json = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(sets, test->steps[s].weights));
    fputs(json, to);
    cJSON_free(json);
  }
  fclose(to);
  mr3d_text_digest(text, size, hex);
  hex[DIGEST] = '\0';
  free(text);
}

static void print_entry(FILE *to, const char *comma, const mr3d_case *test, const char *of, bool fixed, const struct measured *m, const cJSON *old) {
  fprintf(to, "%s\n  \"%s\": {\"of\": \"%s\", \"fixed\": %s, \"steps\": [", comma, test->id, of, fixed ? "true" : "false");
  for (int s = 0; s < test->n_steps; s++)
    fprintf(to, "%s\"%s\"", s ? ", " : "", old ? cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(old, "steps"), s)->valuestring : m->steps[s]);
  fputs("]}", to);
}

/** What an old table says of a case that is still the same, or NULL. */
static const cJSON *known(mr3d_rules *old, const mr3d_case *test, const char *of) {
  const cJSON *entry = old ? entry_of(old, test) : NULL, *then = cJSON_GetObjectItemCaseSensitive(entry, "of");
  const char *text;
  bool fixed;
  mr3d_error ignored = {0};
  if (!cJSON_IsString(then) || strcmp(then->valuestring, of) != 0 || mr3d_rules_fixed(old, test, &fixed, &ignored) != MR3D_OK) return NULL;
  for (int s = 0; s < test->n_steps; s++)
    if (mr3d_rules_step(old, test, s, &text, &ignored) != MR3D_OK) return NULL;
  return entry;
}

mr3d_status mr3d_rules_measure(const mr3d_suite *suite, mr3d_rules *old, int threads, mr3d_rules_progress *progress, void *user, char **out, int *n_measured, mr3d_error *error) {
  struct laboratory lab = {.suite = suite, .threads = threads};
  mr3d_status status = mr3d_scratch_open(&lab.scratch, error);
  if (status != MR3D_OK) return status;
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  const char *comma = "";
  fputs("{\"format\": 1, \"cases\": {", to);
  *n_measured = 0;
  for (int i = 0; i < suite->n_cases && status == MR3D_OK; i++) {
    const mr3d_case *test = &suite->cases[i];
    if (test->needs_data || mr3d_case_is_whole(test)) continue;
    char of[65];
    digest(suite, i, of);
    const cJSON *entry = known(old, test, of);
    struct measured m = {.steps = mr3d_allocate(test->n_steps, sizeof *m.steps)};
    if (!entry) {
      ++*n_measured;
      if (progress && !progress(user, test)) status = mr3d_fail(error, MR3D_INVALID, "%s is not what golden/rules.json was measured of", test->id);
      else {
        lab.weights = mr3d_weights_cache_new();
        status = measure(&lab, test, &m, error);
        mr3d_weights_cache_free(&lab.weights);
      }
    }
    if (status == MR3D_OK) print_entry(to, comma, test, of, entry ? cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(entry, "fixed")) : m.fixed, &m, entry);
    comma = ",";
    free(m.steps);
  }
  fputs("\n}}\n", to);
  fclose(to);
  mr3d_scratch_close();
  if (status == MR3D_OK) *out = text;
  else free(text);
  return status;
}
