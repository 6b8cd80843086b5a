/** mr3d list: what there is - cases, pitfalls, mutants, operators, levels. */
#include <cjson/cJSON.h>
#include <string.h>

#include "command.h"
#include "mr3d/server.h"
#include "mutants.h"
#include "pitfalls.h"
#include "profile.h"
#include "run.h"
#include "words.h"

static const struct level {
  const char *name, *covers;
} levels[] = {
    {"L0", "one operator"},
    {"L1", "one attention block: projections, rotation, cache, attention, output projection"},
    {"L2", "one decoder layer"},
    {"L3", "the decoder: spliced embeddings to hidden states and logits"},
    {"L4", "generation: prefill, then decode steps with the caller's text-only mask"},
    {"L5", "raw scan to tokens (encoders)"},
};

struct listing {
  const mr3d_suite *suite;
  const mr3d_selection *selection;
  bool json;
};

static void add_texts(cJSON *object, const char *key, int count, const char *const *texts) {
  cJSON *list = cJSON_AddArrayToObject(object, key);
  for (int i = 0; i < count; i++) cJSON_AddItemToArray(list, cJSON_CreateString(texts[i]));
}

static void print_json(cJSON *value) {
  char *text = cJSON_PrintUnformatted(value);
  printf("%s\n", text);
  cJSON_free(text);
  cJSON_Delete(value);
}

static int list_cases(const struct listing *l) {
  int n = 0;
  for (int i = 0; i < mr3d_suite_count(l->suite); i++) {
    const mr3d_case *test = mr3d_suite_at(l->suite, i);
    if (!mr3d_case_selected(test, l->selection)) continue;
    n++;
    if (l->json) {
      cJSON *line = cJSON_CreateObject();
      cJSON_AddStringToObject(line, "id", test->id);
      cJSON_AddStringToObject(line, "op", mr3d_case_op(test));
      cJSON_AddStringToObject(line, "level", test->level);
      cJSON_AddStringToObject(line, "title", test->title);
      cJSON_AddStringToObject(line, "why", test->why);
      add_texts(line, "pitfalls", test->n_pitfalls, test->pitfalls);
      add_texts(line, "tags", test->n_tags, test->tags);
      cJSON_AddNumberToObject(line, "steps", test->n_steps);
      cJSON_AddBoolToObject(line, "needs_data", test->needs_data);
      print_json(line);
      continue;
    }
    printf("%s %-44s %s", test->level, test->id, test->title);
    for (int p = 0; p < test->n_pitfalls; p++) printf("%s%s", p ? " " : "  <", test->pitfalls[p]);
    printf("%s", test->n_pitfalls ? ">" : "");
    for (int t = 0; t < test->n_tags; t++) printf("%s%s", t ? " " : "  [", test->tags[t]);
    printf("%s\n", test->n_tags ? "]" : "");
  }
  if (!l->json) printf("%d cases\n", n);
  return n ? 0 : mr3d_complain("no case matches");
}

/** Cases of which the counted word is the level, an operator of a step, or a pitfall. */
static int count_cases(const struct listing *l, const char *level, const char *op, const char *pitfall) {
  mr3d_selection selection = {.level = level, .op = op, .pitfall = pitfall, .with_whole = true};
  int n = 0;
  for (int i = 0; i < mr3d_suite_count(l->suite); i++) n += mr3d_case_selected(mr3d_suite_at(l->suite, i), &selection);
  return n;
}

static int list_pitfalls(const struct listing *l) {
  for (int p = 0; p < mr3d_pitfall_count(); p++) {
    const mr3d_pitfall *pitfall = mr3d_pitfall_at(p);
    int cases = count_cases(l, NULL, NULL, pitfall->slug), mutants = 0;
    for (int m = 0; m < mr3d_mutant_count(); m++) mutants += strcmp(mr3d_mutant_at(m)->slug, pitfall->slug) == 0;
    if (l->json) {
      cJSON *line = cJSON_CreateObject();
      cJSON_AddStringToObject(line, "id", pitfall->id);
      cJSON_AddStringToObject(line, "slug", pitfall->slug);
      cJSON_AddStringToObject(line, "title", pitfall->title);
      cJSON_AddNumberToObject(line, "cases", cases);
      cJSON *list = cJSON_AddArrayToObject(line, "mutants");
      for (int m = 0; m < mr3d_mutant_count(); m++)
        if (strcmp(mr3d_mutant_at(m)->slug, pitfall->slug) == 0) cJSON_AddItemToArray(list, cJSON_CreateString(mr3d_mutant_at(m)->name));
      print_json(line);
    } else printf("%-4s %-18s %3d cases %2d mutants  %s\n", pitfall->id, pitfall->slug, cases, mutants, pitfall->title);
  }
  return 0;
}

