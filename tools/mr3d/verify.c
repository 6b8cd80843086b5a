/** mr3d verify: checks a certificate, offline; and, where the backend is at hand, some of its results. */
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "command.h"
#include "issue.h"
#include "report.h"
#include "signing.h"
#include "subject.h"
#include "text.h"

/** What is checked, and what was found wrong. */
struct check {
  const char *path;
  mr3d_suite *suite;
  mr3d_envelope *envelope;
  mr3d_claims claims;
  mr3d_conclusion c;
  bool read; /* claims and c hold something */
  int n_keys, n_rotations, n_wrong;
  mr3d_public_key keys[MR3D_MAX_KEYS];
  struct { mr3d_public_key from, to; } rotations[MR3D_MAX_KEYS];
};

static void refuse(struct check *check, const char *format, ...) MR3D_PRINTF(2, 3);
static void refuse(struct check *check, const char *format, ...) {
  va_list arguments;
  if (check->n_wrong++ == 0) printf("REFUSED %s\n", check->path);
  fputs("  ", stdout);
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  putchar('\n');
}

/* ---- signatures ---- */

static mr3d_status load_rotations(struct check *check, const char *list, mr3d_error *error) {
  for (const char *at = list; at && *at; at += strspn(at, ",")) {
    char path[4096];
    mr3d_envelope *envelope = NULL;
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, ","), at);
    if (check->n_rotations == MR3D_MAX_KEYS) return mr3d_fail(error, MR3D_INVALID, "more than %d rotations", MR3D_MAX_KEYS);
    mr3d_status status = mr3d_envelope_load(path, &envelope, error);
    if (status == MR3D_OK && mr3d_rotation_read(envelope, &check->rotations[check->n_rotations].from, &check->rotations[check->n_rotations].to, error) != MR3D_OK)
      status = mr3d_fail_in(error, "%s", path);
    mr3d_envelope_free(&envelope);
    if (status != MR3D_OK) return status;
    check->n_rotations++;
    at += strcspn(at, ",");
  }
  return MR3D_OK;
}

/** A key, and all that succeed it, one after the other. Returns how many. */
static int successors(const struct check *check, const mr3d_public_key *key, mr3d_public_key chain[MR3D_MAX_KEYS + 1]) {
  int n = 0;
  chain[n++] = *key;
  for (int k = 0; k < n; k++)
    for (int r = 0; r < check->n_rotations && n <= MR3D_MAX_KEYS; r++) {
      bool known = strcmp(check->rotations[r].from.id, chain[k].id) != 0;
      for (int i = 0; i < n && !known; i++) known = strcmp(chain[i].id, check->rotations[r].to.id) == 0;
      if (!known) chain[n++] = check->rotations[r].to;
    }
  return n;
}

/** Each key given, or one that succeeds it, must have signed. */
static void check_signatures(struct check *check) {
  bool checked[MR3D_MAX_SIGNATURES] = {false};
  for (int k = 0; k < check->n_keys; k++) {
    mr3d_public_key chain[MR3D_MAX_KEYS + 1];
    mr3d_error error = {0}, first = {0};
    const int n = successors(check, &check->keys[k], chain);
    mr3d_status status = MR3D_UNSUPPORTED;
    for (int i = 0; i < n && status == MR3D_UNSUPPORTED; i++) {
      status = mr3d_envelope_check(check->envelope, &chain[i], &error);
      if (i == 0) first = error;
      for (int s = 0; s < check->envelope->n_signatures; s++) checked[s] = checked[s] || strcmp(check->envelope->signatures[s].key_id, chain[i].id) == 0;
    }
    if (status == MR3D_UNSUPPORTED) refuse(check, "%s", first.message);
    else if (status != MR3D_OK) refuse(check, "%s", error.message);
  }
  for (int s = 0; s < check->envelope->n_signatures; s++)
    if (!checked[s]) printf("note: the signature of key %.16s... was not checked; give its public key with --key\n", check->envelope->signatures[s].key_id);
}

/* ---- the statement ---- */

