/** The choice of cases: words and globs that narrow each other, and what was meant where one selects nothing. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_internal.h"
#include "pitfalls.h"
#include "run.h"
#include "words.h"

static bool any_selected(const char *list, int count, const char *const words[]) {
  for (int i = 0; i < count; i++)
    if (mr3d_word_selected(list, words[i])) return true;
  return list == NULL;
}

bool mr3d_case_is_whole(const mr3d_case *test) { return any_selected("whole", test->n_tags, test->tags); }

/** Of the whole model, and not asked for by that name. */
static bool is_unasked_whole(const mr3d_case *test, const mr3d_selection *selection) {
  if (selection->with_whole || !mr3d_case_is_whole(test)) return false;
  const bool named = selection->tag && mr3d_word_selected(selection->tag, "whole");
  return !named && (!selection->case_glob || strcmp(selection->case_glob, test->id) != 0);
}

bool mr3d_case_selected(const mr3d_case *test, const mr3d_selection *selection) {
  if (is_unasked_whole(test, selection)) return false;
  if (selection->case_glob && fnmatch(selection->case_glob, test->id, 0) != 0) return false;
  if (!mr3d_word_selected(selection->level, test->level)) return false;
  if (!any_selected(selection->pitfall, test->n_pitfalls, test->pitfalls) || !any_selected(selection->tag, test->n_tags, test->tags))
    return false;
  if (selection->without_slow && any_selected("slow", test->n_tags, test->tags)) return false;
  bool op = selection->op == NULL;
  for (int s = 0; s < test->n_steps && !op; s++) op = mr3d_word_selected(selection->op, test->steps[s].op);
  return op;
}

/** Every comma-separated word of `list` must be known, or a typing error would select nothing and pass. */
static mr3d_status check_words(const char *option, const char *list, int count, const char *const known[], mr3d_error *error) {
  char word[128];
  for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    int length = (int)strcspn(at, ",");
    snprintf(word, sizeof word, "%.*s", length, at);
    bool found = false;
    for (int i = 0; i < count; i++) found = found || strcmp(word, known[i]) == 0;
    if (found) continue;
    const char *meant = mr3d_word_meant(word, count, known);
    return mr3d_fail(error, MR3D_INVALID, "%s \"%s\": no case has that%s%s%s; `mr3d list` shows what there is", option, word,
                     meant ? "; did you mean \"" : "", meant ? meant : "", meant ? "\"?" : "");
  }
  return MR3D_OK;
}

/** Levels that the suite describes may still be without cases: that is no typing error. */
static mr3d_status check_levels(const char *list, int count, const char *const known[], mr3d_error *error) {
  mr3d_error inner = {0};
  const mr3d_status status = check_words("--level", list, count, known, &inner);
  if (status == MR3D_OK) return MR3D_OK;
  static const char *const all[] = {"L0", "L1", "L2", "L3", "L4", "L5"};
  for (int i = 0; i < 6; i++) {
    bool has_cases = false;
    for (int k = 0; k < count; k++) has_cases = has_cases || strcmp(all[i], known[k]) == 0;
    if (has_cases || !list || strcmp(list, all[i]) != 0) continue;
    return mr3d_fail(error, MR3D_INVALID, "--level \"%s\": no case has that level yet; `mr3d list levels` shows how many each has", all[i]);
  }
  return check_words("--level", list, 6, all, error) == MR3D_OK ? MR3D_OK : error->status;
}

/** The distinct words of one kind over all cases, in order of appearance. */
struct words {
  int count;
  const char **list;
};

static void add_word(struct words *words, const char *word) {
  for (int i = 0; i < words->count; i++)
    if (strcmp(words->list[i], word) == 0) return;
  words->list = realloc(words->list, (size_t)(words->count + 1) * sizeof *words->list);
  words->list[words->count++] = word;
}

mr3d_status mr3d_selection_check(const mr3d_suite *suite, const mr3d_selection *selection, mr3d_error *error) {
  struct words ops = {0}, levels = {0}, pitfalls = {0}, tags = {0};
  for (int p = 0; p < mr3d_pitfall_count(); p++) add_word(&pitfalls, mr3d_pitfall_at(p)->slug);
  for (int i = 0; i < suite->n_cases; i++) {
    const mr3d_case *test = &suite->cases[i];
    add_word(&levels, test->level);
    for (int s = 0; s < test->n_steps; s++) add_word(&ops, test->steps[s].op);
    for (int t = 0; t < test->n_tags; t++) add_word(&tags, test->tags[t]);
  }
  mr3d_status status = check_words("--op", selection->op, ops.count, ops.list, error);
  if (status == MR3D_OK) status = check_levels(selection->level, levels.count, levels.list, error);
  if (status == MR3D_OK) status = check_words("--pitfall", selection->pitfall, pitfalls.count, pitfalls.list, error);
  if (status == MR3D_OK) status = check_words("--tag", selection->tag, tags.count, tags.list, error);
  free(ops.list), free(levels.list), free(pitfalls.list), free(tags.list);
  if (status == MR3D_OK && suite->n_cases == 0) status = mr3d_fail(error, MR3D_INVALID, "%s/cases.json holds no case", suite->golden_dir);
  if (status != MR3D_OK) return status;

  for (int i = 0; i < suite->n_cases; i++)
    if (mr3d_case_selected(&suite->cases[i], selection)) return MR3D_OK;
  char what[512] = "";
  const struct {
    const char *option, *value;
  } given[] = {{"--case", selection->case_glob},
               {"--op", selection->op},
               {"--level", selection->level},
               {"--pitfall", selection->pitfall},
               {"--tag", selection->tag}};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++)
    if (given[i].value) snprintf(what + strlen(what), sizeof what - strlen(what), " %s %s", given[i].option, given[i].value);
  mr3d_selection wider = *selection;
  wider.with_whole = true;
  for (int i = 0; i < suite->n_cases; i++)
    if (mr3d_case_selected(&suite->cases[i], &wider))
      return mr3d_fail(error, MR3D_INVALID, "the selection is empty:%s fits only cases of the whole model, such as %s; add --tag whole to ask them, minutes each", what,
                       suite->cases[i].id);
  const char *meant = NULL;
  if (selection->case_glob) {
    struct words ids = {0};
    for (int i = 0; i < suite->n_cases; i++) add_word(&ids, suite->cases[i].id);
    meant = mr3d_word_meant(selection->case_glob, ids.count, ids.list);
    free(ids.list);
  }
  return mr3d_fail(error, MR3D_INVALID, "the selection is empty: none of the %d cases matches%s%s%s%s; `mr3d list cases` shows them",
                   suite->n_cases, what, meant ? "; did you mean --case " : "", meant ? meant : "", meant ? "?" : "");
}
