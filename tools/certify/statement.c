#include "statement.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_internal.h"
#include "commit.h"
#include "file.h"
#include "json.h"
#include "protocol.h"
#include "report.h"
#include "subject.h"
#include "text.h"

#define MOST_LEAVES ((uint64_t)256 << 20) /* bytes, inflated */

const char *mr3d_suite_commit(void) { return *MR3D_COMMIT ? MR3D_COMMIT : "unknown"; }

const char *mr3d_kind_name(mr3d_kind kind) {
  static const char *const names[] = {"certificate", "report of failure", "partial result"};
  return names[kind];
}

void mr3d_claims_clear(mr3d_claims *claims) {
  free((void *)claims->scope.ops);
  free(claims->leaves);
  cJSON *const owned[] = {claims->files, claims->backend, claims->machines, claims->reasons, claims->unsteady, claims->waivers, claims->parts};
  for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) cJSON_Delete(owned[i]);
  *claims = (mr3d_claims){0};
}

static void say_tiers(uint32_t tiers, const char *between, char *to, size_t size) {
  size_t n = 0;
  *to = '\0';
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (tiers >> tier & 1) n += (size_t)snprintf(to + n, size - n, "%s%s", n ? between : "", mr3d_tier_name((mr3d_tier)tier));
}

void mr3d_scope_say(const mr3d_scope *scope, char *to, size_t size) {
  char tiers[64];
  say_tiers(scope->tiers, ",", tiers, sizeof tiers);
  snprintf(to, size, "%s@%s%s%s", scope->profile->name, tiers, scope->ops ? ", only " : "", scope->ops ? scope->ops : "");
}

/* ---- what the suite is ---- */

/** Merkle root of the golden set, from its manifest: a line "PATH SHA-256 BYTES" for each file, goldens first. */
static mr3d_status golden_root(const mr3d_suite *suite, char root[MR3D_HEX_DIGEST], size_t *n, mr3d_error *error) {
  char path[4096], *text = NULL;
  size_t size = 0;
  cJSON *manifest = NULL;
  snprintf(path, sizeof path, "%s/manifest.json", mr3d_suite_golden_dir(suite));
  mr3d_status status = mr3d_read_json(path, &manifest, error);
  if (status != MR3D_OK) return status;
  FILE *to = open_memstream(&text, &size);
  static const char *const lists[] = {"files", "other_files"};
  for (int l = 0; l < 2; l++) {
    const cJSON *entry;
    cJSON_ArrayForEach (entry, cJSON_GetObjectItemCaseSensitive(manifest, lists[l])) {
      const cJSON *name = cJSON_GetObjectItemCaseSensitive(entry, "path"), *sha256 = cJSON_GetObjectItemCaseSensitive(entry, "sha256"),
                  *bytes = cJSON_GetObjectItemCaseSensitive(entry, "bytes");
      if (!cJSON_IsString(name) || !cJSON_IsString(sha256) || !cJSON_IsNumber(bytes)) status = mr3d_fail(error, MR3D_FORMAT, "%s: an entry lacks path, sha256 or bytes", path);
      else fprintf(to, "%s %s %.0f\n", name->valuestring, sha256->valuestring, bytes->valuedouble);
    }
  }
  fclose(to);
  if (status == MR3D_OK) *n = mr3d_merkle_of_lines(text, root);
  free(text);
  cJSON_Delete(manifest);
  return status;
}

/** Merkle root of the lines of cases.json. */
static mr3d_status cases_root(const mr3d_suite *suite, char root[MR3D_HEX_DIGEST], mr3d_error *error) {
  char path[4096];
  void *bytes;
  size_t size;
  snprintf(path, sizeof path, "%s/cases.json", mr3d_suite_golden_dir(suite));
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK) return status;
  char *text = mr3d_allocate((long long)size + 2, 1);
  memcpy(text, bytes, size);
  if (size > 0 && text[size - 1] != '\n') text[size] = '\n';
  mr3d_merkle_of_lines(text, root);
  mr3d_unmap(bytes, size);
  free(text);
  return MR3D_OK;
}

/* ---- conclusions ---- */

/** Everything that the building of a statement passes on. */
struct making {
  const mr3d_suite *suite;
  const mr3d_claims *claims;
  const char *packed; /* the leaves as another statement has them, or NULL */
  mr3d_conclusion *c;
  int n;
  mr3d_test *tests;
  mr3d_leaf_verdict *verdicts;
  mr3d_leaf_outputs *outputs;
  bool *waived;
  mr3d_rules *rules;
};