static void check_time(struct check *check) {
  struct tm issued = {0};
  strptime(check->claims.issued, "%Y-%m-%dT%H:%M:%SZ", &issued);
  if (timegm(&issued) > time(NULL) + 86400) refuse(check, "issued: %s lies in the future", check->claims.issued);
}

static void check_waivers(struct check *check, const char *waiver_keys) {
  mr3d_error error = {0};
  mr3d_envelope *envelope = NULL;
  mr3d_waivers *waivers = NULL;
  mr3d_public_key known[MR3D_MAX_KEYS];
  char now[32], what[1024];
  int n = 0;
  if (!check->claims.waivers) return;
  mr3d_text_now(now);
  now[10] = '\0';
  char *text = cJSON_PrintUnformatted(check->claims.waivers);
  mr3d_status status = mr3d_load_keys(waiver_keys, &n, known, &error);
  if (status == MR3D_OK) status = mr3d_envelope_parse(text, strlen(text), &envelope, &error);
  cJSON_free(text);
  if (status == MR3D_OK && n > 0) status = mr3d_signed_by_one(envelope, n, known, &error);
  else if (status == MR3D_OK) status = mr3d_signed_by_one(envelope, check->n_keys, check->keys, &error);
  if (status == MR3D_OK) status = mr3d_waivers_read(envelope, now, &waivers, &error);
  if (status != MR3D_OK) refuse(check, "waivers: %s", error.message);
  for (int i = 0; waivers && i < mr3d_waivers_count(waivers); i++) {
    mr3d_waivers_say(waivers, i, what, sizeof what);
    printf("waived: %s\n", what);
  }
  mr3d_waivers_free(&waivers);
  mr3d_envelope_free(&envelope);
}

/** What the caller asks for beyond a certificate that holds. */
static void check_wishes(struct check *check, const char *nonce, const char *profile, uint32_t tiers, const char *ops, bool no_waivers) {
  mr3d_challenge wanted;
  mr3d_error error = {0};
  const mr3d_scope *scope = &check->claims.scope;
  if (nonce && mr3d_challenge_parse(nonce, &wanted, &error) != MR3D_OK) refuse(check, "--nonce: %s", error.message);
  else if (nonce && (wanted.n_bytes != scope->challenge.n_bytes || memcmp(wanted.nonce, scope->challenge.nonce, (size_t)wanted.n_bytes) != 0))
    refuse(check, "challenge: it answers another nonce than yours: this is an old certificate, or somebody else's");
  if (!nonce) printf("note: give --nonce, the number that you chose; else this may answer an old challenge, whose inputs were known\n");
  if (profile && strcmp(profile, scope->profile->name) != 0) refuse(check, "profile: it is about %s, not %s", scope->profile->name, profile);
  if (scope->ops && (!ops || strcmp(ops, scope->ops) != 0))
    refuse(check, "profile: it is narrowed to cases that only ask %s; give --op %s if that is what you want", scope->ops, scope->ops);
  if (no_waivers && check->c.waived) refuse(check, "waivers: it needs %d", check->c.n_waivers);
  if (tiers & ~scope->tiers) refuse(check, "profile: it is not about all of the tiers that you ask for");
}

/* ---- replay ---- */

struct pick {
  uint64_t draw;
  int test;
};

static int by_draw(const void *a, const void *b) {
  const uint64_t x = ((const struct pick *)a)->draw, y = ((const struct pick *)b)->draw;
  return (x > y) - (x < y);
}

/** In the order of the certificate: both are in one array of tests. */
static int by_place(const void *a, const void *b) { return ((const struct pick *)a)->test - ((const struct pick *)b)->test; }

/** Some of the certificate's tests, drawn by a nonce of the verifier's; those asked again cannot be alone. */
static int pick_tests(const mr3d_challenge *own, int n, const mr3d_test tests[], int wanted, mr3d_test picked[]) {
  struct pick *picks = mr3d_allocate(n, sizeof *picks);
  int n_picks = 0;
  for (int i = 0; i < n; i++) {
    char name[MR3D_TEST_NAME];
    if (tests[i].variant != MR3D_AGAIN) picks[n_picks++] = (struct pick){mr3d_challenge_draw(own, "replay", mr3d_test_name(&tests[i], name), ""), i};
  }
  qsort(picks, (size_t)n_picks, sizeof *picks, by_draw);
  if (wanted > n_picks) wanted = n_picks;
  qsort(picks, (size_t)wanted, sizeof *picks, by_place);
  for (int i = 0; i < wanted; i++) picked[i] = tests[picks[i].test];
  free(picks);
  return wanted;
}