static int list_mutants(const struct listing *l) {
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    char name[128];
    if (!mr3d_word_selected(l->selection->pitfall, mutant->slug)) continue;
    snprintf(name, sizeof name, "%s/%s", mutant->slug, mutant->name);
    if (l->json) {
      cJSON *line = cJSON_CreateObject();
      cJSON_AddStringToObject(line, "name", name);
      cJSON_AddStringToObject(line, "says", mutant->says);
      cJSON_AddStringToObject(line, "ops", mutant->ops);
      if (mutant->harmless) cJSON_AddStringToObject(line, "harmless", mutant->harmless);
      print_json(line);
    } else printf("%-44s %s\n", name, mutant->says);
  }
  return 0;
}

static int list_ops(const struct listing *l) {
  for (const char *const *op = mr3d_server_ops(); *op; op++) {
    int cases = count_cases(l, NULL, *op, NULL);
    if (l->json) {
      cJSON *line = cJSON_CreateObject();
      cJSON_AddStringToObject(line, "op", *op);
      cJSON_AddNumberToObject(line, "cases", cases);
      print_json(line);
    } else printf("%-18s %3d cases\n", *op, cases);
  }
  return 0;
}

static int list_levels(const struct listing *l) {
  for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
    int cases = count_cases(l, levels[i].name, NULL, NULL);
    if (l->json) {
      cJSON *line = cJSON_CreateObject();
      cJSON_AddStringToObject(line, "level", levels[i].name);
      cJSON_AddStringToObject(line, "covers", levels[i].covers);
      cJSON_AddNumberToObject(line, "cases", cases);
      print_json(line);
    } else printf("%s %4d cases  %s\n", levels[i].name, cases, levels[i].covers);
  }
  return 0;
}

static int list_profiles(const struct listing *l) {
  for (int p = 0; mr3d_profile_at(p); p++) {
    const mr3d_profile *profile = mr3d_profile_at(p);
    char root[MR3D_HEX_DIGEST];
    mr3d_error error = {0};
    int version = 0, cases = 0;
    for (int i = 0; i < mr3d_suite_count(l->suite); i++) cases += mr3d_profile_has(profile, mr3d_suite_at(l->suite, i));
    if (mr3d_profile_version(profile, l->suite, &version, root, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
    if (l->json) {
      cJSON *line = cJSON_CreateObject();
      cJSON_AddStringToObject(line, "profile", profile->name);
      cJSON_AddNumberToObject(line, "version", version);
      cJSON_AddStringToObject(line, "levels", profile->levels);
      cJSON_AddNumberToObject(line, "cases", cases);
      cJSON_AddStringToObject(line, "root", root);
      cJSON_AddStringToObject(line, "proves", profile->proves);
      print_json(line);
    } else printf("%-8s version %d, %s, %d cases: %s\n", profile->name, version, profile->levels, cases, profile->proves);
  }
  return 0;
}

int mr3d_command_list(int argc, char **argv) {
  mr3d_selection selection = {.with_whole = true};
  struct listing l = {.selection = &selection};
  const char *golden = NULL;
  const mr3d_option table[] = {
      {"--json", NULL, MR3D_OPTION_FLAG, &l.json, "JSON lines"},
      {"--level", "LIST", MR3D_OPTION_TEXT, &selection.level, "of cases: only these levels"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &selection.op, "of cases: only these operators"},
      {"--case", "GLOB", MR3D_OPTION_TEXT, &selection.case_glob, "of cases: only these names"},
      {"--pitfall", "LIST", MR3D_OPTION_TEXT, &selection.pitfall, "of cases and mutants: only those of these pitfalls"},
      {"--tag", "LIST", MR3D_OPTION_TEXT, &selection.tag, "of cases: only these tags"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d list [cases | pitfalls | mutants | ops | levels | profiles] [OPTION ...]",
                            "Lists cases (the default), the pitfalls they cover, the mutants that prove it, operators, levels, or the profiles of certificates.\n", 0, 1};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  const struct {
    const char *name;
    int (*list)(const struct listing *);
  } kinds[] = {{"cases", list_cases}, {"pitfalls", list_pitfalls}, {"mutants", list_mutants}, {"ops", list_ops}, {"levels", list_levels}, {"profiles", list_profiles}};
  const char *what = n ? argv[0] : "cases";
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(what, kinds[i].name) != 0) continue;
    mr3d_error error = {0};
    mr3d_suite *suite = NULL;
    char golden_dir[4096];
    if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK || mr3d_suite_open(golden_dir, NULL, &suite, &error) != MR3D_OK ||
        mr3d_selection_check(suite, &selection, &error) != MR3D_OK) {
      mr3d_suite_close(&suite);
      return mr3d_complain("%s", error.message);
    }
    l.suite = suite;
    status = kinds[i].list(&l);
    mr3d_suite_close(&suite);
    return status;
  }
  return mr3d_complain("cannot list \"%s\"; expected cases, pitfalls, mutants, ops, levels or profiles", what);
}