/** Each test that did not pass has its reason, in order, and nothing else has one; tests that are unsteady were asked again and passed. */
static mr3d_status check_reasons(const struct making *m, mr3d_error *error) {
  static const char *const keys[] = {"test", "reason", "mistake", NULL};
  char name[MR3D_TEST_NAME];
  const cJSON *entry = m->claims->reasons->child;
  for (int i = 0; i < m->n; i++) {
    if (m->verdicts[i] == MR3D_LEAF_PASSED) continue;
    mr3d_test_name(&m->tests[i], name);
    if (!entry) return mr3d_fail(error, MR3D_INVALID, "reasons: that of %s, which did not pass, is missing", name);
    mr3d_status status = mr3d_text_keys(entry, "reasons", keys, error);
    if (status != MR3D_OK) return status;
    for (const cJSON *item = entry->child; item; item = item->next)
      if (!cJSON_IsString(item)) return mr3d_fail(error, MR3D_FORMAT, "reasons: \"%s\" must be a text", item->string);
    if (strcmp(entry->child->valuestring, name) != 0) return mr3d_fail(error, MR3D_INVALID, "reasons: expected that of %s, found that of %.200s", name, entry->child->valuestring);
    entry = entry->next;
  }
  if (entry) return mr3d_fail(error, MR3D_INVALID, "reasons: more than there are tests that did not pass");
  int at = 0;
  cJSON_ArrayForEach (entry, m->claims->unsteady) {
    if (!cJSON_IsString(entry)) return mr3d_fail(error, MR3D_FORMAT, "unsteady: must be a list of tests");
    while (at < m->n && (m->tests[at].variant != MR3D_AGAIN || m->verdicts[at] != MR3D_LEAF_PASSED || strcmp(mr3d_test_name(&m->tests[at], name), entry->valuestring) != 0)) at++;
    if (at++ >= m->n) return mr3d_fail(error, MR3D_INVALID, "unsteady: %.200s is no test that was asked again and passed, stands twice or is out of order", entry->valuestring);
  }
  return MR3D_OK;
}

static mr3d_status settle_waivers(struct making *m, char unusable[1024], mr3d_error *error) {
  mr3d_envelope *envelope = NULL;
  mr3d_waivers *waivers = NULL;
  mr3d_error own = {0};
  char day[11];
  unusable[0] = '\0';
  if (!m->claims->waivers) return MR3D_OK;
  char *text = cJSON_PrintUnformatted(m->claims->waivers);
  mr3d_status status = mr3d_envelope_parse(text, strlen(text), &envelope, error);
  cJSON_free(text);
  snprintf(day, sizeof day, "%.10s", m->claims->issued);
  if (status == MR3D_OK) status = mr3d_waivers_read(envelope, day, &waivers, error);
  if (status == MR3D_OK) {
    m->c->n_waivers = mr3d_waivers_count(waivers);
    if (mr3d_waivers_settle(waivers, m->n, m->tests, m->verdicts, m->waived, &own) != MR3D_OK) {
      snprintf(unusable, 1024, "%s", own.message);
      memset(m->waived, 0, (size_t)m->n * sizeof *m->waived);
    }
  }
  mr3d_waivers_free(&waivers);
  mr3d_envelope_free(&envelope);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "waivers");
}

static mr3d_status count(struct making *m, mr3d_error *error) {
  mr3d_conclusion *c = m->c;
  for (int i = 0; i < m->n; i++) {
    bool fixed = false;
    mr3d_status status = mr3d_rules_fixed(m->rules, m->tests[i].test, &fixed, error);
    if (status != MR3D_OK) return status;
    c->again += m->tests[i].variant == MR3D_AGAIN;
    c->fixed += fixed;
    if (m->tests[i].tier != MR3D_FP64) c->floating += m->outputs[i] != MR3D_LEAF_WHOLE, c->equal += m->outputs[i] == MR3D_LEAF_EQUAL;
    if (m->waived[i]) c->waived++;
    else if (m->verdicts[i] == MR3D_LEAF_PASSED) c->passed++;
    else if (m->verdicts[i] == MR3D_LEAF_FAILED) c->failed++;
    else c->skipped++;
  }
  return MR3D_OK;
}

static void conclude(struct making *m, const char *unusable) {
  mr3d_conclusion *c = m->c;
  char *verdict = c->verdict;
  const size_t size = sizeof c->verdict;
  const bool partial = m->claims->scope.shard.of > 0;
  if (partial) snprintf(verdict, size, "part %d of %d, to be merged", m->claims->scope.shard.index, m->claims->scope.shard.of);
  else if (c->passed == 0) snprintf(verdict, size, "does not conform: nothing passed");
  else if (c->failed + c->skipped > 0) {
    int n = snprintf(verdict, size, "does not conform: of %d tests,", c->n_tests);
    if (c->failed) n += snprintf(verdict + n, size - (size_t)n, " %d failed", c->failed);
    if (c->skipped) n += snprintf(verdict + n, size - (size_t)n, "%s %d skipped", c->failed ? " and" : "", c->skipped);
    if (*unusable) snprintf(verdict + n, size - (size_t)n, "; %s", unusable);
  } else if (*unusable) snprintf(verdict, size, "does not conform: %s", unusable);
  else if (c->waived) snprintf(verdict, size, "conforms with %d waiver%s", c->n_waivers, c->n_waivers == 1 ? "" : "s");
  else snprintf(verdict, size, "conforms");
  c->kind = partial ? MR3D_PARTIAL : strncmp(verdict, "conforms", 8) == 0 ? MR3D_CERTIFICATE : MR3D_FAILURE;
}

char *mr3d_scope_proves(const mr3d_scope *scope) {
  char *text = NULL;
  const int n = scope->ops ? asprintf(&text, "as much as cases that ask %s alone can show of this: %s", scope->ops, scope->profile->proves) : asprintf(&text, "%s", scope->profile->proves);
  if (n < 0) abort();
  return text;
}

/** Whether each machine kept a backend of its kind from remembering, by files, what it was asked before it was begun anew. */
static bool all_forget(const mr3d_claims *claims) {
  const char *spec = cJSON_GetObjectItemCaseSensitive(claims->backend, "spec")->valuestring, *due = strncmp(spec, "exec:", 5) == 0 ? MR3D_FORGETS : MR3D_READS_ONLY;
  const cJSON *machine, *active;
  bool all = true;
  if (strncmp(spec, "exec:", 5) != 0 && strncmp(spec, "lib:", 4) != 0) return true; /* the suite itself */
  cJSON_ArrayForEach (machine, claims->machines) {
    bool found = false;
    cJSON_ArrayForEach (active, cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(machine, "isolation"), "active"))
      found = found || strncmp(active->valuestring, due, strlen(due)) == 0;
    all = all && found;
  }
  return all;
}