/** A recorded leaf that begins with a test's name. */
static const char *leaf_of(const char *leaves, const char *name) {
  const size_t n = strlen(name);
  for (const char *line = leaves; *line; line += mr3d_leaf_length(line) + 1)
    if (strncmp(line, name, n) == 0 && line[n] == ' ') return line;
  return NULL;
}

static void compare_leaves(struct check *check, const mr3d_run *run, int n, const mr3d_test picked[], bool other_machine) {
  char *now = mr3d_leaves_print(run, n, picked), name[MR3D_TEST_NAME];
  int same = 0, near = 0;
  for (int i = 0; i < n; i++) {
    mr3d_test_name(&picked[i], name);
    const char *was = leaf_of(check->claims.leaves, name), *is = leaf_of(now, name);
    if (!was || !is) {
      refuse(check, "replay: %s was not judged again", name);
      continue;
    }
    const size_t length = mr3d_leaf_length(is), verdict = strlen(name) + strcspn(is + strlen(name), "|\n");
    if (length == mr3d_leaf_length(was) && memcmp(was, is, length) == 0) same++;
    else if (strncmp(was, is, verdict) != 0 || was[verdict] != is[verdict]) refuse(check, "replay: %s: recorded%.*s, now%.*s", name, (int)strcspn(was + strlen(name), "|\n"), was + strlen(name), (int)(verdict - strlen(name)), is + strlen(name));
    else if (other_machine) near++;
    else refuse(check, "replay: %s: verdict alike, but not the numbers: recorded %.120s; now %.120s", name, was + verdict, is + verdict);
  }
  printf("replayed %d of the tests: %d with the recorded numbers, bit for bit%s\n", n, same, near ? "; others with other numbers and the same verdict" : "");
  free(now);
}

static mr3d_status replay(struct check *check, mr3d_run_options *options, const char *more_files, int wanted, const char *picks, bool other_machine, mr3d_error *error) {
  mr3d_challenge own = {.n_bytes = 32};
  char hex[2 * MR3D_MOST_NONCE + 1];
  randombytes_buf(own.nonce, 32);
  if (picks && mr3d_challenge_parse(picks, &own, error) != MR3D_OK) return mr3d_fail_in(error, "--picks");
  mr3d_test *tests = NULL, *picked = NULL;
  cJSON *files = NULL;
  mr3d_run *run = NULL;
  int n_tests = 0;
  mr3d_status status = mr3d_scope_tests(&check->claims.scope, check->suite, &tests, &n_tests, error);
  if (status == MR3D_OK) status = mr3d_subject_files(options->backend, more_files, &files, error);
  const cJSON *file, *known;
  cJSON_ArrayForEach (file, files) {
    bool found = false;
    cJSON_ArrayForEach (known, check->claims.files)
      found = found || cJSON_Compare(cJSON_GetObjectItemCaseSensitive(file, "digest"), cJSON_GetObjectItemCaseSensitive(known, "digest"), true);
    if (!found) refuse(check, "replay: %s is none of the files that were certified", cJSON_GetObjectItemCaseSensitive(file, "name")->valuestring);
  }
  cJSON_Delete(files);
  if (status == MR3D_OK) {
    picked = mr3d_allocate(n_tests, sizeof *picked);
    const int n = pick_tests(&own, n_tests, tests, wanted, picked);
    mr3d_wanted_tests wish = {n, picked};
    options->challenge = &check->claims.scope.challenge;
    options->selection.tiers = check->claims.scope.tiers;
    options->wanted = mr3d_is_wanted, options->wanted_user = &wish;
    status = mr3d_run_suite(options, NULL, NULL, &run, error);
    mr3d_challenge_print(&own, hex);
    if (status == MR3D_OK) printf("replayed what --picks %s draws\n", hex);
    if (status == MR3D_OK) compare_leaves(check, run, n, picked, other_machine);
    if (status == MR3D_OK && run->failed + run->broken) mr3d_report_text(run, stdout, true, false);
  }
  mr3d_run_free(&run);
  free(picked);
  free(tests);
  return status;
}

