#include "profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_internal.h"
#include "json.h"
#include "words.h"

static const mr3d_profile profiles[] = {
    {"core", "L0,L1,L2", "each operator alone, the attention block and the decoder layer compute what the specification says, and refuse what must be refused"},
    {"decoder", "L0,L1,L2,L3,L4",
     "as core; and the whole decoder, from spliced embeddings to logits, and generation over a session with the caller's text-only mask"},
    {"scan", "L0,L1,L2,L3,L4,L5", "as decoder; and the way from a raw scan to point tokens, as far as the case list has cases of level L5"},
    {0}};

const mr3d_profile *mr3d_profile_at(int index) { return profiles[index].name ? &profiles[index] : NULL; }

mr3d_status mr3d_profile_named(const char *name, const mr3d_profile **profile, mr3d_error *error) {
  const char *names[3];
  int n = 0;
  for (; profiles[n].name; n++) {
    names[n] = profiles[n].name;
    if (strcmp(name, names[n]) != 0) continue;
    *profile = &profiles[n];
    return MR3D_OK;
  }
  const char *meant = mr3d_word_meant(name, n, names);
  return mr3d_fail(error, MR3D_INVALID, "there is no profile \"%.60s\"%s%s%s; expected core, decoder or scan", name, meant ? "; did you mean \"" : "", meant ? meant : "",
                   meant ? "\"?" : "");
}

bool mr3d_profile_has(const mr3d_profile *profile, const mr3d_case *test) {
  return !test->needs_data && !mr3d_case_is_whole(test) && mr3d_word_selected(profile->levels, test->level);
}

char *mr3d_profile_list(const mr3d_profile *profile, const mr3d_suite *suite) {
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    if (!mr3d_profile_has(profile, test)) continue;
    fputs(test->id, to);
    for (int tier = 0; tier < MR3D_N_TIERS; tier++)
      if (test->tiers >> tier & 1) fprintf(to, " %s", mr3d_tier_name((mr3d_tier)tier));
    fputc('\n', to);
  }
  fclose(to);
  return text;
}

mr3d_status mr3d_profile_version(const mr3d_profile *profile, const mr3d_suite *suite, int *version, char root[MR3D_HEX_DIGEST], mr3d_error *error) {
  char path[4096];
  cJSON *json = NULL;
  char *list = mr3d_profile_list(profile, suite);
  const size_t n = mr3d_merkle_of_lines(list, root);
  free(list);
  snprintf(path, sizeof path, "%s/profiles.json", mr3d_suite_golden_dir(suite));
  mr3d_status status = mr3d_read_json(path, &json, error);
  if (status != MR3D_OK) return status;
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(json, "profiles"), profile->name),
              *listed = cJSON_GetObjectItemCaseSensitive(entry, "root");
  int64_t number = 0;
  if (!mr3d_json_is_count(cJSON_GetObjectItemCaseSensitive(entry, "version"), &number) || number < 1 || number > 1 << 30 || !cJSON_IsString(listed))
    status = mr3d_fail(error, MR3D_FORMAT, "%s: profile %s must have a version and a root", path, profile->name);
  else if (strcmp(listed->valuestring, root) != 0)
    status = mr3d_fail(error, MR3D_INVALID, "%s: the list of profile %s is another by now (%zu cases, root %.16s...) than that of version %lld (root %.16s...); golden/profiles.py gives it a new version",
                       path, profile->name, n, root, (long long)number, listed->valuestring);
  else *version = (int)number;
  cJSON_Delete(json);
  return status;
}

/* ---- tests ---- */

bool mr3d_scope_has(const mr3d_scope *scope, const mr3d_case *test) {
  bool has = mr3d_profile_has(scope->profile, test) && (scope->tiers & test->tiers);
  for (int s = 0; s < test->n_steps && has; s++) has = mr3d_word_selected(scope->ops, test->steps[s].op);
  return has;
}

static bool has_case(void *user, const mr3d_case *test) { return mr3d_scope_has(user, test); }

const char *mr3d_test_name(const mr3d_test *test, char name[MR3D_TEST_NAME]) {
  snprintf(name, MR3D_TEST_NAME, "%.180s@%s%s", test->test->id, mr3d_tier_name(test->tier), mr3d_variant_suffix(test->variant));
  return name;
}

mr3d_status mr3d_scope_tests(const mr3d_scope *scope, const mr3d_suite *suite, mr3d_test **out, int *n_tests, mr3d_error *error) {
  mr3d_deal *deal = NULL;
  mr3d_scope asked = *scope;
  if (scope->shard.of > 0) {
    mr3d_status status = mr3d_deal_new(suite, has_case, &asked, scope->shard.of, &deal, error);
    if (status != MR3D_OK) return status;
  }
  mr3d_test *tests = mr3d_allocate((long long)mr3d_suite_count(suite) * MR3D_N_TIERS * MR3D_N_VARIANTS, sizeof *tests);
  int n = 0;
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    if (!mr3d_scope_has(scope, test) || (deal && mr3d_deal_shard_of(deal, test) != scope->shard.index)) continue;
    for (int tier = 0; tier < MR3D_N_TIERS; tier++)
      for (int variant = 0; variant < MR3D_N_VARIANTS; variant++)
        if (scope->tiers & test->tiers & 1u << tier && mr3d_challenge_asks(&scope->challenge, test, (mr3d_tier)tier, (mr3d_variant)variant))
          tests[n++] = (mr3d_test){test, (mr3d_tier)tier, (mr3d_variant)variant};
  }
  mr3d_deal_free(&deal);
  if (n > 0) {
    *out = tests, *n_tests = n;
    return MR3D_OK;
  }
  free(tests);
  return mr3d_fail(error, MR3D_INVALID, "profile %s has no case%s%s at these tiers", scope->profile->name, scope->ops ? " that asks no other ops than " : "", scope->ops ? scope->ops : "");
}