/** What a pass does not exclude, in sentences that follow from the scope. */
static void add_limits(cJSON *object, const struct making *m) {
  char text[1024];
  const mr3d_scope *scope = &m->claims->scope;
  cJSON *list = cJSON_AddArrayToObject(object, "doesNotProve");
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (scope->tiers >> tier & 1) {
      snprintf(text, sizeof text, "at %s, %s", mr3d_tier_name((mr3d_tier)tier), mr3d_tier_blind_below((mr3d_tier)tier));
      cJSON_AddItemToArray(list, cJSON_CreateString(text));
    }
  if (!(scope->tiers & (1u << MR3D_FP64 | 1u << MR3D_FP32)))
    cJSON_AddItemToArray(list, cJSON_CreateString("that no mistake of logic hides below the rounding of these tiers: nothing was judged at fp64 or fp32"));
  if (strcmp(scope->profile->name, "core") == 0) cJSON_AddItemToArray(list, cJSON_CreateString("anything about the whole decoder, sessions and generation (profile decoder)"));
  if (strcmp(scope->profile->name, "scan") != 0) cJSON_AddItemToArray(list, cJSON_CreateString("anything about the way from a raw scan to tokens (profile scan)"));
  if (scope->ops) cJSON_AddItemToArray(list, cJSON_CreateString("anything about cases that ask other operators than those named"));
  if (m->c->fixed > 0) {
    snprintf(text, sizeof text, "that answers are computed in the %d tests that a nonce does not change, refusals among them: they could be stored", m->c->fixed);
    cJSON_AddItemToArray(list, cJSON_CreateString(text));
  }
  if (!all_forget(m->claims))
    cJSON_AddItemToArray(list, cJSON_CreateString("that what was asked again was computed again: the backend could keep answers in files from one start to the next (isolation was off, or the system lacks it)"));
  else if (strncmp(cJSON_GetObjectItemCaseSensitive(m->claims->backend, "spec")->valuestring, "exec:", 5) == 0)
    cJSON_AddItemToArray(list, cJSON_CreateString("that what was asked again was computed again, where the command keeps answers beyond this machine: it may use the network"));
  cJSON_AddItemToArray(list, cJSON_CreateString("that answers were computed and not stored once the nonce was known: have the files' SHA-256 before you give a nonce, or run mr3d verify --replay, which asks on inputs of your own too"));
  cJSON_AddItemToArray(list, cJSON_CreateString("that the one who signed told the truth: run mr3d verify --replay, or have it signed by a laboratory"));
}

static void add_resource(cJSON *list, const char *name, const char *root, const char *key, double number) {
  cJSON *entry = cJSON_CreateObject();
  cJSON_AddStringToObject(entry, "name", name);
  cJSON_AddStringToObject(cJSON_AddObjectToObject(entry, "digest"), "rfc6962Sha256", root);
  cJSON_AddNumberToObject(cJSON_AddObjectToObject(entry, "annotations"), key, number);
  cJSON_AddItemToArray(list, entry);
}

/** Names of tests; of a case all of whose tests passed that of the case alone, for they are many. */
static void add_tests(cJSON *predicate, const char *key, const struct making *m, bool passed, bool waived) {
  char name[MR3D_TEST_NAME];
  cJSON *list = cJSON_AddArrayToObject(predicate, key);
  for (int first = 0, end; first < m->n; first = end) {
    bool all = true;
    for (end = first; end < m->n && m->tests[end].test == m->tests[first].test; end++) all = all && m->verdicts[end] == MR3D_LEAF_PASSED;
    if (all && passed) cJSON_AddItemToArray(list, cJSON_CreateString(m->tests[first].test->id));
    for (int i = first; i < end && !all; i++)
      if (m->waived[i] == waived && (m->verdicts[i] == MR3D_LEAF_PASSED) == passed) cJSON_AddItemToArray(list, cJSON_CreateString(mr3d_test_name(&m->tests[i], name)));
  }
}

static void add_scope(cJSON *extension, const struct making *m, int version) {
  const mr3d_scope *scope = &m->claims->scope;
  char text[2 * MR3D_MOST_NONCE + 1];
  cJSON *profile = cJSON_AddObjectToObject(extension, "profile");
  cJSON_AddStringToObject(profile, "name", scope->profile->name);
  cJSON_AddNumberToObject(profile, "version", version);
  cJSON *tiers = cJSON_AddArrayToObject(profile, "tiers");
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (scope->tiers >> tier & 1) cJSON_AddItemToArray(tiers, cJSON_CreateString(mr3d_tier_name((mr3d_tier)tier)));
  if (scope->ops) mr3d_text_add(profile, "ops", scope->ops);
  else cJSON_AddNullToObject(profile, "ops");
  char *proves = mr3d_scope_proves(scope);
  cJSON_AddStringToObject(profile, "proves", proves);
  free(proves);
  add_limits(profile, m);
  cJSON *challenge = cJSON_AddObjectToObject(extension, "challenge");
  mr3d_challenge_print(&scope->challenge, text);
  cJSON_AddStringToObject(challenge, "nonce", text);
  cJSON_AddStringToObject(challenge, "derivation", "blake2b/1");
}