/* ---- telling ---- */

static void tell(const struct check *check) {
  const mr3d_claims *claims = &check->claims;
  const mr3d_conclusion *c = &check->c;
  char scope[400];
  mr3d_scope_say(&claims->scope, scope, sizeof scope);
  const cJSON *item;
  printf("%s of %s: %s\n", mr3d_kind_name(c->kind), scope, c->verdict);
  printf("  backend %s (%s %s)\n", cJSON_GetObjectItemCaseSensitive(claims->backend, "spec")->valuestring, cJSON_GetObjectItemCaseSensitive(claims->backend, "name")->valuestring,
         cJSON_GetObjectItemCaseSensitive(claims->backend, "version")->valuestring);
  cJSON_ArrayForEach (item, claims->files)
    printf("  file %s sha256 %s\n", cJSON_GetObjectItemCaseSensitive(item, "name")->valuestring, cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(item, "digest"), "sha256")->valuestring);
  printf("  issued %s; %d tests: %d passed, %d failed, %d skipped, %d waived; %d asked again in another order\n", claims->issued, c->n_tests, c->passed, c->failed, c->skipped, c->waived, c->again);
  cJSON_ArrayForEach (item, claims->machines)
    printf("  on %s, %s; compiler %s; driver %s; isolation %s\n", cJSON_GetObjectItemCaseSensitive(item, "processor")->valuestring, cJSON_GetObjectItemCaseSensitive(item, "system")->valuestring,
           cJSON_GetObjectItemCaseSensitive(item, "compiler")->valuestring, cJSON_GetObjectItemCaseSensitive(item, "driver")->valuestring,
           cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(item, "isolation"), "asked")) ? "on" : "OFF (--no-isolation)");
  int shown = 0;
  cJSON_ArrayForEach (item, claims->reasons)
    if (shown++ < 8) printf("  not passed: %s: %.300s\n", item->child->valuestring, item->child->next->valuestring);
  if (shown > 8) printf("  and %d more\n", shown - 8);
  if (strcmp(claims->commit, mr3d_suite_commit()) != 0) printf("note: it was judged by commit %.16s of the suite, this is %.16s\n", claims->commit, mr3d_suite_commit());
  if (c->kind != MR3D_CERTIFICATE) return;
  char *proves = mr3d_scope_proves(&claims->scope);
  printf("It proves: %s.\nWhat it does not prove stands in its profile.doesNotProve and docs/certificate.md.\n", proves);
  free(proves);
}

