#include "waivers.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "text.h"

struct waiver {
  const char *cases, *reason, *issue, *expires;
  uint32_t tiers;
};

struct mr3d_waivers {
  cJSON *root;
  int n;
  struct waiver list[MR3D_MAX_WAIVERS];
};

static mr3d_status take_text(const cJSON *object, const char *key, int number, const char **text, mr3d_error *error) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  if (!cJSON_IsString(item) || strlen(item->valuestring) < 1 || strlen(item->valuestring) > 1000)
    return mr3d_fail(error, MR3D_FORMAT, "waiver %d: \"%s\" must be a text of 1 to 1000 bytes", number, key);
  *text = item->valuestring;
  return MR3D_OK;
}

static mr3d_status take_tiers(const cJSON *list, int number, uint32_t *tiers, mr3d_error *error) {
  const cJSON *item;
  *tiers = 0;
  cJSON_ArrayForEach (item, list) {
    mr3d_tier tier = cJSON_IsString(item) ? mr3d_tier_named(item->valuestring) : MR3D_N_TIERS;
    if (tier == MR3D_N_TIERS) *tiers = 0;
    if (tier == MR3D_N_TIERS) break;
    *tiers |= 1u << tier;
  }
  return cJSON_IsArray(list) && *tiers ? MR3D_OK : mr3d_fail(error, MR3D_FORMAT, "waiver %d: \"tiers\" must be a list of fp64, fp32, tf32, bf16, fp16", number);
}