static char *pack(const char *leaves) {
  void *bytes;
  size_t size;
  if (mr3d_gzip(leaves, strlen(leaves), &bytes, &size, NULL) != MR3D_OK) return NULL;
  char *text = mr3d_text_to_base64(bytes, size);
  free(bytes);
  return text;
}

static void add_results(cJSON *extension, const struct making *m) {
  const mr3d_conclusion *c = m->c;
  const struct { const char *key; int n; } counts[] = {{"tests", c->n_tests}, {"passed", c->passed}, {"failed", c->failed}, {"skipped", c->skipped}, {"waived", c->waived}, {"again", c->again}, {"fixed", c->fixed}, {"floating", c->floating}, {"equal", c->equal}};
  cJSON *object = cJSON_AddObjectToObject(extension, "counts");
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) cJSON_AddNumberToObject(object, counts[i].key, counts[i].n);
  char root[MR3D_HEX_DIGEST];
  mr3d_merkle_of_lines(m->claims->leaves, root);
  object = cJSON_AddObjectToObject(extension, "results");
  cJSON_AddStringToObject(object, "root", root);
  cJSON_AddStringToObject(object, "encoding", "gzip+base64");
  char *packed = m->packed ? NULL : pack(m->claims->leaves);
  cJSON_AddStringToObject(object, "leaves", m->packed ? m->packed : packed);
  free(packed);
}

static cJSON *or_null(const cJSON *item) { return item ? cJSON_Duplicate(item, true) : cJSON_CreateNull(); }

static cJSON *make_extension(const struct making *m, int version) {
  const mr3d_claims *claims = m->claims;
  cJSON *extension = cJSON_CreateObject();
  cJSON_AddStringToObject(extension, "kind", mr3d_kind_name(m->c->kind));
  cJSON_AddStringToObject(extension, "verdict", m->c->verdict);
  cJSON_AddStringToObject(extension, "issued", claims->issued);
  cJSON *suite = cJSON_AddObjectToObject(extension, "suite");
  cJSON_AddStringToObject(suite, "version", MR3D_VERSION);
  mr3d_text_add(suite, "commit", claims->commit);
  add_scope(extension, m, version);
  cJSON_AddItemToObject(extension, "backend", cJSON_Duplicate(claims->backend, true));
  cJSON_AddItemToObject(extension, "machines", cJSON_Duplicate(claims->machines, true));
  add_results(extension, m);
  cJSON_AddItemToObject(extension, "reasons", cJSON_Duplicate(claims->reasons, true));
  cJSON_AddItemToObject(extension, "unsteady", cJSON_Duplicate(claims->unsteady, true));
  cJSON_AddItemToObject(extension, "waivers", or_null(claims->waivers));
  if (claims->scope.shard.of) {
    cJSON *shard = cJSON_AddObjectToObject(extension, "shard");
    cJSON_AddNumberToObject(shard, "index", claims->scope.shard.index);
    cJSON_AddNumberToObject(shard, "of", claims->scope.shard.of);
  } else cJSON_AddNullToObject(extension, "shard");
  cJSON_AddItemToObject(extension, "parts", or_null(claims->parts));
  return extension;
}

static mr3d_status make_statement(const struct making *m, cJSON **out, mr3d_error *error) {
  char root[MR3D_HEX_DIGEST], golden[MR3D_HEX_DIGEST], cases[MR3D_HEX_DIGEST];
  size_t n_golden = 0;
  int version = 0;
  mr3d_status status = mr3d_profile_version(m->claims->scope.profile, m->suite, &version, root, error);
  if (status == MR3D_OK) status = golden_root(m->suite, golden, &n_golden, error);
  if (status == MR3D_OK) status = cases_root(m->suite, cases, error);
  if (status != MR3D_OK) return status;
  static const char *const results[] = {"PASSED", "FAILED", "WARNED"};
  cJSON *statement = cJSON_CreateObject();
  cJSON_AddStringToObject(statement, "_type", "https://in-toto.io/Statement/v1");
  cJSON_AddItemToObject(statement, "subject", cJSON_Duplicate(m->claims->files, true));
  cJSON_AddStringToObject(statement, "predicateType", MR3D_PREDICATE_TYPE);
  cJSON *predicate = cJSON_AddObjectToObject(statement, "predicate");
  /* a part that passed wholly is no certificate, so it warns, too */
  cJSON_AddStringToObject(predicate, "result", results[m->c->kind == MR3D_CERTIFICATE && m->c->waived ? 2 : m->c->kind == MR3D_PARTIAL && m->c->failed + m->c->skipped ? 1 : m->c->kind]);
  cJSON *configuration = cJSON_AddArrayToObject(predicate, "configuration");
  add_resource(configuration, "mr3d golden set", golden, "files", (double)n_golden);
  add_resource(configuration, "mr3d case list", cases, "cases", m->suite->n_cases);
  add_resource(configuration, "mr3d profile", root, "version", version);
  add_tests(predicate, "passedTests", m, true, false);
  add_tests(predicate, "warnedTests", m, false, true);
  add_tests(predicate, "failedTests", m, false, false);
  cJSON_AddItemToObject(predicate, MR3D_EXTENSION, make_extension(m, version));
  *out = statement;
  return MR3D_OK;
}