int mr3d_command_verify(int argc, char **argv) {
  struct check check = {0};
  mr3d_run_options options = {0};
  const char *keys = NULL, *rotations = NULL, *waiver_keys = NULL, *nonce = NULL, *profile = NULL, *ops = NULL, *picks = NULL, *more_files = NULL, *golden = NULL;
  uint32_t tiers = 0;
  int64_t wanted = 0, threads = 0;
  bool other_machine = false, no_waivers = false;
  const mr3d_option table[] = {
      {"--key", "LIST", MR3D_OPTION_TEXT, &keys, "public keys that must all have signed (needed)"},
      {"--nonce", "HEX", MR3D_OPTION_TEXT, &nonce, "the number that you chose: a certificate that answers another is refused"},
      {"--profile", "NAME", MR3D_OPTION_TEXT, &profile, "refuse a certificate of another profile"},
      {"--tier", "LIST", MR3D_OPTION_TIERS, &tiers, "refuse one that is not about these tiers"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &ops, "take one that was narrowed to these operators, which is refused else"},
      {"--no-waivers", NULL, MR3D_OPTION_FLAG, &no_waivers, "refuse one that conforms with waivers only"},
      {"--rotations", "LIST", MR3D_OPTION_TEXT, &rotations, "files of mr3d keygen --replaces: a key's successor may have signed in its place"},
      {"--waiver-key", "LIST", MR3D_OPTION_TEXT, &waiver_keys, "public keys of those who may waive (default: those of --key)"},
      {"--replay", "K", MR3D_OPTION_COUNT, &wanted, "judge K tests again and compare with the recorded numbers"},
      {"--picks", "HEX", MR3D_OPTION_TEXT, &picks, "for --replay: a nonce of your own that draws which (default: drawn now, and printed)"},
      {"--backend", "SPEC", MR3D_OPTION_TEXT, &options.backend, "for --replay: the backend, as in mr3d check"},
      {"--files", "LIST", MR3D_OPTION_TEXT, &more_files, "for --replay: further files of it"},
      {"--other-machine", NULL, MR3D_OPTION_FLAG, &other_machine, "for --replay: numbers may differ from the recorded ones, verdicts may not"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for --replay (default: all processors)"},
      {"--timeout", "SECONDS", MR3D_OPTION_SECONDS, &options.timeout, "for --replay, for one request"},
      {"--no-isolation", NULL, MR3D_OPTION_FLAG, &options.no_isolation, "for --replay, as in mr3d check"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d verify CERTIFICATE --key LIST [OPTION ...]",
                            "Checks a certificate offline: signatures, form, Merkle roots, golden set and case list against those installed here, the verdict from the recorded numbers under this\n"
                            "suite's limits. Exit status: 0 a certificate that holds, 2 refused, or a report of failure or a part, 1 could not check.\n",
                            1, 1, "a certificate is missing: mr3d verify certificate.json --key vendor.key.pub"};
  int n = 0, status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  if (!keys) return mr3d_complain("--key is missing: whose signature do you trust?\nUsage: %s", usage.line);
  if (picks && wanted == 0) return mr3d_complain("--picks goes with --replay");
  if ((wanted > 0) != (options.backend != NULL)) return mr3d_complain("--replay and --backend go together: how many tests, and who is to answer them");
  mr3d_error error = {0};
  char golden_dir[4096];
  check.path = argv[0];
  mr3d_status done = sodium_init() < 0 ? mr3d_fail(&error, MR3D_IO, "libsodium cannot start") : mr3d_find_golden(golden, golden_dir, &error);
  if (done == MR3D_OK) done = mr3d_suite_open(golden_dir, NULL, &check.suite, &error);
  if (done == MR3D_OK) done = mr3d_load_keys(keys, &check.n_keys, check.keys, &error);
  if (done == MR3D_OK) done = load_rotations(&check, rotations, &error);
  mr3d_status opened = done == MR3D_OK ? mr3d_envelope_load(argv[0], &check.envelope, &error) : done;
  if (done == MR3D_OK && opened == MR3D_IO) done = opened;
  else if (done == MR3D_OK && opened != MR3D_OK) refuse(&check, "%s", error.message);
  if (check.envelope && strcmp(check.envelope->type, MR3D_STATEMENT_TYPE) != 0) refuse(&check, "envelope: payloadType is %.80s, expected %s", check.envelope->type, MR3D_STATEMENT_TYPE);
  if (check.envelope) check_signatures(&check);
  if (check.envelope && check.n_wrong == 0) {
    check.read = mr3d_statement_check(check.suite, check.envelope->payload, check.envelope->size, &check.claims, &check.c, &error) == MR3D_OK;
    if (!check.read) refuse(&check, "%s", error.message);
  }
  if (check.read) {
    check_time(&check);
    check_waivers(&check, waiver_keys);
    check_wishes(&check, nonce, profile, tiers, ops, no_waivers);
    options.golden_dir = golden_dir;
    options.threads = (int)(threads > 1024 ? 1024 : threads);
    if (wanted > 0 && check.n_wrong == 0) done = replay(&check, &options, more_files, (int)(wanted > 1 << 20 ? 1 << 20 : wanted), picks, other_machine, &error);
    if (done == MR3D_OK && check.n_wrong == 0) tell(&check);
  }
  status = done != MR3D_OK ? mr3d_complain("%s", error.message) : check.n_wrong || check.c.kind != MR3D_CERTIFICATE ? 2 : 0;
  mr3d_claims_clear(&check.claims);
  mr3d_envelope_free(&check.envelope);
  mr3d_suite_close(&check.suite);
  return status;
}