/** The operator, up to the first stroke, must be spelt out: else a waiver would cover operators that nobody thought of. */
static bool spells_out_operator(const char *glob) {
  const size_t n = strcspn(glob, "/");
  return n > 0 && glob[n] == '/' && strspn(glob, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static mr3d_status read_waiver(const cJSON *item, int number, const char *day, struct waiver *w, mr3d_error *error) {
  static const char *const keys[] = {"cases", "tiers", "reason", "issue", "expires", NULL};
  char place[32];
  snprintf(place, sizeof place, "waiver %d", number);
  mr3d_status status = mr3d_text_keys(item, place, keys, error);
  if (status == MR3D_OK) status = take_text(item, "cases", number, &w->cases, error);
  if (status == MR3D_OK) status = take_tiers(cJSON_GetObjectItemCaseSensitive(item, "tiers"), number, &w->tiers, error);
  if (status == MR3D_OK) status = take_text(item, "reason", number, &w->reason, error);
  if (status == MR3D_OK) status = take_text(item, "issue", number, &w->issue, error);
  if (status == MR3D_OK) status = take_text(item, "expires", number, &w->expires, error);
  if (status != MR3D_OK) return status;
  if (!spells_out_operator(w->cases))
    return mr3d_fail(error, MR3D_INVALID, "waiver %d (%.80s) is over-broad: the operator, in front of the first \"/\", must be spelt out, as in attention/gqa*", number, w->cases);
  if (strncmp(w->issue, "https://", 8) != 0 && strncmp(w->issue, "http://", 7) != 0)
    return mr3d_fail(error, MR3D_FORMAT, "waiver %d: \"issue\" must be a link, http:// or https://", number);
  if (!mr3d_text_is_date(w->expires, false)) return mr3d_fail(error, MR3D_FORMAT, "waiver %d: \"expires\" must be a day, as 2027-01-31", number);
  if (strcmp(w->expires, day) < 0) return mr3d_fail(error, MR3D_INVALID, "waiver %d (%.80s) expired on %s", number, w->cases, w->expires);
  return MR3D_OK;
}

mr3d_status mr3d_waivers_read(const mr3d_envelope *envelope, const char *day, mr3d_waivers **out, mr3d_error *error) {
  static const char *const keys[] = {"format", "waivers", NULL};
  if (strcmp(envelope->type, MR3D_WAIVERS_TYPE) != 0)
    return mr3d_fail(error, MR3D_INVALID, "this is no signed list of waivers, but %.80s (mr3d sign makes one of a list)", envelope->type);
  mr3d_waivers *waivers = mr3d_allocate(1, sizeof *waivers);
  int64_t format = 0;
  mr3d_status status = mr3d_json_parse(envelope->payload, envelope->size, MR3D_JSON_ANY_NUMBER, &waivers->root, error);
  if (status == MR3D_OK && !mr3d_text_is_plain(waivers->root)) status = mr3d_fail(error, MR3D_FORMAT, "waivers: a text holds control characters");
  if (status == MR3D_OK) status = mr3d_text_keys(waivers->root, "waivers", keys, error);
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(waivers->root, "waivers"), *item;
  if (status == MR3D_OK && (!mr3d_json_is_count(cJSON_GetObjectItemCaseSensitive(waivers->root, "format"), &format) || format != 1))
    status = mr3d_fail(error, MR3D_FORMAT, "waivers: \"format\" must be 1");
  if (status == MR3D_OK && (!cJSON_IsArray(list) || !list->child)) status = mr3d_fail(error, MR3D_FORMAT, "waivers: \"waivers\" must be a list of at least one");
  for (item = list ? list->child : NULL; item && status == MR3D_OK; item = item->next) {
    if (waivers->n == MR3D_MAX_WAIVERS) status = mr3d_fail(error, MR3D_INVALID, "waivers: more than %d", MR3D_MAX_WAIVERS);
    else status = read_waiver(item, waivers->n + 1, day, &waivers->list[waivers->n], error), waivers->n++;
  }
  if (status == MR3D_OK) *out = waivers;
  else mr3d_waivers_free(&waivers);
  return status;
}

void mr3d_waivers_free(mr3d_waivers **waivers) {
  if (!*waivers) return;
  cJSON_Delete((*waivers)->root);
  free(*waivers);
  *waivers = NULL;
}

int mr3d_waivers_count(const mr3d_waivers *waivers) { return waivers->n; }

void mr3d_waivers_say(const mr3d_waivers *waivers, int index, char *to, size_t size) {
  const struct waiver *w = &waivers->list[index];
  size_t n = (size_t)snprintf(to, size, "%.200s at", w->cases);
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (w->tiers >> tier & 1) n += (size_t)snprintf(to + n, size - n, " %s", mr3d_tier_name((mr3d_tier)tier));
  snprintf(to + n, size - n, " until %s: %.300s (%.200s)", w->expires, w->reason, w->issue);
}

static bool covers(const struct waiver *w, const mr3d_test *test) { return w->tiers >> test->tier & 1 && fnmatch(w->cases, test->test->id, 0) == 0; }

/** Tests of one case at one tier follow each other; the end of those that begin at `first`. */
static int end_of_pair(int n_tests, const mr3d_test tests[], int first) {
  int end = first;
  while (end < n_tests && tests[end].test == tests[first].test && tests[end].tier == tests[first].tier) end++;
  return end;
}

static mr3d_status settle(const struct waiver *w, int number, int n_tests, const mr3d_test tests[], const mr3d_leaf_verdict verdicts[], bool waived[], mr3d_error *error) {
  int n_cases = 0;
  const mr3d_case *last = NULL;
  for (int first = 0, end; first < n_tests; first = end) {
    end = end_of_pair(n_tests, tests, first);
    if (!covers(w, &tests[first])) continue;
    bool failed = false, already = false;
    for (int i = first; i < end; i++) failed = failed || verdicts[i] != MR3D_LEAF_PASSED, already = already || waived[i];
    if (already)
      return mr3d_fail(error, MR3D_INVALID, "waiver %d (%.80s) is a duplicate: it covers %s at %s, which one before it covers", number, w->cases, tests[first].test->id,
                       mr3d_tier_name(tests[first].tier));
    if (!failed)
      return mr3d_fail(error, MR3D_INVALID, "waiver %d (%.80s) is over-broad: it covers %s at %s, which passed", number, w->cases, tests[first].test->id, mr3d_tier_name(tests[first].tier));
    for (int i = first; i < end; i++) waived[i] = verdicts[i] != MR3D_LEAF_PASSED;
    n_cases += last != tests[first].test;
    last = tests[first].test;
  }
  if (n_cases > MR3D_WAIVED_CASES) return mr3d_fail(error, MR3D_INVALID, "waiver %d (%.80s) is over-broad: it covers %d cases, one may cover %d", number, w->cases, n_cases, MR3D_WAIVED_CASES);
  if (n_cases == 0) return mr3d_fail(error, MR3D_INVALID, "waiver %d (%.80s) is unused: it covers nothing that failed; take it out", number, w->cases);
  return MR3D_OK;
}

/** However many waivers there are, what is mostly waived conforms to little. */
static mr3d_status check_share(int n_tests, const mr3d_test tests[], const bool waived[], mr3d_error *error) {
  int n_cases = 0, n_waived = 0;
  const mr3d_case *last = NULL, *last_waived = NULL;
  for (int i = 0; i < n_tests; i++) {
    n_cases += tests[i].test != last;
    n_waived += waived[i] && tests[i].test != last_waived;
    last = tests[i].test;
    if (waived[i]) last_waived = last;
  }
  const int most = (n_cases + MR3D_WAIVED_SHARE - 1) / MR3D_WAIVED_SHARE;
  if (n_waived <= most) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "the waivers are over-broad: together they cover %d of %d cases; one in %d may be waived, here %d", n_waived, n_cases, MR3D_WAIVED_SHARE, most);
}

mr3d_status mr3d_waivers_settle(const mr3d_waivers *waivers, int n_tests, const mr3d_test tests[], const mr3d_leaf_verdict verdicts[], bool waived[], mr3d_error *error) {
  mr3d_status status = MR3D_OK;
  memset(waived, 0, (size_t)n_tests * sizeof *waived);
  for (int w = 0; w < waivers->n && status == MR3D_OK; w++) status = settle(&waivers->list[w], w + 1, n_tests, tests, verdicts, waived, error);
  return status == MR3D_OK ? check_share(n_tests, tests, waived, error) : status;
}