/** `packed`: the leaves as a statement that is checked has them, or NULL: other versions of zlib pack them otherwise. */
static mr3d_status make(const mr3d_suite *suite, const mr3d_claims *claims, const char *packed, cJSON **statement, mr3d_conclusion *c, mr3d_error *error) {
  struct making m = {.suite = suite, .claims = claims, .packed = packed, .c = c};
  char unusable[1024];
  *c = (mr3d_conclusion){0};
  mr3d_status status = mr3d_scope_tests(&claims->scope, suite, &m.tests, &m.n, error);
  if (status != MR3D_OK) return status;
  c->n_tests = m.n;
  m.verdicts = mr3d_allocate(m.n, sizeof *m.verdicts), m.outputs = mr3d_allocate(m.n, sizeof *m.outputs), m.waived = mr3d_allocate(m.n, sizeof *m.waived);
  status = mr3d_rules_open(suite, &m.rules, error);
  if (status == MR3D_OK) status = mr3d_leaves_judge(claims->leaves, &(mr3d_leaf_rules){suite, &claims->scope.challenge, m.rules}, m.n, m.tests, m.verdicts, m.outputs, error);
  if (status == MR3D_OK) status = check_reasons(&m, error);
  if (status == MR3D_OK) status = settle_waivers(&m, unusable, error);
  if (status == MR3D_OK) status = count(&m, error);
  if (status == MR3D_OK) {
    conclude(&m, unusable);
    status = make_statement(&m, statement, error);
  }
  mr3d_rules_close(&m.rules);
  free(m.tests), free(m.verdicts), free(m.outputs), free(m.waived);
  return status;
}

mr3d_status mr3d_statement_make(const mr3d_suite *suite, const mr3d_claims *claims, char **payload, mr3d_conclusion *c, mr3d_error *error) {
  cJSON *statement = NULL;
  mr3d_status status = make(suite, claims, NULL, &statement, c, error);
  if (status == MR3D_OK) *payload = cJSON_PrintUnformatted(statement);
  cJSON_Delete(statement);
  return status;
}

/* ---- reading ---- */

static const cJSON *item_of(const cJSON *object, const char *key) { return cJSON_GetObjectItemCaseSensitive(object, key); }

static mr3d_status take_text(const cJSON *object, const char *key, size_t size, char *to, mr3d_error *error) {
  const cJSON *item = item_of(object, key);
  if (!cJSON_IsString(item) || strlen(item->valuestring) >= size) return mr3d_fail(error, MR3D_FORMAT, "%s: expected a text of less than %zu bytes", key, size);
  snprintf(to, size, "%s", item->valuestring);
  return MR3D_OK;
}

/** Objects like these have texts alone, but for the lists named. */
static mr3d_status check_texts(const cJSON *object, const char *place, const char *const keys[], const char *but, mr3d_error *error) {
  mr3d_status status = mr3d_text_keys(object, place, keys, error);
  if (status != MR3D_OK) return status;
  for (const cJSON *item = object->child; item; item = item->next)
    if (strcmp(item->string, but) != 0 && !cJSON_IsString(item)) return mr3d_fail(error, MR3D_FORMAT, "%s: \"%s\" must be a text", place, item->string);
  return MR3D_OK;
}

static mr3d_status check_list(const cJSON *list, const char *place, mr3d_error *error) {
  const cJSON *item;
  if (!cJSON_IsArray(list)) return mr3d_fail(error, MR3D_FORMAT, "%s: expected a list of texts", place);
  cJSON_ArrayForEach (item, list)
    if (!cJSON_IsString(item)) return mr3d_fail(error, MR3D_FORMAT, "%s: expected a list of texts", place);
  return MR3D_OK;
}

static mr3d_status check_subject(const cJSON *files, mr3d_error *error) {
  static const char *const keys[] = {"name", "digest", NULL}, *const digest_keys[] = {"sha256", NULL};
  const cJSON *file, *other;
  if (!cJSON_IsArray(files) || !files->child) return mr3d_fail(error, MR3D_FORMAT, "subject: expected a list of at least one file");
  cJSON_ArrayForEach (file, files) {
    mr3d_status status = mr3d_text_keys(file, "subject", keys, error);
    if (status == MR3D_OK) status = mr3d_text_keys(item_of(file, "digest"), "subject: digest", digest_keys, error);
    if (status != MR3D_OK) return status;
    const cJSON *sha256 = item_of(item_of(file, "digest"), "sha256");
    if (!cJSON_IsString(item_of(file, "name")) || !cJSON_IsString(sha256) || !mr3d_text_is_digest(sha256->valuestring))
      return mr3d_fail(error, MR3D_FORMAT, "subject: a file needs a name and a sha256 of 64 hexadecimal digits");
    for (other = files->child; other != file; other = other->next)
      if (strcmp(item_of(other, "name")->valuestring, item_of(file, "name")->valuestring) == 0)
        return mr3d_fail(error, MR3D_INVALID, "subject: \"%.200s\" stands twice", item_of(file, "name")->valuestring);
  }
  return MR3D_OK;
}

static mr3d_status check_machines(const cJSON *machines, mr3d_error *error) {
  static const char *const keys[] = {"processor", "system", "compiler", "driver", "program", "isolation", NULL}, *const isolation_keys[] = {"asked", "active", "missing", NULL};
  const cJSON *machine;
  if (!cJSON_IsArray(machines) || !machines->child) return mr3d_fail(error, MR3D_FORMAT, "machines: expected a list of at least one");
  cJSON_ArrayForEach (machine, machines) {
    const cJSON *isolation = item_of(machine, "isolation");
    mr3d_status status = check_texts(machine, "machines", keys, "isolation", error);
    if (status == MR3D_OK) status = mr3d_text_keys(isolation, "isolation", isolation_keys, error);
    if (status == MR3D_OK && !cJSON_IsBool(item_of(isolation, "asked"))) status = mr3d_fail(error, MR3D_FORMAT, "isolation: asked must be true or false");
    if (status == MR3D_OK) status = check_list(item_of(isolation, "active"), "isolation: active", error);
    if (status == MR3D_OK) status = check_list(item_of(isolation, "missing"), "isolation: missing", error);
    if (status == MR3D_OK && !mr3d_text_is_digest(item_of(machine, "program")->valuestring)) status = mr3d_fail(error, MR3D_FORMAT, "machines: program must be a SHA-256");
    if (status != MR3D_OK) return status;
  }
  return MR3D_OK;
}

static mr3d_status take_scope(const cJSON *extension, mr3d_scope *scope, mr3d_error *error) {
  static const char *const keys[] = {"name", "version", "tiers", "ops", "proves", "doesNotProve", NULL}, *const challenge_keys[] = {"nonce", "derivation", NULL};
  const cJSON *profile = item_of(extension, "profile"), *challenge = item_of(extension, "challenge"), *tiers = item_of(profile, "tiers"), *ops = item_of(profile, "ops"), *item;
  char name[32], nonce[2 * MR3D_MOST_NONCE + 1], same[2 * MR3D_MOST_NONCE + 1];
  mr3d_status status = mr3d_text_keys(profile, "profile", keys, error);
  if (status == MR3D_OK) status = take_text(profile, "name", sizeof name, name, error);
  if (status == MR3D_OK && mr3d_profile_named(name, &scope->profile, error) != MR3D_OK) status = mr3d_fail_in(error, "profile: name");
  if (status == MR3D_OK) status = check_list(tiers, "profile: tiers", error);
  if (status != MR3D_OK) return status;
  cJSON_ArrayForEach (item, tiers) {
    const mr3d_tier tier = mr3d_tier_named(item->valuestring);
    if (tier == MR3D_N_TIERS || scope->tiers >> tier) return mr3d_fail(error, MR3D_INVALID, "profile: tiers: \"%.20s\" is none, stands twice or is out of order", item->valuestring);
    scope->tiers |= 1u << tier;
  }
  if (!scope->tiers) return mr3d_fail(error, MR3D_INVALID, "profile: tiers: there is none");
  if (!cJSON_IsNull(ops) && !cJSON_IsString(ops)) return mr3d_fail(error, MR3D_FORMAT, "profile: ops must be a text or null");
  if (cJSON_IsString(ops)) scope->ops = strdup(ops->valuestring);
  status = mr3d_text_keys(challenge, "challenge", challenge_keys, error);
  if (status == MR3D_OK) status = take_text(challenge, "nonce", sizeof nonce, nonce, error);
  if (status == MR3D_OK && mr3d_challenge_parse(nonce, &scope->challenge, error) != MR3D_OK) status = mr3d_fail_in(error, "challenge: nonce");
  if (status != MR3D_OK) return status;
  mr3d_challenge_print(&scope->challenge, same);
  return strcmp(same, nonce) == 0 ? MR3D_OK : mr3d_fail(error, MR3D_FORMAT, "challenge: the nonce must be in lower case");
}

static mr3d_status take_shard(const cJSON *item, mr3d_shard *shard, mr3d_error *error) {
  static const char *const keys[] = {"index", "of", NULL};
  int64_t index = 0, of = 0;
  if (cJSON_IsNull(item)) return MR3D_OK;
  mr3d_status status = mr3d_text_keys(item, "shard", keys, error);
  if (status != MR3D_OK) return status;
  if (!mr3d_json_is_count(item_of(item, "index"), &index) || !mr3d_json_is_count(item_of(item, "of"), &of) || index < 1 || of < index || of > 1024)
    return mr3d_fail(error, MR3D_INVALID, "shard: expected an index of 1 to \"of\", and of at most 1024");
  *shard = (mr3d_shard){(int)index, (int)of};
  return MR3D_OK;
}

static mr3d_status take_leaves(const cJSON *results, char **leaves, mr3d_error *error) {
  static const char *const keys[] = {"root", "encoding", "leaves", NULL};
  char *packed = NULL, root[MR3D_HEX_DIGEST];
  void *bytes = NULL;
  size_t size = 0, n = 0;
  mr3d_status status = check_texts(results, "results", keys, "", error);
  if (status == MR3D_OK && strcmp(item_of(results, "encoding")->valuestring, "gzip+base64") != 0) status = mr3d_fail(error, MR3D_FORMAT, "results: encoding must be gzip+base64");
  if (status == MR3D_OK) status = mr3d_text_from_base64(item_of(results, "leaves"), "results: leaves", &packed, &size, error);
  if (status == MR3D_OK && mr3d_gunzip(packed, size, MOST_LEAVES, &bytes, &n, error) != MR3D_OK) status = mr3d_fail_in(error, "results: leaves");
  free(packed);
  if (status != MR3D_OK) return status;
  char *text = mr3d_allocate((long long)n + 1, 1);
  memcpy(text, bytes, n);
  free(bytes);
  size_t plain = 0;
  while (plain < n && (text[plain] == '\n' || (text[plain] >= ' ' && text[plain] <= '~'))) plain++;
  if (plain < n || (n > 0 && text[n - 1] != '\n')) status = mr3d_fail(error, MR3D_FORMAT, "results: leaves must be lines of printable ASCII, each ended");
  else {
    mr3d_merkle_of_lines(text, root);
    if (strcmp(item_of(results, "root")->valuestring, root) != 0)
      status = mr3d_fail(error, MR3D_INVALID, "results: the Merkle root of the leaves is %.16s..., the file says %.16s...: leaves or root were changed", root, item_of(results, "root")->valuestring);
  }
  if (status == MR3D_OK) *leaves = text;
  else free(text);
  return status;
}

static cJSON *taken(const cJSON *object, const char *key) {
  const cJSON *item = item_of(object, key);
  return cJSON_IsNull(item) ? NULL : cJSON_Duplicate(item, true);
}

/** What was hashed is one of what can be for that kind of backend. */
static mr3d_status check_hashed(const cJSON *backend, mr3d_error *error) {
  const char *hashed = item_of(backend, "hashed")->valuestring, *due = mr3d_subject_hashed(item_of(backend, "spec")->valuestring, NULL);
  return strcmp(hashed, due) == 0 || strcmp(hashed, MR3D_HASHED_FILES) == 0
             ? MR3D_OK
             : mr3d_fail(error, MR3D_INVALID, "backend: hashed is \"%.60s\"; of such a backend it is \"%s\" or \"%s\"", hashed, due, MR3D_HASHED_FILES);
}

static mr3d_status take_extension(const cJSON *extension, mr3d_claims *claims, mr3d_error *error) {
  static const char *const keys[] = {"kind", "verdict", "issued", "suite", "profile", "challenge", "backend", "machines", "counts", "results", "reasons", "unsteady", "waivers", "shard", "parts", NULL},
                    *const suite_keys[] = {"version", "commit", NULL}, *const backend_keys[] = {"spec", "name", "version", "keeps", "hashed", NULL};
  const cJSON *suite = item_of(extension, "suite"), *version, *parts = item_of(extension, "parts"), *item;
  mr3d_status status = mr3d_text_keys(extension, MR3D_EXTENSION, keys, error);
  if (status == MR3D_OK) status = check_texts(suite, "suite", suite_keys, "", error);
  if (status != MR3D_OK) return status;
  version = item_of(suite, "version");
  if (strcmp(version->valuestring, MR3D_VERSION) != 0)
    return mr3d_fail(error, MR3D_INVALID, "suite: this was judged by mr3d %.40s, and this is mr3d %s: check it with the version that made it", version->valuestring, MR3D_VERSION);
  status = take_text(extension, "issued", sizeof claims->issued, claims->issued, error);
  if (status == MR3D_OK && !mr3d_text_is_date(claims->issued, true)) status = mr3d_fail(error, MR3D_FORMAT, "issued: expected a moment as 2026-11-29T06:00:00Z");
  if (status == MR3D_OK) status = take_text(suite, "commit", sizeof claims->commit, claims->commit, error);
  if (status == MR3D_OK) status = take_scope(extension, &claims->scope, error);
  if (status == MR3D_OK) status = check_texts(item_of(extension, "backend"), "backend", backend_keys, "keeps", error);
  if (status == MR3D_OK) status = check_list(item_of(item_of(extension, "backend"), "keeps"), "backend: keeps", error);
  if (status == MR3D_OK) status = check_hashed(item_of(extension, "backend"), error);
  if (status == MR3D_OK) status = check_machines(item_of(extension, "machines"), error);
  if (status == MR3D_OK) status = take_shard(item_of(extension, "shard"), &claims->scope.shard, error);
  if (status == MR3D_OK && (!cJSON_IsArray(item_of(extension, "reasons")) || !cJSON_IsArray(item_of(extension, "unsteady"))))
    status = mr3d_fail(error, MR3D_FORMAT, "reasons and unsteady must be lists");
  if (status == MR3D_OK && !cJSON_IsNull(parts)) status = check_list(parts, "parts", error);
  if (status == MR3D_OK && cJSON_IsArray(parts))
    cJSON_ArrayForEach (item, parts)
      if (!mr3d_text_is_digest(item->valuestring)) status = mr3d_fail(error, MR3D_FORMAT, "parts: expected a list of SHA-256");
  if (status == MR3D_OK && cJSON_GetArraySize(item_of(extension, "machines")) != (cJSON_IsArray(parts) ? cJSON_GetArraySize(parts) : 1))
    status = mr3d_fail(error, MR3D_INVALID, "machines: expected one for each of parts, or a single one where there are none");
  if (status == MR3D_OK) status = take_leaves(item_of(extension, "results"), &claims->leaves, error);
  if (status != MR3D_OK) return status;
  claims->backend = taken(extension, "backend");
  claims->machines = taken(extension, "machines");
  claims->reasons = taken(extension, "reasons");
  claims->unsteady = taken(extension, "unsteady");
  claims->waivers = taken(extension, "waivers");
  claims->parts = taken(extension, "parts");
  return MR3D_OK;
}

mr3d_status mr3d_statement_read(const char *payload, size_t size, mr3d_claims *out, cJSON **statement, mr3d_error *error) {
  static const char *const keys[] = {"_type", "subject", "predicateType", "predicate", NULL},
                    *const predicate_keys[] = {"result", "configuration", "passedTests", "warnedTests", "failedTests", MR3D_EXTENSION, NULL};
  cJSON *root = NULL;
  mr3d_claims claims = {0};
  mr3d_status status = mr3d_json_parse(payload, size, MR3D_JSON_ANY_NUMBER, &root, error);
  if (status != MR3D_OK) return mr3d_fail_in(error, "statement");
  const cJSON *predicate = item_of(root, "predicate"), *type = item_of(root, "predicateType");
  if (!mr3d_text_is_plain(root)) status = mr3d_fail(error, MR3D_FORMAT, "statement: a text holds control characters");
  if (status == MR3D_OK) status = mr3d_text_keys(root, "statement", keys, error);
  if (status == MR3D_OK && (!cJSON_IsString(type) || strcmp(type->valuestring, MR3D_PREDICATE_TYPE) != 0))
    status = mr3d_fail(error, MR3D_INVALID, "statement: predicateType must be %s", MR3D_PREDICATE_TYPE);
  if (status == MR3D_OK) status = mr3d_text_keys(predicate, "predicate", predicate_keys, error);
  if (status == MR3D_OK) status = check_subject(item_of(root, "subject"), error);
  if (status == MR3D_OK) status = take_extension(item_of(predicate, MR3D_EXTENSION), &claims, error);
  if (status == MR3D_OK) {
    claims.files = taken(root, "subject");
    *out = claims;
    if (statement) *statement = root;
    else cJSON_Delete(root);
    return MR3D_OK;
  }
  mr3d_claims_clear(&claims);
  cJSON_Delete(root);
  return status;
}

/* ---- checking ---- */

static void say_value(const cJSON *item, char to[120]) {
  char *text = item ? cJSON_PrintUnformatted(item) : NULL;
  snprintf(to, 120, "%.100s%s", text ? text : "nothing", text && strlen(text) > 100 ? "..." : "");
  cJSON_free(text);
}

/** The first value in which a statement differs from what follows. */
static mr3d_status compare(const cJSON *says, const cJSON *follows, const char *path, mr3d_error *error) {
  char longer[300], a[120], b[120];
  if (cJSON_IsObject(says) && cJSON_IsObject(follows)) {
    const cJSON *x = says->child, *y = follows->child;
    for (; x && y; x = x->next, y = y->next) {
      if (strcmp(x->string, y->string) != 0) return mr3d_fail(error, MR3D_INVALID, "%s: \"%.60s\" is not in its place; \"%s\" is due", *path ? path : "statement", x->string, y->string);
      snprintf(longer, sizeof longer, "%.200s%s%.60s", strcmp(x->string, "predicate") == 0 || strcmp(x->string, MR3D_EXTENSION) == 0 ? "" : path, *path ? "." : "", x->string);
      const bool is_level = strcmp(x->string, "predicate") == 0 || strcmp(x->string, MR3D_EXTENSION) == 0;
      mr3d_status status = compare(x, y, is_level ? "" : longer, error);
      if (status != MR3D_OK) return status;
    }
    if (x || y) return mr3d_fail(error, MR3D_INVALID, "%s: \"%.60s\" %s", *path ? path : "statement", x ? x->string : y->string, x ? "is unknown" : "is missing");
    return MR3D_OK;
  }
  if (cJSON_IsArray(says) && cJSON_IsArray(follows)) {
    const cJSON *x = says->child, *y = follows->child;
    for (int i = 0; x && y; x = x->next, y = y->next, i++) {
      snprintf(longer, sizeof longer, "%.200s[%d]", path, i);
      mr3d_status status = compare(x, y, longer, error);
      if (status != MR3D_OK) return status;
    }
    if (!x && !y) return MR3D_OK;
    say_value(x ? x : y, a);
    return mr3d_fail(error, MR3D_INVALID, "%s: %s is %s", path, a, x ? "too many" : "missing");
  }
  if (cJSON_Compare(says, follows, true)) return MR3D_OK;
  say_value(says, a), say_value(follows, b);
  return mr3d_fail(error, MR3D_INVALID, "%s: the file says %s, but from its results and this suite follows %s", path, a, b);
}

mr3d_status mr3d_statement_check(const mr3d_suite *suite, const char *payload, size_t size, mr3d_claims *out, mr3d_conclusion *c, mr3d_error *error) {
  mr3d_claims claims;
  cJSON *says = NULL, *follows = NULL;
  mr3d_status status = mr3d_statement_read(payload, size, &claims, &says, error);
  if (status != MR3D_OK) return status;
  const char *packed = item_of(item_of(item_of(item_of(says, "predicate"), MR3D_EXTENSION), "results"), "leaves")->valuestring;
  status = make(suite, &claims, packed, &follows, c, error);
  if (status == MR3D_OK) {
    status = compare(says, follows, "", error);
    if (status != MR3D_OK && error && strncmp(error->message, "configuration", 13) == 0) {
      const mr3d_error first = *error;
      mr3d_fail(error, status, "%.700s: it was judged by another golden set, case list or profile, that of commit %.16s of the suite; here is commit %.16s: check it with that one", first.message,
                claims.commit, mr3d_suite_commit());
    }
  }
  /* What is equal as JSON must be so as bytes: one statement, one text. */
  char *again = status == MR3D_OK ? cJSON_PrintUnformatted(follows) : NULL;
  if (status == MR3D_OK && (strlen(again) != size || memcmp(again, payload, size) != 0))
    status = mr3d_fail(error, MR3D_FORMAT, "statement: its text is not as mr3d writes it (blanks, numbers or escapes)");
  cJSON_free(again);
  cJSON_Delete(says);
  cJSON_Delete(follows);
  if (status == MR3D_OK) *out = claims;
  else mr3d_claims_clear(&claims);
  return status;
}
